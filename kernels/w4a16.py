"""4-bit weights, 16-bit activations: y = act(x W'^T + bias), the weight read once, four bits a number.

x [M, K] bfloat16 or float16; words int32 [ceil(K / 128), N, 16], the interleaved layout of `packing.py`; scale float32
and zero int8 [groups, N], zero None where the zero point is 0 (`weight_only.py` states the rule and the error bound).

    for each block of 128 columns          a program's share of them, the rest are other splits'
        words [BLOCK_N, 16]                four 128-bit loads a row
        u [BLOCK_N, 16], eight times       nibble j: columns 16 j .. 16 j + 15 of the block
        for each WIDTH columns             a group, or the whole block of a row of one scale; nibbles side by side
            acc += s ((u - shift) x^T)     tensor cores: [BLOCK_N, WIDTH] by [WIDTH, BLOCK_M]

The weight stands on the left, so that few rows of x are the narrow side of the tensor-core step (8 or 16) and not
padding on its wide side (64 on Hopper). Numbers are made without an integer-to-float conversion (Kim et al. 2022, "Who
Says Elephants Can't Run", arXiv 2211.10017): for u in 0..15, the 16 bits 0x4300 | u are the bfloat16 128 + u, and
0x6400 | u the float16 1024 + u; what is then subtracted holds the zero point too, and the difference is exact.

From the rows on at which it is faster, the weight is made whole by a kernel and multiplied by cuBLAS (`tuning.py`).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from deshi.kernels import tuning
from deshi.kernels.epilogue import finish, store_tile
from deshi.kernels.packing import BLOCK, WORDS, deinterleave
from deshi.kernels.triton_or_none import INTERPRETED, dot, exact, jit, tl, triton
from deshi.kernels.weight_only import NAMES, check, launch, reference

# Two words to eight registers, each a pair of 16-bit floats: nibble j of both. prmt gathers the low and the high halves
# of the words; lop3 0xEA is (a & b) | c, which leaves one nibble of each half and sets the exponent.
_PAIRS = """{{
.reg .b32 low, high, t;
prmt.b32 low, $8, $9, 0x5410;
prmt.b32 high, $8, $9, 0x7632;
lop3.b32 $0, low, 0x000F000F, {exponent}, 0xEA;
shr.u32 t, low, 4;
lop3.b32 $1, t, 0x000F000F, {exponent}, 0xEA;
shr.u32 t, low, 8;
lop3.b32 $2, t, 0x000F000F, {exponent}, 0xEA;
shr.u32 t, low, 12;
lop3.b32 $3, t, 0x000F000F, {exponent}, 0xEA;
lop3.b32 $4, high, 0x000F000F, {exponent}, 0xEA;
shr.u32 t, high, 4;
lop3.b32 $5, t, 0x000F000F, {exponent}, 0xEA;
shr.u32 t, high, 8;
lop3.b32 $6, t, 0x000F000F, {exponent}, 0xEA;
shr.u32 t, high, 12;
lop3.b32 $7, t, 0x000F000F, {exponent}, 0xEA;
}}"""
PAIRS = {"bf16": _PAIRS.format(exponent="0x43004300"), "fp16": _PAIRS.format(exponent="0x64006400")}
OFFSET = {"bf16": 128, "fp16": 1024}


@jit
def nibbles(word: tl.tensor, like: tl.tensor, ASM: tl.constexpr, OFFSET: tl.constexpr) -> tl.tensor:
    """The eight nibbles of words [..], each [..] as OFFSET + u in the type that `like` points to.

    The interpreter has no assembler; there the same numbers are made by conversion.
    """
    if INTERPRETED:
        return (
            ((word >> 0) & 15).to(tl.float32) + OFFSET,
            ((word >> 4) & 15).to(tl.float32) + OFFSET,
            ((word >> 8) & 15).to(tl.float32) + OFFSET,
            ((word >> 12) & 15).to(tl.float32) + OFFSET,
            ((word >> 16) & 15).to(tl.float32) + OFFSET,
            ((word >> 20) & 15).to(tl.float32) + OFFSET,
            ((word >> 24) & 15).to(tl.float32) + OFFSET,
            ((word >> 28) & 15).to(tl.float32) + OFFSET,
        )
    else:
        half = like.dtype.element_ty
        return tl.inline_asm_elementwise(
            ASM,
            "=r,=r,=r,=r,=r,=r,=r,=r,r,r",
            args=[word],
            dtype=(half, half, half, half, half, half, half, half),
            is_pure=True,
            pack=2,
        )


@jit
def beside(a: tl.tensor, b: tl.tensor) -> tl.tensor:
    """[rows, c] and [rows, c] as [rows, 2 c]."""
    return tl.join(a, b).permute(0, 2, 1).reshape(a.shape[0], 2 * a.shape[1])


@jit
def in_groups(u: tl.tensor, WIDTH: tl.constexpr) -> tl.tensor:
    """Eight times [rows, 16] as tiles [rows, WIDTH], which are 32, 64 or 128 neighbouring columns.

    The branches return tuples of different shapes, so each must exclude the others for the compiler.
    """
    first, second, third, fourth = beside(u[0], u[1]), beside(u[2], u[3]), beside(u[4], u[5]), beside(u[6], u[7])
    if WIDTH == 32:
        return (first, second, third, fourth)
    elif WIDTH == 64:
        return (beside(first, second), beside(third, fourth))
    else:
        return (beside(beside(first, second), beside(third, fourth)),)


@jit
def w4a16_kernel(
    x: tl.tensor,
    words: tl.tensor,
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
    ASM: tl.constexpr,
    OFFSET: tl.constexpr,
) -> None:
    """One tile [BLOCK_N, BLOCK_M] over `steps` blocks. GROUP 0: one scale a row. WHOLE: this split is all there is."""
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    m = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    split = tl.program_id(2)
    c = tl.arange(0, 16)
    dtype: tl.constexpr = exact(x.dtype.element_ty)
    first = split * steps
    count = tl.minimum(steps, tl.cdiv(K, 128) - first)
    acc = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
    WIDTH: tl.constexpr = 128 if GROUP == 0 else GROUP
    x_rows = x + m[None, :].to(tl.int64) * x_stride
    shift = tl.full([BLOCK_N], OFFSET + 8, dtype)
    if GROUP == 0 and zero is not None:
        shift += tl.load(zero + n, mask=n < N, other=0).to(dtype)
    for step in range(0, count):
        block = first + step
        at = (block * N + n)[:, None] * 16 + c[None, :]
        word = tl.load(words + at, mask=(n < N)[:, None], other=0)
        u = nibbles(word, x, ASM, OFFSET)
        tiles = in_groups(u, WIDTH)
        for tile in tl.static_range(128 // WIDTH):
            column = block * 128 + tile * WIDTH
            if GROUP > 0:
                of_group = column // GROUP * N + n
                # Groups fill the row, not its last block: what lies beyond meets an x of 0.
                inside = (n < N) & (tl.zeros_like(n) + column < K)
                shift = tl.full([BLOCK_N], OFFSET + 8, dtype)
                if zero is not None:
                    shift += tl.load(zero + of_group, mask=inside, other=0).to(dtype)
            k = column + tl.arange(0, WIDTH)
            x_t = tl.load(x_rows + k[:, None], mask=(m < M)[None, :] & (k < K)[:, None], other=0.0)
            if GROUP > 0:
                part = dot(tiles[tile] - shift[:, None], x_t, tl.zeros([BLOCK_N, BLOCK_M], tl.float32))
                acc += tl.load(scale + of_group, mask=inside, other=0.0)[:, None] * part
            else:
                acc = dot(tiles[tile] - shift[:, None], x_t, acc)
    if GROUP == 0:
        acc *= tl.load(scale + n, mask=n < N, other=0.0)[:, None]
    store_tile(acc, bias, out, n, m, split, N, M, ACT, WHOLE)


@jit
def dequantize_kernel(
    words: tl.tensor,
    scale: tl.tensor,
    zero: tl.tensor,
    out: tl.tensor,
    N: tl.tensor,
    K: tl.tensor,
    GROUP: tl.constexpr,
    BLOCK_N: tl.constexpr,
    ASM: tl.constexpr,
    OFFSET: tl.constexpr,
) -> None:
    """W' of one block of 128 columns and BLOCK_N rows, in the type of `out` [N, K]."""
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    block = tl.program_id(1)
    c = tl.arange(0, 16)
    at = (block * N + n)[:, None] * 16 + c[None, :]
    word = tl.load(words + at, mask=(n < N)[:, None], other=0)
    u = nibbles(word, out, ASM, OFFSET)
    for j in tl.static_range(8):
        k = block * 128 + j * 16 + c
        group = 0 if GROUP == 0 else (block * 128 + j * 16) // GROUP
        of_group = group * N + n
        inside = (n < N) & (tl.zeros_like(n) + (block * 128 + j * 16) < K)
        q = u[j].to(tl.float32) - (OFFSET + 8)
        if zero is not None:
            q -= tl.load(zero + of_group, mask=inside, other=0).to(tl.float32)[:, None]
        w = q * tl.load(scale + of_group, mask=inside, other=0.0)[:, None]
        to = n.to(tl.int64)[:, None] * K + k[None, :]
        tl.store(out + to, w.to(out.dtype.element_ty), mask=inside[:, None] & (k < K)[None, :])


def w4a16(
    x: Tensor, words: Tensor, scale: Tensor, zero: Tensor | None, bias: Tensor | None, activation: str = "none"
) -> Tensor:
    """act(x W'^T + bias) [M, N] in the type of x; `words` as `packing.interleave` gives them.

    Raises:
        ValueError: for shapes, types or devices that do not belong together.
    """
    if not (words.dtype == torch.int32 and words.ndim == 3 and words.shape[2] == WORDS and words.is_contiguous()):
        raise ValueError(
            f"words are {words.dtype} {list(words.shape)}; give int32 [ceil(in / {BLOCK}), out, {WORDS}], as "
            "packing.interleave makes them"
        )
    check(x, scale, zero, bias, activation, words.shape[1])
    if words.shape[0] != -(-x.shape[1] // BLOCK):
        raise ValueError(
            f"x has {x.shape[1]} columns and the weight {words.shape[0]} blocks of {BLOCK}; give x of the weight's "
            "width"
        )
    if words.device != x.device:
        raise ValueError(f"words are on {words.device} and x on {x.device}; move them together")
    return _w4a16(x, words, scale, zero, bias, activation)


def run(
    x: Tensor,
    words: Tensor,
    scale: Tensor,
    zero: Tensor | None,
    bias: Tensor | None,
    activation: str,
    config: tuning.Config,
) -> Tensor:
    """The kernels at these sizes."""
    name = NAMES[x.dtype]
    constants = {"ASM": PAIRS[name], "OFFSET": OFFSET[name]}
    if not config.dequantize:
        return launch(w4a16_kernel, x, words, scale, zero, bias, activation, config, steps=len(words), **constants)
    weight = x.new_empty(words.shape[1], x.shape[1])
    group = 0 if len(scale) == 1 else x.shape[1] // len(scale)
    grid = (triton.cdiv(len(weight), config.block_n), len(words))
    dequantize_kernel[grid](
        words, scale, zero, weight, *weight.shape, GROUP=group, BLOCK_N=config.block_n, **constants, num_warps=4
    )
    return finish(x @ weight.t(), bias, activation, x.dtype)


@torch.library.custom_op("deshi::w4a16", mutates_args=(), device_types="cpu")
def _w4a16(
    x: Tensor, words: Tensor, scale: Tensor, zero: Tensor | None, bias: Tensor | None, activation: str
) -> Tensor:
    return reference(x, deinterleave(words, x.shape[1]), scale, zero, bias, activation)


@_w4a16.register_kernel("cuda")
def _(x: Tensor, *given: Any) -> Tensor:
    return run(*(x, *given, tuning.choose("w4a16", len(x), x.device)))


@_w4a16.register_fake
def _(x: Tensor, words: Tensor, *_: Any) -> Tensor:
    return x.new_empty(x.shape[0], words.shape[1])
