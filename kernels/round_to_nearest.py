"""Integers for a weight matrix by rounding to nearest, in groups, with or without a zero point: the plain reference.

Weight W [out, in], group g of `group_size` columns (or the whole row), b bits, q in [-2^(b-1), 2^(b-1) - 1]:

    symmetric    s = max |W_g| / (2^(b-1) - 1/2)          q = clamp(round(W / s))              W' = q s
    asymmetric   s = (max W_g - min W_g) / (2^b - 1)      q = clamp(round(W / s) + z)          W' = (q - z) s
                 z = -2^(b-1) - round(min W_g / s), where min and max are stretched to include 0

|W - W'| <= s / 2 symmetric, <= s asymmetric (where both ends round), plus what the scale loses when it is stored in the
type of `scale_dtype`; the integers are rounded against the stored scale, so nothing is lost twice. Half a step beyond
the largest integer costs no more than half a step inside, and makes every step smaller: hence the 1/2 above.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

GROUP_SIZES = (32, 64, 128)


@dataclass(frozen=True, kw_only=True)
class Format:
    """How integers stand for a weight. `group_size` None: one scale an output channel."""

    bits: Literal[4, 8]
    group_size: int | None = None
    symmetric: bool = True

    def groups(self, columns: int) -> int:
        """Scales a row.

        Raises:
            ValueError: if the groups are of a size that kernels do not take, or do not fill the row.
        """
        if self.group_size is None:
            return 1
        if self.group_size not in GROUP_SIZES:
            sizes = ", ".join(map(str, GROUP_SIZES))
            raise ValueError(f"group_size = {self.group_size} is not one that kernels take; use {sizes} or None")
        if columns % self.group_size:
            raise ValueError(
                f"group_size = {self.group_size} does not divide the {columns} columns of the weight; take a size that "
                "does, or None for one scale a row"
            )
        return columns // self.group_size


@dataclass(frozen=True, kw_only=True)
class Quantized:
    """int8 [out, in] in the range of the bits, scale [out, groups], and int8 zero points [out, groups] or None."""

    values: Tensor
    scale: Tensor
    zero_point: Tensor | None = None

    def dequantized(self) -> Tensor:
        """[out, in] in the type of the scale."""
        group = self.values.shape[1] // self.scale.shape[1]
        values = self.values.to(self.scale.dtype)
        if self.zero_point is not None:
            values = values - self.zero_point.to(self.scale.dtype).repeat_interleave(group, dim=1)
        return values * self.scale.repeat_interleave(group, dim=1)


def quantize(weight: Tensor, format: Format, *, scale_dtype: torch.dtype = torch.float32) -> Quantized:
    """Rounds a floating weight [out, in].

    Raises:
        ValueError: if the weight is no floating matrix, is empty, holds NaN or infinity, or does not fill its groups.
    """
    if weight.ndim != 2 or not weight.is_floating_point() or not weight.numel():
        raise ValueError(f"weight is {weight.dtype} {list(weight.shape)}; give a floating matrix [out, in]")
    wide = weight.detach().to(torch.float32)
    if not bool(torch.isfinite(wide).all()):
        raise ValueError("weight holds NaN or infinity, which integers cannot express; mend the model first")
    rows, columns = wide.shape
    grouped = wide.reshape(rows, format.groups(columns), -1)
    low, high = -(2 ** (format.bits - 1)), 2 ** (format.bits - 1) - 1
    if format.symmetric:
        scale = _stored(grouped.abs().amax(dim=2) / (high + 0.5), scale_dtype)
        values = torch.round(grouped / scale.float()[..., None])
        return Quantized(values=values.clamp(low, high).to(torch.int8).reshape(rows, columns), scale=scale)
    least, most = grouped.amin(dim=2).clamp(max=0), grouped.amax(dim=2).clamp(min=0)
    scale = _stored((most - least) / (high - low), scale_dtype)
    zero = (low - torch.round(least / scale.float())).clamp(low, high)
    values = (torch.round(grouped / scale.float()[..., None]) + zero[..., None]).clamp(low, high)
    return Quantized(values=values.to(torch.int8).reshape(rows, columns), scale=scale, zero_point=zero.to(torch.int8))


def _stored(scale: Tensor, dtype: torch.dtype) -> Tensor:
    """A group of zeros gets the smallest normal scale: none is 0, and none loses bits as a subnormal."""
    tiny = torch.finfo(dtype).tiny
    return scale.clamp(min=tiny).to(dtype).clamp(min=tiny)
