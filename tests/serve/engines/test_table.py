"""The table of engines: a row from outside, the platforms, and the sentence for a runtime that is absent."""

from __future__ import annotations

import dataclasses
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from deshi.serve.classifier import Classifier
from deshi.serve.engines.engine import EngineKind, build_id, engine_of
from deshi.serve.engines.table import ENGINES, engine, platforms


class First:
    """Logit of the first label is 1."""

    def logits(self, batch):
        return np.eye(3, dtype=np.float32)[np.zeros(len(batch.input_ids), int)]


def test_an_engine_from_outside_joins_by_a_row(monkeypatch, tiny):
    kind = EngineKind(name="mine", schemes=("fp32",), load=lambda folder, *, threads: First(), missing=lambda: None)
    monkeypatch.setitem(ENGINES, "mine", kind)
    monkeypatch.setattr("pathlib.Path.is_dir", lambda path: True)
    classifier = Classifier.load(tiny, build="mine-fp32")
    assert np.exp(classifier.log_probabilities(["who"]))[0].argmax() == 0
    assert ("mine", ("fp32",), None) in list(platforms())


def test_every_engine_of_the_house_runs_here():
    rows = {name: (schemes, why) for name, schemes, why in platforms()}
    for name in ("triton", "vllm"):  # of a CUDA device
        schemes, why = rows.pop(name)
        assert {"w4a16", "w8a16", "w8a8"} <= set(schemes)
        assert (why is None) == (torch.cuda.is_available() and find_spec(name) is not None)
    assert rows == {
        "onnxruntime": (("fp32", "w8a8"), None),
        "openvino": (("fp32", "w8a8", "w8a16"), None),
        "torch_eager": (("fp32",), None),
        "static": (("fp32",), None),
        "llamacpp": (("f16", "q8_0", "q4_0"), None),
        "torch_generate": (("fp32", "bf16"), None),
    }
    assert all(name == kind.name for name, kind in ENGINES.items())
    assert all(engine_of(build_id(name, "fp32")) == name for name in ENGINES)


def test_an_absent_runtime_is_refused_in_one_sentence(monkeypatch, tmp_path):
    for name, kind in ENGINES.items():
        module = "torch_eager" if name == "triton" else name
        monkeypatch.setattr(f"deshi.serve.engines.{module}.find_spec", lambda package: None)
        assert "is not installed; pip install" in str(kind.missing())
        with pytest.raises(ValueError, match=f"engine '{name}' cannot run here: .* is not installed"):
            dataclasses.replace(kind).open(tmp_path, threads=1)


def test_an_unknown_engine_is_refused():
    with pytest.raises(ValueError, match="engine 'tensorrt' is not known; use one of onnxruntime"):
        engine("tensorrt")
