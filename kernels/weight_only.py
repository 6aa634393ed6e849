"""What the weight-only products have in common: what they refuse, and how a launch is shared out.

    y = act(x W'^T + bias),   W'[n, k] = (q[n, k] - z[g(k), n]) s[g(k), n]

x [M, K] is bfloat16 or float16, q integers, s float32 and z int8 (or None) [groups, N], g(k) = k groups // K. The
integers less their zero points are exact in both types of x, so tensor cores multiply exact factors and add in float32;
scales are applied in float32, a group at a time. With eps of the type of y, u = 2^-24 and every sum in float32,

    |y - exact| <= L (K + groups + splits + 2) 2u sum_k |x_k| |W'_k| + eps |y|

with L = 1.13 for GELU, 1.1 for SiLU and else 1, the activation's steepest slope.

NaN and infinity in a row of x reach that row's outputs as NaN or infinity, and no other row's.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from deshi.kernels.epilogue import ACTIVATIONS, finish, sum_splits
from deshi.kernels.refusal import require
from deshi.kernels.round_to_nearest import GROUP_SIZES
from deshi.kernels.triton_or_none import triton
from deshi.kernels.tuning import Config

DTYPES = (torch.bfloat16, torch.float16)


def check(x: Tensor, scale: Tensor, zero: Tensor | None, bias: Tensor | None, activation: str, columns: int) -> None:
    """Refuses what the products cannot take, before any launch. `columns` are the N of the weight.

    Raises:
        ValueError: with the value, the rule and the fix.
    """
    require(x.ndim == 2 and x.numel() > 0, f"x is {list(x.shape)}; give a batch [rows, in] that is not empty")
    require(x.dtype in DTYPES or (x.dtype == torch.float32 and not x.is_cuda), f"x is {x.dtype}; {_TYPES}")
    require(x.stride(1) == 1, f"x has strides {x.stride()}; its rows must lie in one piece: call contiguous()")
    groups, rows = scale.shape if scale.ndim == 2 else (0, 0)
    require(
        scale.dtype == torch.float32 and groups > 0 and rows == columns and scale.is_contiguous(),
        f"scale is {scale.dtype} {list(scale.shape)}; the kernels read float32 [groups, {columns}] in one piece",
    )
    group = x.shape[1] // groups
    require(
        groups == 1 or (group * groups == x.shape[1] and group in GROUP_SIZES),
        f"{groups} groups do not divide {x.shape[1]} columns into {', '.join(map(str, GROUP_SIZES))}; quantize the "
        "weight with one of these sizes, or one scale a row",
    )
    require(
        zero is None or (zero.dtype == torch.int8 and zero.shape == scale.shape and zero.is_contiguous()),
        f"zero is {zero.dtype if zero is not None else None}; zero points are int8 of the scales' shape "
        f"{list(scale.shape)} in one piece",
    )
    require(
        bias is None or bias.shape == (columns,),
        f"bias is {list(bias.shape) if bias is not None else []}; give [{columns}]",
    )
    require(activation in ACTIVATIONS, f"activation {activation!r} is not known; use one of {', '.join(ACTIVATIONS)}")
    for name, tensor in (("scale", scale), ("zero", zero), ("bias", bias)):
        require(
            tensor is None or tensor.device == x.device,
            f"{name} is on {tensor.device if tensor is not None else None} and x on {x.device}; move them together",
        )


_TYPES = "the kernels take bfloat16 or float16, and their references float32 too: cast it"


def launch(
    kernel: Any,
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    zero: Tensor | None,
    bias: Tensor | None,
    activation: str,
    config: Config,
    *,
    steps: int,
    **constants: Any,
) -> Tensor:
    """Launches one of the products; splits its `steps` of the inner dimension where tiles are few.

    The kernel writes the outputs, or its split's share of them to float32 [splits, N, M].
    """
    (rows, inner), (groups, columns) = x.shape, scale.shape
    out = x.new_empty(rows, columns)
    splits = config.splits(rows, columns, steps)
    target = out if splits == 1 else x.new_empty(splits, columns, rows, dtype=torch.float32)
    grid = (triton.cdiv(columns, config.block_n), triton.cdiv(rows, config.block_m), splits)
    kernel[grid](
        x,
        weight,
        scale,
        zero,
        bias if splits == 1 else None,
        target,
        rows,
        columns,
        inner,
        x.stride(0),
        -(-steps // splits),
        GROUP=0 if groups == 1 else inner // groups,
        ACT=activation,
        WHOLE=splits == 1,
        BLOCK_M=config.block_m,
        BLOCK_N=config.block_n,
        **constants,
        num_warps=config.warps,
        num_stages=config.stages,
    )
    if splits > 1:
        sum_splits(target, bias, activation, out)
    return out


def reference(
    x: Tensor, values: Tensor, scale: Tensor, zero: Tensor | None, bias: Tensor | None, activation: str
) -> Tensor:
    """The product in plain PyTorch and float32 (float64 for float64), from int8 values [N, K]."""
    wide = torch.promote_types(x.dtype, torch.float32)
    return finish(x.to(wide) @ dequantized(values, scale, zero, wide).t(), bias, activation, x.dtype)


def dequantized(values: Tensor, scale: Tensor, zero: Tensor | None, dtype: torch.dtype) -> Tensor:
    """W' [N, K] of int8 values [N, K]."""
    group = values.shape[1] // scale.shape[0]
    weight = values.to(scale.dtype)
    if zero is not None:
        weight = weight - zero.to(scale.dtype).repeat_interleave(group, dim=0).t()
    return (weight * scale.repeat_interleave(group, dim=0).t()).to(dtype)
