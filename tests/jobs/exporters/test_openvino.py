"""OpenVINO builds against the stock torch model; making them asks no server anything."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from deshi.jobs.exporters.openvino import export_openvino
from deshi.serve.encode import Encoder
from deshi.serve.engines import torch_eager
from deshi.serve.engines.openvino import load

TEXTS = ("who was the first", "what is a city", "how many people did the name")


@pytest.mark.parametrize(("scheme", "bound"), [("fp32", 1e-5), ("w8a16", 0.05), ("w8a8", 0.25)])
def test_it_answers_like_the_model(bert, padded, tmp_path, scheme, bound):
    export_openvino(bert / "model", tmp_path, scheme, calibration=TEXTS, max_length=32)
    engine = load(tmp_path, threads=1)
    reference = torch_eager.load(bert / "engines" / "torch_eager-fp32", threads=1)
    encoder = Encoder(bert / "model" / "tokenizer.json", max_length=32)
    of_texts = encoder.pad(encoder.encode(TEXTS))
    # Outside the calibrated ranges w8a8 saturates, so it is asked about the texts that it was made with.
    for batch in (of_texts,) if scheme == "w8a8" else (of_texts, padded(1, 4), padded(5, 21)):
        expected = reference.logits(batch)
        logits = engine.logits(batch)
        assert logits.dtype == np.float32
        centred = [values - values.mean(axis=1, keepdims=True) for values in (logits, expected)]
        assert np.linalg.norm(centred[0] - centred[1]) < bound * np.linalg.norm(centred[1])


def test_an_answer_outlives_the_next_call(bert, padded, tmp_path):
    export_openvino(bert / "model", tmp_path, "fp32")
    engine = load(tmp_path, threads=1)
    first = engine.logits(padded(2, 6))
    before = first.copy()
    engine.logits(padded(2, 6, seed=1))
    np.testing.assert_array_equal(first, before)


def test_no_usage_is_reported(bert, tmp_path):
    code = f"""
import socket
from pathlib import Path
tried = []
socket.getaddrinfo = lambda *arguments, **named: tried.append(arguments) or []
from deshi.jobs.exporters.openvino import export_openvino
for scheme in ("fp32", "w8a16"):
    export_openvino(Path({str(bert / "model")!r}), Path({str(tmp_path)!r}) / scheme, scheme)
import nncf.telemetry
assert not isinstance(nncf.telemetry.telemetry, nncf.telemetry.wrapper.NNCFTelemetry)
assert not tried, tried
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr


def test_refusals(bert, tmp_path):
    with pytest.raises(ValueError, match="w8a8 on OpenVINO takes its ranges from calibration texts"):
        export_openvino(bert / "model", tmp_path, "w8a8")
    with pytest.raises(ValueError, match="'w4a16' is not made for OpenVINO"):
        export_openvino(bert / "model", tmp_path, "w4a16")
