"""What follows a matrix product: bias and activation, and before them, for a product in splits, the sum of the splits.

    out[m, n] = act(sum_s partial[s, n, m] + bias[n])                          float32 partial sums
    out[m, n] = act(sum_s partial[s, n, m] scale[n] row_scale[m] + bias[n])    of quantized factors, int32 or float32

Splits share the inner dimension among programs, so that few rows still keep every processor busy. Their partial sums
are added in a fixed order: the same input gives the same bits, which atomic additions do not. Activations are computed
in float32; GELU is the exact one, x (1 + erf(x / sqrt 2)) / 2 (Hendrycks & Gimpel 2016, arXiv 1606.08415).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from deshi.kernels.triton_or_none import jit, tl, triton

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda x: x,
    "gelu": functional.gelu,
    "silu": functional.silu,
    "relu": functional.relu,
}
ROWS, COLUMNS = 4, 256  # of a tile of the sum


@jit
def activate(x: tl.tensor, ACT: tl.constexpr) -> tl.tensor:
    """The activation of that name, in float32."""
    if ACT == "gelu":
        x = 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))
    elif ACT == "silu":
        x = x / (1.0 + tl.exp(-x))
    elif ACT == "relu":
        x = tl.where(x < 0.0, 0.0, x)  # a NaN stays one
    return x


@jit
def store_tile(
    acc: tl.tensor,
    bias: tl.tensor,
    out: tl.tensor,
    n: tl.tensor,
    m: tl.tensor,
    split: tl.tensor,
    N: tl.tensor,
    M: tl.tensor,
    ACT: tl.constexpr,
    WHOLE: tl.constexpr,
) -> None:
    """Stores a tile [n, m]: act(acc + bias) in out [M, N], or a split's share as it is in out [splits, N, M]."""
    inside = (n < N)[:, None] & (m < M)[None, :]
    if WHOLE:
        if bias is not None:
            acc += tl.load(bias + n, mask=n < N, other=0.0).to(tl.float32)[:, None]
        at = m[None, :].to(tl.int64) * N + n[:, None]
        tl.store(out + at, activate(acc, ACT).to(out.dtype.element_ty), mask=inside)
    else:
        at = (split * N + n[:, None]) * M + m[None, :]
        tl.store(out + at, acc, mask=inside)


@jit
def sum_splits_kernel(
    partial: tl.tensor,
    scale: tl.tensor,
    row_scale: tl.tensor,
    bias: tl.tensor,
    out: tl.tensor,
    M: tl.tensor,
    N: tl.tensor,
    splits: tl.tensor,
    ACT: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
) -> None:
    """One tile of the sum. `partial` is [splits, N, M], as the products write it; integers are added as such."""
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    inside = (m < M)[:, None] & (n < N)[None, :]
    total = tl.zeros([BLOCK_M, BLOCK_N], partial.dtype.element_ty)
    for split in range(splits):
        at = (split * N + n[None, :]) * M + m[:, None]
        total += tl.load(partial + at, mask=inside, other=0)
    total = total.to(tl.float32)
    if scale is not None:
        total *= tl.load(scale + n, mask=n < N, other=0.0)[None, :]
        total *= tl.load(row_scale + m, mask=m < M, other=0.0)[:, None]
    if bias is not None:
        total += tl.load(bias + n, mask=n < N, other=0.0).to(tl.float32)[None, :]
    at = m.to(tl.int64)[:, None] * N + n[None, :]
    tl.store(out + at, activate(total, ACT).to(out.dtype.element_ty), mask=inside)


def sum_splits(
    partial: Tensor,
    bias: Tensor | None,
    activation: str,
    out: Tensor,
    *,
    scale: Tensor | None = None,
    row_scale: Tensor | None = None,
) -> None:
    """Launches the sum of partial [splits, N, M] into out [M, N]; scale [N] and row_scale [M] come together."""
    splits, columns, rows = partial.shape
    grid = (triton.cdiv(rows, ROWS), triton.cdiv(columns, COLUMNS))
    sum_splits_kernel[grid](
        partial,
        scale,
        row_scale,
        bias,
        out,
        rows,
        columns,
        splits,
        ACT=activation,
        BLOCK_M=ROWS,
        BLOCK_N=COLUMNS,
        num_warps=4,
    )


def finish(product: Tensor, bias: Tensor | None, activation: str, dtype: torch.dtype) -> Tensor:
    """The same in plain PyTorch, of a whole product [M, N] in float32 or better."""
    if bias is not None:
        product = product + bias.to(product.dtype)
    return ACTIVATIONS[activation](product).to(dtype)
