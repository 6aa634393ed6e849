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
from deshi.kernels.round_to_nearest import GROUP_SIZES, Quantized
from deshi.kernels.triton_or_none import triton
from deshi.kernels.tuning import Config

NAMES = {torch.bfloat16: "bf16", torch.float16: "fp16"}  # of the types that the kernels compute in


def check(x: Tensor, scale: Tensor, zero: Tensor | None, bias: Tensor | None, activation: str, columns: int) -> None:
    """Refuses what the products cannot take, before any launch. `columns` are the N of the weight.

    Raises:
        ValueError: with the value, the rule and the fix.
    """
    if x.ndim != 2 or not x.numel():
        raise ValueError(f"x is {list(x.shape)}; give a batch [rows, in] that is not empty")
    if x.dtype not in NAMES and (x.dtype != torch.float32 or x.is_cuda):
        raise ValueError(
            f"x is {x.dtype}; the kernels take bfloat16 or float16, and their references float32 too: cast it"
        )
    if x.stride(1) != 1:
        raise ValueError(f"x has strides {x.stride()}; its rows must lie in one piece: call contiguous()")
    groups, rows = scale.shape if scale.ndim == 2 else (0, 0)
    if not (scale.dtype == torch.float32 and groups > 0 and rows == columns and scale.is_contiguous()):
        raise ValueError(
            f"scale is {scale.dtype} {list(scale.shape)}; the kernels read float32 [groups, {columns}] in one piece"
        )
    group = x.shape[1] // groups
    if groups > 1 and (group * groups != x.shape[1] or group not in GROUP_SIZES):
        raise ValueError(
            f"{groups} groups do not divide {x.shape[1]} columns into {', '.join(map(str, GROUP_SIZES))}; quantize the "
            "weight with one of these sizes, or one scale a row"
        )
    if zero is not None and not (zero.dtype == torch.int8 and zero.shape == scale.shape and zero.is_contiguous()):
        raise ValueError(
            f"zero is {zero.dtype} {list(zero.shape)}; zero points are int8 of the scales' shape {list(scale.shape)} "
            "in one piece"
        )
    if bias is not None and bias.shape != (columns,):
        raise ValueError(f"bias is {list(bias.shape)}; give [{columns}]")
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation {activation!r} is not known; use one of {', '.join(ACTIVATIONS)}")
    for name, tensor in (("scale", scale), ("zero", zero), ("bias", bias)):
        if tensor is not None and tensor.device != x.device:
            raise ValueError(f"{name} is on {tensor.device} and x on {x.device}; move them together")


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
    weight = Quantized(values=values, scale=scale.t(), zero_point=None if zero is None else zero.t()).dequantized()
    return finish(x.to(wide) @ weight.to(wide).t(), bias, activation, x.dtype)
