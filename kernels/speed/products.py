"""Our products as contenders, and who is measured beside each.

A kernel joins by one function, one row of PRODUCTS and OURS_AT, and one in `work.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from deshi.kernels import w4a16, w8a8, w8a16
from deshi.kernels.norm_quantize import quantize_rows
from deshi.kernels.packing import fill_rows, interleave
from deshi.kernels.round_to_nearest import Format, quantize
from deshi.kernels.speed import peers
from deshi.kernels.speed.contest import OURS, NotHere
from deshi.kernels.speed.timing import Call
from deshi.kernels.tuning import Config


class OurBound(Protocol):
    """Ours, at the sizes of the card's file or at others."""

    def __call__(self, x: Tensor, config: Config | None = None) -> Call: ...


def our_w4a16(weight: Tensor) -> OurBound:
    """Ours, groups of 128."""
    quantized = quantize(weight, Format(bits=4, group_size=peers.GROUP))
    words, scale = interleave(quantized.values), quantized.scale.t().contiguous()
    return lambda x, config=None: at(w4a16, "w4a16", config, x, words, scale, None, None, "none")


def our_w8a16(weight: Tensor) -> OurBound:
    """Ours, one scale a row."""
    quantized = quantize(weight, Format(bits=8))
    values, scale = fill_rows(quantized.values), quantized.scale.t().contiguous()
    return lambda x, config=None: at(w8a16, "w8a16", config, x, values, scale, None, None, "none")


def our_w8a8(weight: Tensor, *, format: str = "int8") -> OurBound:
    """Ours, int8 or float8."""
    if format != "int8" and weight.is_cuda and torch.cuda.get_device_capability(weight.device) < (8, 9):
        raise NotHere("this card's tensor cores have no 8-bit floats")
    values, scale = quantize_rows(weight, format)
    return lambda x, config=None: at(
        w8a8, "w8a8", config, *quantize_rows(x, format), values, scale, None, "none", x.dtype
    )


def at(module: Any, name: str, config: Config | None, *given: object) -> Call:
    """Our kernel with the card's sizes, or with others."""
    return partial(getattr(module, name), *given) if config is None else partial(module.run, *given, config)


# Kernel -> contenders; a kernel joins by one row.
PRODUCTS: dict[str, dict[str, peers.Prepare]] = {
    "w4a16": {
        OURS: our_w4a16,
        peers.TORCH_16_BIT: peers.torch_16_bit,
        "torch int4pack": peers.torch_int4pack,
        "torchao": peers.torchao_int4,
        peers.GEMLITE: peers.gemlite_int4,
        "bitsandbytes NF4": peers.bitsandbytes_nf4,
        "vLLM Marlin": peers.vllm_marlin,
    },
    "w8a16": {
        OURS: our_w8a16,
        peers.TORCH_16_BIT: peers.torch_16_bit,
        "torch int8pack": peers.torch_int8pack,
        "torchao, compiled": peers.torchao_int8,
        peers.GEMLITE: peers.gemlite_int8,
    },
    "w8a8": {
        OURS: our_w8a8,
        peers.TORCH_16_BIT: peers.torch_16_bit,
        peers.INT_MM: peers.torch_int_mm,
        peers.CUTLASS: peers.vllm_cutlass,
        "gemlite, with its own x": peers.gemlite_int8_dynamic,
        "torchao, compiled, with its own x": peers.torchao_int8_dynamic,
        "bitsandbytes, with its own x": peers.bitsandbytes_int8,
    },
    "w8a8-fp8": {
        OURS: partial(our_w8a8, format="float8_e4m3fn"),
        peers.TORCH_16_BIT: peers.torch_16_bit,
        "torch _scaled_mm": peers.torch_scaled_mm,
    },
}
OURS_AT: dict[str, Callable[[Tensor], OurBound]] = {"w4a16": our_w4a16, "w8a16": our_w8a16, "w8a8": our_w8a8}
# Relative error in the Frobenius norm that the formats explain, of normal weights and x; more is another product.
TOLERANCE = {"w4a16": 0.2, "w8a16": 0.03, "w8a8": 0.05, "w8a8-fp8": 0.08}
