"""Quantization schemes by name, model folders of integers, and folders whose weights have been through int8 and back.

| scheme | what it is | where it runs |
|---|---|---|
| `fp32` | as trained | every engine |
| `w8a8` | weights int8 per output channel, activations int8 at run time | ONNX Runtime, OpenVINO, Triton kernels |
| `w8a16` | weights int8 per output channel, activations floating | OpenVINO, Triton kernels, vLLM |
| `w4a16` | weights of 4 bits by group, activations floating | Triton kernels, vLLM |

An engine's exporter makes its own integers from the full-precision model folder (`exporters/`). The one for our
kernels is `quantize`: it writes a folder in compressed-tensors' layout, which stock transformers and vLLM load too.
Every linear layer inside the stack of layers is rounded to nearest; embeddings, poolers and heads stay as they are.

`fake_quantize` is for chains that prune after quantization, the article's own order: the importance of neurons is taken
from the quantized form, the cut is made in its full-precision parent, and the result is quantized again, so no rounding
is done twice.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from deshi.jobs.stages.prune import copy_tokenizer, write_model
from deshi.kernels.compressed_tensors import compress, config_of, scheme_for
from deshi.kernels.int8 import dequantize_int8, quantize_int8

IN_A_LAYER = re.compile(r"\.\d+\.")  # a module of a numbered layer
STORED = torch.bfloat16  # of what is not an integer, scales included


def quantize(model_folder: Path, out_folder: Path, *, scheme: str, load: Callable[[Path], Any]) -> None:
    """Writes config.json and model.safetensors with integers for weights; `load` opens the model in fp32.

    Raises:
        ValueError: for an unknown scheme, a weight that integers cannot express, or a model without layers.
    """
    model = load(model_folder)
    linear = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    inside = {name: module for name, module in linear.items() if IN_A_LAYER.search(name)}
    if not inside:
        raise ValueError(f"{model_folder} has no linear layer in a numbered stack of layers; nothing to quantize")
    made = scheme_for(scheme, sorted({module.in_features for module in inside.values()}))
    integers: dict[str, torch.Tensor] = {}
    for name, module in inside.items():
        try:
            tensors = compress(module.weight, made, STORED)
        except ValueError as error:
            raise ValueError(f"layer {name}: {error}") from None
        integers |= {f"{name}.{key}": tensor for key, tensor in tensors.items()}
    model.to(STORED)
    rest = {name: tensor for name, tensor in model.state_dict().items() if name.removesuffix(".weight") not in inside}
    model.config.quantization_config = config_of(made, [name for name in linear if name not in inside])
    model.save_pretrained(out_folder, state_dict=rest | integers)


def fake_quantize(model_folder: Path, out_folder: Path, *, load: Callable[[Path], Any]) -> None:
    """Writes the same model with every Linear weight rounded to its int8 value, kept as fp32; `load` opens it."""
    model = load(model_folder)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Linear):
                module.weight.copy_(dequantize_int8(*quantize_int8(module.weight)))
    write_model(model, out_folder)
    copy_tokenizer(model_folder, out_folder)
