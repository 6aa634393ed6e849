"""The ONNX Runtime adapter: threads as asked, no session that spins, no fusion that slows."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from deshi.serve.engines.engine import TokenBatch
from deshi.serve.engines.onnxruntime import load


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    """logits = LayerNorm(table[ids] summed over the unmasked tokens + itself), which invites SkipLayerNormalization."""
    folder = tmp_path_factory.mktemp("build")
    table = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
    ones, zeros = np.ones(4, np.float32), np.zeros(4, np.float32)
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["words"]),
        helper.make_node("Cast", ["attention_mask"], ["counted"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["counted", "last"], ["column"]),
        helper.make_node("Mul", ["words", "column"], ["kept"]),
        helper.make_node("Add", ["kept", "words"], ["both"]),
        helper.make_node("LayerNormalization", ["both", "ones", "zeros"], ["normal"]),
        helper.make_node("ReduceMean", ["normal"], ["logits"], axes=[1], keepdims=0),
    ]
    shape = ["rows", "tokens"]
    graph = helper.make_graph(
        nodes,
        "sum",
        [helper.make_tensor_value_info(name, TensorProto.INT64, shape) for name in ("input_ids", "attention_mask")],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["rows", 4])],
        [
            numpy_helper.from_array(value, name)
            for name, value in {"table": table, "ones": ones, "zeros": zeros, "last": np.array([2])}.items()
        ],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "model.onnx"
    )
    return folder, table


def test_it_runs_the_graph(build):
    folder, table = build
    ids = np.array([[1, 2, 3], [4, 5, 0]])
    mask = np.array([[1, 1, 1], [1, 1, 0]])
    both = table[ids].astype(np.float64) * (1 + mask[:, :, None])
    expected = ((both - both.mean(-1, keepdims=True)) / np.sqrt(both.var(-1, keepdims=True) + 1e-5)).mean(1)
    logits = load(folder, threads=1).logits(TokenBatch(input_ids=ids, attention_mask=mask))
    np.testing.assert_allclose(logits, expected, atol=1e-5)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_it_takes_the_threads_it_is_given(build, threads):
    """Counted by the kernel: a session of n threads adds n - 1 to the process, which has another in its thread pool."""
    code = f"""
import os
from pathlib import Path
import onnxruntime
before = len(os.listdir("/proc/self/task"))
from deshi.serve.engines.onnxruntime import load
engine = load(Path({str(build[0])!r}), threads={threads})
print(len(os.listdir("/proc/self/task")) - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert done.stdout.split() == [str(threads - 1)], done.stderr


def test_the_slow_fusion_is_off_and_workers_sleep(build, tmp_path, monkeypatch):
    """Read from the graph that the session runs, which it writes where `optimized_model_filepath` says."""

    class Written(onnxruntime.InferenceSession):
        def __init__(self, path, options, **named):
            options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
            super().__init__(path, options, **named)

    monkeypatch.setattr(onnxruntime, "InferenceSession", Written)
    options = load(build[0], threads=2)._session.get_session_options()
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    operators = {node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node}
    assert "LayerNormalization" in operators
    assert "SkipLayerNormalization" not in operators
