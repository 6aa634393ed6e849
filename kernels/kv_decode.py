"""Decode attention over the int8 cache on the tensor cores, in splits of the context: Flash-Decoding (Dao et al. 2023).

`kv_int8.py` states what is computed, the layout and the error. A program takes one key-value head of one row, all the
query heads that share it (filled up to 16, a tensor-core step), and one split of the row's tokens:

    most, total, acc = -inf, 0, 0                         of each query head, in base 2
    for each tile of BLOCK_N tokens
        x     = s_k (q k^T) scaling log2(e)               -inf beyond the row's length
        p     = exp2(x - most'),  most' = max(most, x)
        total = total exp2(most - most') + sum p
        acc   = acc exp2(most - most') + (p s_v) v        p s_v rounded to bfloat16

It leaves acc / total and most + log2(total), and a second kernel adds up the splits, each weighted by exp2 of the
latter. The grid is made of shapes alone, so that a CUDA graph can hold it: a row shares its own length out among the
splits, and one that is too short leaves some without work.

Keys and values are read as 32-bit words, each four neighbouring numbers of a token. Number j of all words makes a
matrix of its own, [BLOCK_N, D / 4], which meets every fourth number of the query: q k^T = sum_j q_j k_j^T, and p v_j is
every fourth number of the output. A register of a tensor-core step holds a pair of neighbours along the inner
dimension, which is words of a key but tokens of a value; as both lie in whole words, a pair is picked from two words,
and bytes are never moved through shared memory to transpose them. Up to 16 heads of 128 numbers are the work of
one warp, which waits for no other.

Conversion, two words to four pairs: for the low seven bits u of a byte and its sign bit t, 0x4300 | u is the bfloat16
128 + u, 0x4300 | t is 128 or 256, and their difference the byte, exactly. 0x6480 ^ byte is the float16 1152 + byte.
"""

from __future__ import annotations

import torch
from torch import Tensor

from deshi.kernels.triton_or_none import INTERPRETED, dot, jit, tl, triton
from deshi.kernels.tuning import Config
from deshi.kernels.weight_only import NAMES

MAX_SPLITS = 64
LOG2_E = 1.4426950408889634
_BYTES = (0x4400, 0x5511, 0x6622, 0x7733)  # byte j of both words, each twice
_BF16 = """prmt.b32 t, $4, $5, {pick:#x};
lop3.b32 low, t, 0x007F007F, 0x43004300, 0xEA;
lop3.b32 sign, t, 0x00800080, 0x43004300, 0xEA;
fma.rn.bf16x2 ${j}, sign, minus, low;
"""
_FP16 = """prmt.b32 t, $4, $5, {pick:#x};
lop3.b32 t, t, 0x00FF00FF, 0x64806480, 0x6A;
sub.f16x2 ${j}, t, shift;
"""


def _assembled(head: str, step: str) -> str:
    return "{\n" + head + "".join(step.format(pick=pick, j=j) for j, pick in enumerate(_BYTES)) + "}"


PAIRS = {
    "bf16": _assembled(".reg .b32 t, low, sign, minus;\nmov.b32 minus, 0xBF80BF80;\n", _BF16),
    "fp16": _assembled(".reg .b32 t, shift;\nmov.b32 shift, 0x64806480;\n", _FP16),
}


@jit
def numbers(word: tl.tensor, like: tl.tensor, ASM: tl.constexpr) -> tl.tensor:
    """The four int8 of words [..], each [..] in the 16-bit type of `like`."""
    if INTERPRETED:
        return (
            (word << 24 >> 24).to(tl.float32),
            (word << 16 >> 24).to(tl.float32),
            (word << 8 >> 24).to(tl.float32),
            (word >> 24).to(tl.float32),
        )
    else:
        half = like.dtype
        return tl.inline_asm_elementwise(
            ASM, "=r,=r,=r,=r,r,r", args=[word], dtype=(half, half, half, half), is_pure=True, pack=2
        )


@jit
def words(start: tl.tensor, n: tl.tensor, c: tl.tensor, inside: tl.tensor, D: tl.constexpr) -> tl.tensor:
    """Word c of token n. A head whose size four does not divide is read byte by byte."""
    if D % 4 == 0:
        mask = inside[:, None]
        if c.shape[0] > D // 4:
            mask = mask & (c < D // 4)[None, :]
        return tl.load(start + n[:, None] * (D // 4) + c[None, :], mask=mask, other=0)
    else:
        word = tl.zeros([n.shape[0], c.shape[0]], tl.int32)
        for j in tl.static_range(4):
            mask = inside[:, None] & (4 * c + j < D)[None, :]
            byte = tl.load(start + n[:, None] * D + (4 * c + j)[None, :], mask=mask, other=0)
            word |= (byte.to(tl.int32) & 255) << 8 * j
        return word


@jit
def decode_kernel(
    query: tl.tensor,
    keys: tl.tensor,
    key_scale: tl.tensor,
    values: tl.tensor,
    value_scale: tl.tensor,
    lengths: tl.tensor,
    out: tl.tensor,
    log_total: tl.tensor,
    context: tl.tensor,
    row_stride: tl.tensor,
    head_stride: tl.tensor,
    factor: tl.tensor,
    GROUP: tl.constexpr,
    D: tl.constexpr,
    WHOLE: tl.constexpr,
    BLOCK_G: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    ASM_K: tl.constexpr,
    ASM_V: tl.constexpr,
) -> None:
    """One split of one key-value head of one row. WHOLE: it is the only split, and `out` the output."""
    split, kv_head, row = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    splits, kv_heads = tl.num_programs(0), tl.num_programs(1)
    length = tl.minimum(tl.load(lengths + row).to(tl.int32), context)
    each = tl.cdiv(tl.cdiv(length, BLOCK_N), splits)
    first = split * each
    count = tl.minimum(each, tl.cdiv(length, BLOCK_N) - first)
    g = tl.arange(0, BLOCK_G)
    d = tl.arange(0, BLOCK_D)
    c = tl.arange(0, BLOCK_D // 4)
    real = (g < GROUP)[:, None] & (d < D)[None, :]
    at = row.to(tl.int64) * row_stride + (kv_head * GROUP + g)[:, None] * head_stride + d[None, :]
    q = tl.load(query + at, mask=real, other=0.0).reshape(BLOCK_G, BLOCK_D // 4, 2, 2)
    even, odd = tl.split(q)
    q0, q2 = tl.split(even)
    q1, q3 = tl.split(odd)
    start = (row * kv_heads + kv_head).to(tl.int64) * context
    key_scale += start
    value_scale += start
    # In words, or in bytes where a head is not made of whole words.
    keys += start * (D // 4 if D % 4 == 0 else D)
    values += start * (D // 4 if D % 4 == 0 else D)
    like_v = tl.zeros([1], tl.bfloat16)
    most = tl.full([BLOCK_G], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_G], tl.float32)
    acc0 = tl.zeros([BLOCK_G, BLOCK_D // 4], tl.float32)
    acc1 = tl.zeros([BLOCK_G, BLOCK_D // 4], tl.float32)
    acc2 = tl.zeros([BLOCK_G, BLOCK_D // 4], tl.float32)
    acc3 = tl.zeros([BLOCK_G, BLOCK_D // 4], tl.float32)
    for step in range(0, count):
        n = (first + step) * BLOCK_N + tl.arange(0, BLOCK_N)
        inside = n < length
        k = numbers(words(keys, n, c, inside, D), q0, ASM_K)
        x = dot(q0, k[0].trans(), tl.zeros([BLOCK_G, BLOCK_N], tl.float32))
        x = dot(q1, k[1].trans(), x)
        x = dot(q2, k[2].trans(), x)
        x = dot(q3, k[3].trans(), x)
        x *= (tl.load(key_scale + n, mask=inside, other=0.0) * factor)[None, :]
        x = tl.where(inside[None, :], x, float("-inf"))
        now = tl.maximum(most, tl.max(x, 1))
        decay = tl.exp2(most - now)
        p = tl.exp2(x - now[:, None])
        total = total * decay + tl.sum(p, 1)
        most = now
        v = numbers(words(values, n, c, inside, D), like_v, ASM_V)
        p = (p * tl.load(value_scale + n, mask=inside, other=0.0)[None, :]).to(tl.bfloat16)
        acc0 = dot(p, v[0], acc0 * decay[:, None])
        acc1 = dot(p, v[1], acc1 * decay[:, None])
        acc2 = dot(p, v[2], acc2 * decay[:, None])
        acc3 = dot(p, v[3], acc3 * decay[:, None])
    share = tl.interleave(tl.interleave(acc0, acc2), tl.interleave(acc1, acc3)) / total[:, None]
    head = (row * kv_heads + kv_head) * GROUP + g
    if WHOLE:
        to = head.to(tl.int64)[:, None] * D + d[None, :]
        tl.store(out + to, tl.where(length > 0, share, 0.0).to(out.dtype.element_ty), mask=real)
    else:
        to = head.to(tl.int64) * splits + split
        tl.store(log_total + to, tl.where(count > 0, most + tl.log2(total), float("-inf")), mask=g < GROUP)
        tl.store(out + to[:, None] * D + d[None, :], share, mask=real & (tl.zeros_like(d) + count > 0)[None, :])


@jit
def combine_kernel(
    share: tl.tensor,
    log_total: tl.tensor,
    out: tl.tensor,
    D: tl.constexpr,
    SPLITS: tl.constexpr,
    BLOCK_D: tl.constexpr,
) -> None:
    """One query head of one row, BLOCK_D of its numbers: the splits' shares, weighted."""
    head = tl.program_id(0).to(tl.int64)
    d = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    split = head * SPLITS + tl.arange(0, SPLITS)
    log = tl.load(log_total + split)
    worked = log != float("-inf")  # also if it is NaN
    weight = tl.where(worked, tl.exp2(log - tl.max(log, 0)), 0.0)
    at = split[:, None] * D + d[None, :]
    part = tl.load(share + at, mask=worked[:, None] & (d < D)[None, :], other=0.0)
    total = tl.sum(weight, 0)
    y = tl.where(total == 0.0, 0.0, tl.sum(part * weight[:, None], 0) / total)
    tl.store(out + head * D + d, y.to(out.dtype.element_ty), mask=d < D)


def splits(rows: int, kv_heads: int, context: int, config: Config) -> int:
    """Programs for each key-value head of each row, a power of two: by shapes alone."""
    count = 1
    while 2 * count <= min(MAX_SPLITS, context // config.block_n) and 2 * count * rows * kv_heads <= config.programs:
        count *= 2
    return count


def warps(block_g: int, block_d: int, config: Config) -> int:
    """Of a program: the registers of one hold the sums of 16 query heads of 128 numbers, and at need twice as many."""
    return min(8, config.warps * (block_g // 16) * max(1, block_d // 128))


def run(
    query: Tensor,
    keys: Tensor,
    key_scale: Tensor,
    values: Tensor,
    value_scale: Tensor,
    lengths: Tensor,
    scaling: float,
    config: Config,
) -> Tensor:
    """The kernels at these sizes: [rows, heads, D] in the type of the query."""
    rows, heads, size = query.shape
    kv_heads, context = keys.shape[1:3]
    block_g = max(16, triton.next_power_of_2(heads // kv_heads))
    block_d = max(64, triton.next_power_of_2(size))
    if size % 4 == 0:
        keys, values = keys.view(torch.int32), values.view(torch.int32)
    out = query.new_empty(query.shape)
    count = splits(rows, kv_heads, context, config)
    share, log_total = out, None
    if count > 1:
        share = query.new_empty(rows, heads, count, size, dtype=torch.float32)
        log_total = query.new_empty(rows, heads, count, dtype=torch.float32)
    decode_kernel[(count, kv_heads, rows)](
        query,
        keys,
        key_scale,
        values,
        value_scale,
        lengths,
        share,
        log_total,
        context,
        query.stride(0),
        query.stride(1),
        scaling * LOG2_E,
        GROUP=heads // kv_heads,
        D=size,
        WHOLE=count == 1,
        BLOCK_G=block_g,
        BLOCK_N=config.block_n,
        BLOCK_D=block_d,
        ASM_K=PAIRS[NAMES[query.dtype]],
        ASM_V=PAIRS["bf16"],
        num_warps=warps(block_g, block_d, config),
        num_stages=config.stages,
    )
    if count > 1:
        grid = (rows * heads, triton.cdiv(size, 64))
        combine_kernel[grid](share, log_total, out, D=size, SPLITS=count, BLOCK_D=64, num_warps=4)
    return out
