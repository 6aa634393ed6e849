"""Candidate folders that are real and tiny: a word-level tokenizer and two builds that know three words."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, pre_tokenizers

from deshi.serve.serving import SHAPE_CLASSES, ServedTarget, Serving

WORDS = ("[UNK]", "who", "where", "when")
LABELS = ("PERSON", "PLACE", "TIME")


def _write_candidate(folder: Path) -> None:
    """Logits: static-fp32 4 times the share of the label's word among the known ones, onnxruntime-fp32 4 a word."""
    model = folder / "model"
    model.mkdir(parents=True)
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(model / "tokenizer.json"))
    (model / "config.json").write_text(json.dumps({"normalize": False}))
    vectors = np.vstack([np.zeros(3), np.eye(3)]).astype(np.float32)
    save_file({"embeddings": vectors}, model / "model.safetensors")
    save_file({"weight": 4 * np.eye(3, dtype=np.float32), "bias": np.zeros(3, np.float32)}, model / "head.safetensors")
    (folder / "engines" / "static-fp32").mkdir(parents=True)
    (folder / "engines" / "static-fp32" / "build.json").write_text("{}")
    _write_onnx(folder / "engines" / "onnxruntime-fp32", 4 * vectors)
    targets = {
        "onprem": ServedTarget(threads=1, builds=dict.fromkeys(SHAPE_CLASSES, "static-fp32")),
        "edge": ServedTarget(threads=1, builds=dict.fromkeys(SHAPE_CLASSES, "onnxruntime-fp32")),
    }
    Serving(name="tiny", labels=LABELS, max_length=8, targets=targets).write(folder)


def _write_onnx(folder: Path, table: np.ndarray) -> None:
    """logits = sum over the tokens of mask * table[id]."""
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["rows"]),
        helper.make_node("Cast", ["attention_mask"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["real", "last"], ["column"]),
        helper.make_node("Mul", ["rows", "column"], ["kept"]),
        helper.make_node("ReduceSum", ["kept", "tokens"], ["logits"], keepdims=0),
    ]
    constants = {"table": table, "last": np.array([2]), "tokens": np.array([1])}
    graph = helper.make_graph(
        nodes,
        "words",
        [helper.make_tensor_value_info(n, TensorProto.INT64, ["b", "t"]) for n in ("input_ids", "attention_mask")],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["b", 3])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    folder.mkdir(parents=True)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.save(model, folder / "model.onnx")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Path:
    """Read-only: copy it before you change it."""
    folder = tmp_path_factory.mktemp("tiny") / "candidate"
    _write_candidate(folder)
    return folder
