"""8-bit weights, 8-bit activations: y = act((q_x s_x) (q_W s_W)^T + bias), integers multiplied as integers.

    out[m, n] = act(float(sum_k q[m, k] W[n, k]) s[n] r[m] + bias[n])

q [M, K'] and W [N, K'] both int8, or both float8_e4m3fn; K' = 16 ceil(K / 16), both filled up with 0, as
`norm_quantize.py` and `packing.fill_rows` make them; r float32 [M], s float32 [N]. Tensor cores add int8 products in
int32, which is exact: for |q| <= 127 and W >= -128 the sum stays below 2^31 up to K' = 131072, and a larger K' is
refused. It is turned to float32 once, so with eps of the type of y and u = 2^-24

    |y - exact| <= 10 u (|sum| s r + |bias|) + eps |y|

where `exact` is of the quantized factors; the steepest slope of GELU, 1.13, and its evaluation are in the 10. Against
the unrounded x and W, |q r - x| <= r / 2 and |W s - W_true| <= t s, t = 1/2 for a weight rounded to nearest, give

    |y - true| <= 1.13 (r / 2 sum_k |W_true| + t s sum_k |x_k| + K t r s / 2) + the above

8-bit floats are added in float32, which puts 2.3 K' u sum_k |q W| s r on the bound where a card does just that.
Hopper's tensor cores keep about 14 bits of such a sum; there it is moved to float32 registers every 128 columns
(DeepSeek-AI 2024, arXiv 2412.19437, section 3.3.2), and the error is of the order of 2^-13 of the products' sizes.

The weight stands on the left, so that few rows of x are the narrow side of the tensor-core step. Of few rows, programs
share the inner dimension, and their partial sums, exact in int32, are added by another kernel (`epilogue.py`).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from deshi.kernels import tuning
from deshi.kernels.epilogue import ACTIVATIONS, finish, store_tile, sum_splits
from deshi.kernels.norm_quantize import require_fp8
from deshi.kernels.packing import BYTES
from deshi.kernels.triton_or_none import jit, tl, triton

MAX_COLUMNS = 131072  # 127 * 128 * 131072 < 2^31
OUT_DTYPES = (torch.bfloat16, torch.float16, torch.float32)


@jit
def w8a8_kernel(
    q: tl.tensor,
    row_scale: tl.tensor,
    weight: tl.tensor,
    scale: tl.tensor,
    bias: tl.tensor,
    out: tl.tensor,
    M: tl.tensor,
    N: tl.tensor,
    K: tl.tensor,
    steps: tl.tensor,
    ACT: tl.constexpr,
    WHOLE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
) -> None:
    """One tile [BLOCK_N, BLOCK_M] over `steps` of BLOCK_K. K is K' above. WHOLE: this split is all there is."""
    # Eight tiles of rows for each tile of the weight, one after the other: both are found in the L2 cache.
    tile_m, tile_n = tl.swizzle2d(tl.program_id(1), tl.program_id(0), tl.num_programs(1), tl.num_programs(0), 8)
    n = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    m = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
    split = tl.program_id(2)
    first = split * steps
    count = tl.minimum(steps, tl.cdiv(K, BLOCK_K) - first)
    # Rows beyond the last are the last one again, and not stored: loads need no mask for them.
    w_rows = weight + tl.minimum(n, N - 1)[:, None].to(tl.int64) * K
    q_rows = q + tl.minimum(m, M - 1)[None, :].to(tl.int64) * K
    FP8: tl.constexpr = q.dtype.element_ty == tl.float8e4nv
    acc = tl.zeros([BLOCK_N, BLOCK_M], tl.float32 if FP8 else tl.int32)
    HALF: tl.constexpr = BLOCK_K // 2
    IMPRECISE: tl.constexpr = min(HALF, 128) if FP8 else None
    for step in range(0, count):
        # Of a loop with one product, Triton carries the next factors over on Ampere and Ada, byte by byte. Not of two.
        for half in tl.static_range(2):
            k = (first + step) * BLOCK_K + half * HALF + tl.arange(0, HALF)
            w = tl.load(w_rows + k[None, :], mask=(k < K)[None, :], other=0.0)
            q_t = tl.load(q_rows + k[:, None], mask=(k < K)[:, None], other=0.0)
            acc = tl.dot(w, q_t, acc, max_num_imprecise_acc=IMPRECISE)
    if WHOLE:
        y = acc.to(tl.float32) * tl.load(scale + n, mask=n < N, other=0.0)[:, None]
        y *= tl.load(row_scale + m, mask=m < M, other=0.0)[None, :]
        store_tile(y, bias, out, n, m, split, N, M, ACT, WHOLE)
    else:
        store_tile(acc, bias, out, n, m, split, N, M, ACT, WHOLE)


def w8a8(
    q: Tensor,
    row_scale: Tensor,
    weight: Tensor,
    scale: Tensor,
    bias: Tensor | None,
    activation: str = "none",
    out_dtype: torch.dtype = torch.bfloat16,
) -> Tensor:
    """[M, N] of q [M, K'] with row_scale [M], as `norm_quantize` gives them, and weight [N, K'] with scale [N].

    Raises:
        ValueError: for shapes, types, devices or cards that do not belong together.
    """
    if q.ndim != 2 or not q.numel():
        raise ValueError(f"q is {list(q.shape)}; give a batch [rows, in] that is not empty")
    if weight.ndim != 2:
        raise ValueError(f"weight is {list(weight.shape)}; give [out, in]")
    (rows, inner), columns = q.shape, weight.shape[0]
    if not (q.dtype == weight.dtype and q.dtype in (torch.int8, torch.float8_e4m3fn)):
        raise ValueError(f"q is {q.dtype} and weight {weight.dtype}; both are int8, or both float8_e4m3fn")
    if not (weight.shape[1] == inner and inner % BYTES == 0 and q.is_contiguous() and weight.is_contiguous()):
        raise ValueError(
            f"q is {list(q.shape)} and weight {list(weight.shape)}; both have rows of one width, filled up to a "
            f"multiple of {BYTES} and in one piece: see norm_quantize and packing.fill_rows"
        )
    if inner > MAX_COLUMNS:
        raise ValueError(
            f"q has {inner} columns; the sum of more than {MAX_COLUMNS} products may not fit in 32 bits: use w8a16"
        )
    for name, tensor, length in (("row_scale", row_scale, rows), ("scale", scale, columns)):
        if not (tensor.dtype == torch.float32 and tensor.shape == (length,) and tensor.is_contiguous()):
            raise ValueError(f"{name} is {tensor.dtype} {list(tensor.shape)}; give float32 [{length}]")
    if bias is not None and not (bias.shape == (columns,) and bias.is_contiguous()):
        raise ValueError(f"bias is {list(bias.shape)}; give [{columns}]")
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation {activation!r} is not known; use one of {', '.join(ACTIVATIONS)}")
    if out_dtype not in OUT_DTYPES:
        raise ValueError(f"out_dtype is {out_dtype}; give bfloat16, float16 or float32")
    for name, other in (("row_scale", row_scale), ("weight", weight), ("scale", scale), ("bias", bias)):
        if other is not None and other.device != q.device:
            raise ValueError(f"{name} is on {other.device} and q on {q.device}; move them together")
    if q.is_cuda and q.dtype != torch.int8:
        require_fp8(torch.cuda.get_device_capability(q.device))
    return _w8a8(q, row_scale, weight, scale, bias, activation, out_dtype)


def run(
    q: Tensor,
    row_scale: Tensor,
    weight: Tensor,
    scale: Tensor,
    bias: Tensor | None,
    activation: str,
    out_dtype: torch.dtype,
    config: tuning.Config,
) -> Tensor:
    """The kernel at these sizes, and the sum of its splits."""
    (rows, inner), columns = q.shape, len(weight)
    out = q.new_empty(rows, columns, dtype=out_dtype)
    steps = triton.cdiv(inner, config.block_k)
    splits = config.splits(rows, columns, steps)
    exact = torch.int32 if q.dtype == torch.int8 else torch.float32
    target = out if splits == 1 else q.new_empty(splits, columns, rows, dtype=exact)
    grid = (triton.cdiv(columns, config.block_n), triton.cdiv(rows, config.block_m), splits)
    w8a8_kernel[grid](
        q,
        row_scale,
        weight,
        scale,
        bias if splits == 1 else None,
        target,
        rows,
        columns,
        inner,
        triton.cdiv(steps, splits),
        ACT=activation,
        WHOLE=splits == 1,
        BLOCK_M=config.block_m,
        BLOCK_N=config.block_n,
        BLOCK_K=config.block_k,
        num_warps=config.warps,
        num_stages=config.stages,
    )
    if splits > 1:
        sum_splits(target, bias, activation, out, scale=scale, row_scale=row_scale)
    return out


def reference(
    q: Tensor,
    row_scale: Tensor,
    weight: Tensor,
    scale: Tensor,
    bias: Tensor | None,
    activation: str,
    out_dtype: torch.dtype,
) -> Tensor:
    """The same in plain PyTorch; float64 holds the sum of the products exactly."""
    product = (q.double() @ weight.double().t()).float()
    return finish(product * scale * row_scale[:, None], bias, activation, out_dtype)


_w8a8 = torch.library.custom_op("deshi::w8a8", reference, mutates_args=(), device_types="cpu")


@_w8a8.register_kernel("cuda")
def _(q: Tensor, *given: Any) -> Tensor:
    return run(*(q, *given, tuning.choose("w8a8", len(q), q.device)))


@_w8a8.register_fake
def _(q: Tensor, row_scale: Tensor, weight: Tensor, *given: Any) -> Tensor:
    return q.new_empty(q.shape[0], weight.shape[0], dtype=given[-1])
