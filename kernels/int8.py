"""Symmetric int8 of a weight matrix, one scale an output channel, round to nearest: the plain reference.

Weight W [out, in], scale s [out, 1] = max |W| of the row / 127, q = round(W / s), so |W - q s| <= s / 2.
Layout and meaning are those of compressed-tensors `int-quantized` (8 bits, symmetric, strategy `channel`):
`weight` int8 [out, in] beside `weight_scale` [out, 1]; -128 is never used.
"""

from __future__ import annotations

import torch
from torch import Tensor

INT8_MAX = 127


def quantize_int8(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Quantizes a floating weight [out, in] to (int8 [out, in], float32 scale [out, 1]).

    Raises:
        ValueError: if the weight is no floating matrix, or holds NaN or infinity.
    """
    if weight.ndim != 2 or not weight.is_floating_point():
        raise ValueError(f"weight is {weight.dtype} {list(weight.shape)}; int8 takes a floating matrix [out, in]")
    wide = weight.detach().to(torch.float32)
    if not bool(torch.isfinite(wide).all()):
        raise ValueError("weight holds NaN or infinity, which int8 cannot express; mend the model before quantizing")
    largest = wide.abs().amax(dim=1, keepdim=True) if weight.shape[1] else wide.new_zeros(weight.shape[0], 1)
    # The smallest normal number is the floor: a row of zeros gets a scale, and no scale loses bits as a
    # subnormal.
    scale = (largest / INT8_MAX).clamp(min=torch.finfo(torch.float32).tiny)
    return torch.round(wide / scale).clamp(-INT8_MAX, INT8_MAX).to(torch.int8), scale


def dequantize_int8(quantized: Tensor, scale: Tensor) -> Tensor:
    """The float32 weight [out, in] that the int8 form stands for."""
    return quantized.to(torch.float32) * scale
