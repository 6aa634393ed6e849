"""8-bit weights, 16-bit activations: y = act(x W'^T + bias), the weight read once, a byte a number.

x [M, K] bfloat16 or float16; weight int8 [N, 16 ceil(K / 16)], its rows filled up by `packing.fill_rows`; scale float32
and zero int8 [groups, N], zero None where the zero point is 0 (`weight_only.py` states the rule and the error bound).

    for each WIDTH columns                 a group, or 128 of a row of one scale; a program's share of them
        weight [BLOCK_N, WIDTH]            128-bit loads, 16 columns each
        part += (q - z) x^T                tensor cores: [BLOCK_N, WIDTH] by [WIDTH, BLOCK_M]
        acc  += s part                     at the end of each group

The weight stands on the left, so that few rows of x are the narrow side of the tensor-core step. Numbers are made
without an integer-to-float conversion, which runs at a quarter of the speed (Kim et al. 2022, "Who Says Elephants Can't
Run", arXiv 2211.10017). The byte b of q is u = b xor 128 = q + 128 for float16, where 0x6400 | u is 1024 + u. A
bfloat16 holds only seven bits below its exponent: there 0x4300 | (b & 127) is 128 + (b & 127), and 0x4300 | (b & 128)
is 128, or 256 where q is negative; the difference of the two is q. |q - z| <= 255 is exact in both.

From the rows on at which it is faster, the weight is made whole by a kernel and multiplied by cuBLAS (`tuning.py`).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from deshi.kernels import tuning
from deshi.kernels.epilogue import finish, store_tile
from deshi.kernels.packing import BYTES
from deshi.kernels.triton_or_none import INTERPRETED, dot, exact, jit, tl, triton
from deshi.kernels.weight_only import NAMES, check, launch, reference

# Four bytes to two registers, each a pair of 16-bit floats. prmt puts the upper byte of the exponent above each.
BYTES_TO_FLOATS = {
    "bf16": """{
.reg .b32 t, low, high, minus;
mov.b32 minus, 0xBF80BF80;
prmt.b32 t, $2, 0x43434343, 0x4140;
and.b32 low, t, 0xFF7FFF7F;
and.b32 high, t, 0xFF80FF80;
fma.rn.bf16x2 $0, high, minus, low;
prmt.b32 t, $2, 0x43434343, 0x4342;
and.b32 low, t, 0xFF7FFF7F;
and.b32 high, t, 0xFF80FF80;
fma.rn.bf16x2 $1, high, minus, low;
}""",
    "fp16": """{
.reg .b32 t, low, offset;
mov.b32 offset, 0x64806480;
xor.b32 t, $2, 0x80808080;
prmt.b32 low, t, 0x64646464, 0x4140;
sub.f16x2 $0, low, offset;
prmt.b32 low, t, 0x64646464, 0x4342;
sub.f16x2 $1, low, offset;
}""",
}


@jit
def integers(byte: tl.tensor, like: tl.tensor, ASM: tl.constexpr) -> tl.tensor:
    """int8 as the same numbers in the type that `like` points to. The interpreter has no assembler and converts."""
    if INTERPRETED:
        return byte.to(tl.float32)
    else:
        return tl.inline_asm_elementwise(ASM, "=r,=r,r", args=[byte], dtype=like.dtype.element_ty, is_pure=True, pack=4)


@jit
def w8a16_kernel(
    x: tl.tensor,
    weight: tl.tensor,
    scale: tl.tensor,
    zero: tl.tensor,
    bias: tl.tensor,
    out: tl.tensor,
    M: tl.tensor,
    N: tl.tensor,
    K: tl.tensor,
    x_stride: tl.tensor,
    steps: tl.tensor,
    GROUP: tl.constexpr,
    ACT: tl.constexpr,
    WHOLE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    WIDTH: tl.constexpr,
    ASM: tl.constexpr,
) -> None:
    """One tile [BLOCK_N, BLOCK_M] over `steps` of WIDTH. GROUP 0: one scale a row. WHOLE: there is one split."""
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    m = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    split = tl.program_id(2)
    dtype: tl.constexpr = exact(x.dtype.element_ty)
    first = split * steps
    count = tl.minimum(steps, tl.cdiv(K, WIDTH) - first)
    filled = tl.cdiv(K, 16) * 16
    acc = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
    w_rows = weight + n[:, None].to(tl.int64) * filled
    x_rows = x + m[None, :].to(tl.int64) * x_stride
    of_group = n
    if GROUP > 0:  # a split beyond the last group multiplies nothing, but reads a scale
        of_group += tl.minimum(first, K // WIDTH - 1) * N
    s = tl.load(scale + of_group, mask=n < N, other=0.0)
    if zero is not None:
        z = tl.load(zero + of_group, mask=n < N, other=0)
    for step in range(0, count):
        k = (first + step) * WIDTH + tl.arange(0, WIDTH)
        byte = tl.load(w_rows + k[None, :], mask=(n < N)[:, None] & (k < filled)[None, :], other=0)
        x_t = tl.load(x_rows + k[:, None], mask=(m < M)[None, :] & (k < K)[:, None], other=0.0)
        q = integers(byte, x, ASM)
        if zero is not None:
            q -= z.to(dtype)[:, None]
        if GROUP > 0:
            part = dot(q, x_t, tl.zeros([BLOCK_N, BLOCK_M], tl.float32))
            acc += s[:, None] * part
            # The next group's, a step ahead of their use; the last one's again after the last.
            of_group = tl.minimum(first + step + 1, K // WIDTH - 1) * N + n
            s = tl.load(scale + of_group, mask=n < N, other=0.0)
            if zero is not None:
                z = tl.load(zero + of_group, mask=n < N, other=0)
        else:
            acc = dot(q, x_t, acc)
    if GROUP == 0:
        acc *= s[:, None]
    store_tile(acc, bias, out, n, m, split, N, M, ACT, WHOLE)


@jit
def dequantize_kernel(
    weight: tl.tensor,
    scale: tl.tensor,
    zero: tl.tensor,
    out: tl.tensor,
    N: tl.tensor,
    K: tl.tensor,
    GROUP: tl.constexpr,
    BLOCK_N: tl.constexpr,
    WIDTH: tl.constexpr,
) -> None:
    """W' of one tile [BLOCK_N, WIDTH], in the type of `out` [N, K]. GROUP 0: one scale a row; else WIDTH of them."""
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    tile = tl.program_id(1)
    k = tile * WIDTH + tl.arange(0, WIDTH)
    filled = tl.cdiv(K, 16) * 16
    row = n[:, None].to(tl.int64)
    byte = tl.load(weight + row * filled + k[None, :], mask=(n < N)[:, None] & (k < filled)[None, :], other=0)
    of_group = n
    if GROUP > 0:
        of_group += tile * N
    w = byte.to(tl.float32)
    if zero is not None:
        w -= tl.load(zero + of_group, mask=n < N, other=0).to(tl.float32)[:, None]
    w *= tl.load(scale + of_group, mask=n < N, other=0.0)[:, None]
    tl.store(out + row * K + k[None, :], w.to(out.dtype.element_ty), mask=(n < N)[:, None] & (k < K)[None, :])


def w8a16(
    x: Tensor, weight: Tensor, scale: Tensor, zero: Tensor | None, bias: Tensor | None, activation: str = "none"
) -> Tensor:
    """act(x W'^T + bias) [M, N] in the type of x; `weight` as `packing.fill_rows` gives it.

    Raises:
        ValueError: for shapes, types or devices that do not belong together.
    """
    if not (weight.dtype == torch.int8 and weight.ndim == 2 and weight.is_contiguous()):
        raise ValueError(
            f"weight is {weight.dtype} {list(weight.shape)}; give int8 [out, {BYTES} ceil(in / {BYTES})] in one piece, "
            "as packing.fill_rows makes it"
        )
    check(x, scale, zero, bias, activation, weight.shape[0])
    if weight.shape[1] != x.shape[1] + -x.shape[1] % BYTES:
        raise ValueError(
            f"x has {x.shape[1]} columns and the weight {weight.shape[1]}; a weight of x's width is filled up to "
            f"{x.shape[1] + -x.shape[1] % BYTES} by packing.fill_rows"
        )
    if weight.device != x.device:
        raise ValueError(f"weight is on {weight.device} and x on {x.device}; move them together")
    return _w8a16(x, weight, scale, zero, bias, activation)


def run(
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    zero: Tensor | None,
    bias: Tensor | None,
    activation: str,
    config: tuning.Config,
) -> Tensor:
    """The kernels at these sizes."""
    inner, groups = x.shape[1], len(scale)
    width = config.block_k if groups == 1 else inner // groups
    steps = triton.cdiv(inner, width)
    if not config.dequantize:
        asm = BYTES_TO_FLOATS[NAMES[x.dtype]]
        return launch(w8a16_kernel, x, weight, scale, zero, bias, activation, config, steps=steps, WIDTH=width, ASM=asm)
    whole = x.new_empty(len(weight), inner)
    grid = (triton.cdiv(len(weight), config.block_n), steps)
    group = 0 if groups == 1 else width
    dequantize_kernel[grid](
        weight, scale, zero, whole, *whole.shape, GROUP=group, BLOCK_N=config.block_n, WIDTH=width, num_warps=4
    )
    return finish(x @ whole.t(), bias, activation, x.dtype)


@torch.library.custom_op("deshi::w8a16", mutates_args=(), device_types="cpu")
def _w8a16(
    x: Tensor, weight: Tensor, scale: Tensor, zero: Tensor | None, bias: Tensor | None, activation: str
) -> Tensor:
    return reference(x, weight[:, : x.shape[1]], scale, zero, bias, activation)


@_w8a16.register_kernel("cuda")
def _(x: Tensor, *given: Any) -> Tensor:
    return run(*(x, *given, tuning.choose("w8a16", len(x), x.device)))


@_w8a16.register_fake
def _(x: Tensor, weight: Tensor, *_: Any) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[0])
