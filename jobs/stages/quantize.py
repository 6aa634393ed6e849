"""Quantization schemes by name, and a model folder whose weights have been through int8 and back.

| scheme | what it is | where it runs |
|---|---|---|
| `fp32` | as trained | every engine |
| `w8a8` | weights int8 per output channel, activations int8 at run time | ONNX Runtime (dynamic), OpenVINO |
| `w8a16` | weights int8 per output channel, activations floating | OpenVINO (weight compression), PyTorch |

An engine's exporter makes its own integers from the full-precision model folder (`exporters/`); this file
does not write what is served. `fake_quantize` is for chains that prune after quantization, the article's own
order: the importance of neurons is taken from the quantized form, the cut is made in its full-precision
parent, and the result is quantized again, so no rounding is done twice.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from deshi.jobs.stages.prune import copy_tokenizer, write_model
from deshi.kernels.int8 import dequantize_int8, quantize_int8


def fake_quantize(model_folder: Path, out_folder: Path, *, load: Callable[[Path], Any]) -> None:
    """Writes the same model with every Linear weight rounded to its int8 value, kept as fp32; `load` opens it."""
    model = load(model_folder)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Linear):
                module.weight.copy_(dequantize_int8(*quantize_int8(module.weight)))
    write_model(model, out_folder)
    copy_tokenizer(model_folder, out_folder)
