"""A model folder becomes OpenVINO IR (`model.xml`, `model.bin`), in fp32, w8a8 or w8a16, for Intel and AMD
CPUs.

Same trace as for ONNX Runtime, then

    fp32    as it is (stored in fp16 it is half the file, but 2% slower here and not the same numbers)
    w8a16   nncf.compress_weights: int8 weights, one scale per output channel, activations fp32
    w8a8    nncf.quantize: int8 weights and activations, ranges from calibration texts

On AVX2 without VNNI w8a8 was 12% slower than fp32 and w8a16 4% faster; a processor with VNNI or AMX was not
tried, so the table of exporters keeps all three.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deshi.jobs.exporters.onnx import quiet, trace
from deshi.serve.encode import Encoder
from deshi.serve.engines.openvino import MODEL_FILE

CALIBRATION_ROWS = 64


def export_openvino(
    model_folder: Path,
    out_folder: Path,
    scheme: str,
    *,
    calibration: Sequence[str] = (),
    max_length: int = 256,
) -> None:
    """Writes `out_folder`/model.xml and model.bin; scheme `fp32`, `w8a16`, or `w8a8` with calibration texts.

    Raises:
        ValueError: for another scheme, or w8a8 without calibration texts.
    """
    if scheme not in ("fp32", "w8a8", "w8a16"):
        raise ValueError(f"scheme {scheme!r} is not made for OpenVINO; use fp32, w8a8 or w8a16")
    if scheme == "w8a8" and not calibration:
        raise ValueError("scheme w8a8 on OpenVINO takes its ranges from calibration texts; give some")
    import openvino

    with tempfile.TemporaryDirectory(prefix="deshi-openvino-") as name, quiet():
        path = Path(name) / "plain.onnx"
        trace(model_folder, path)
        model = openvino.Core().read_model(str(path))  # convert_model would report its use to a server
        if scheme == "w8a16":
            model = _compress(model)
        elif scheme == "w8a8":
            encoder = Encoder(model_folder / "tokenizer.json", max_length=max_length)
            model = _quantize(model, encoder, calibration[:CALIBRATION_ROWS])
        out_folder.mkdir(parents=True, exist_ok=True)
        openvino.save_model(model, str(out_folder / MODEL_FILE), compress_to_fp16=False)


def _compress(model: Any) -> Any:
    nncf = _nncf()
    return nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_SYM)


def _quantize(model: Any, encoder: Encoder, texts: Sequence[str]) -> Any:
    nncf = _nncf()
    batches = [encoder.pad([row]) for row in encoder.encode(texts)]
    feeds = [{"input_ids": batch.input_ids, "attention_mask": batch.attention_mask} for batch in batches]
    return nncf.quantize(model, nncf.Dataset(feeds), model_type=nncf.ModelType.TRANSFORMER, subset_size=len(feeds))


def _nncf() -> Any:
    os.environ["NNCF_CI"] = "1"  # otherwise each call reports its use to a server
    import nncf

    nncf.set_log_level(logging.ERROR)
    return nncf
