"""Storing tokens in the int8 key-value cache: each is quantized from itself alone and written where it belongs.

`kv_int8.py` states the layout, the rule and its error. A program takes BLOCK_T new tokens of one key-value head of one
row, and both their keys and values: s = max |x| / 127 over a head's D numbers, q = round(x / s). Both divisions are
rounded to nearest, so that it stores what the reference in plain PyTorch does, bit for bit.
"""

from __future__ import annotations

from torch import Tensor

from deshi.kernels.triton_or_none import jit, tl, triton

BLOCK_T = 16  # tokens of a program that stores a prompt


@jit
def store_tokens(
    new: tl.tensor,
    stored: tl.tensor,
    scale: tl.tensor,
    to: tl.tensor,
    fits: tl.tensor,
    token: tl.tensor,
    stride: tl.tensor,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
) -> None:
    """Quantizes tokens of one head and stores each as token `to` of the cache, if it fits."""
    d = tl.arange(0, BLOCK_D)
    mask = fits[:, None] & (d < D)[None, :]
    x = tl.load(new + token.to(tl.int64)[:, None] * stride + d[None, :], mask=mask, other=0.0).to(tl.float32)
    # The largest as bits: NaN is above infinity there, which is above all numbers.
    largest = tl.max(x.to(tl.int32, bitcast=True) & 0x7FFFFFFF, 1).to(tl.float32, bitcast=True)
    s = tl.div_rn(largest, 127.0)
    s = tl.where(s < 1.1754943508222875e-38, 1.1754943508222875e-38, s)  # a NaN stays one
    q = tl.div_rn(x, tl.broadcast_to(s[:, None], x.shape))
    q = (q + 12582912.0) - 12582912.0  # 1.5 * 2^23: to the nearest integer, half to even
    q = tl.where(tl.abs(q) <= 127.0, q, 0.0)
    tl.store(stored + to[:, None] * D + d[None, :], q.to(tl.int8), mask=mask)
    tl.store(scale + to, s, mask=fits)


@jit
def write_kernel(
    keys_new: tl.tensor,
    values_new: tl.tensor,
    keys: tl.tensor,
    key_scale: tl.tensor,
    values: tl.tensor,
    value_scale: tl.tensor,
    positions: tl.tensor,
    context: tl.tensor,
    new: tl.tensor,
    k_row: tl.tensor,
    k_head: tl.tensor,
    k_token: tl.tensor,
    v_row: tl.tensor,
    v_head: tl.tensor,
    v_token: tl.tensor,
    D: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_D: tl.constexpr,
) -> None:
    """BLOCK_T new tokens of one head of one row."""
    token = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    head, row = tl.program_id(1), tl.program_id(2)
    position = tl.load(positions + row * new + token, mask=token < new, other=-1).to(tl.int64)
    fits = (position >= 0) & (position < context)
    to = (row * tl.num_programs(1) + head).to(tl.int64) * context + position
    row = row.to(tl.int64)
    store_tokens(keys_new + row * k_row + head * k_head, keys, key_scale, to, fits, token, k_token, D, BLOCK_D)
    store_tokens(values_new + row * v_row + head * v_head, values, value_scale, to, fits, token, v_token, D, BLOCK_D)


def run(
    keys_new: Tensor,
    values_new: Tensor,
    keys: Tensor,
    key_scale: Tensor,
    values: Tensor,
    value_scale: Tensor,
    first_row: int,
    positions: Tensor,
) -> None:
    """Launches it for rows [first_row, first_row + n) of the cache."""
    n, kv_heads, new, size = keys_new.shape
    block_t = 1 if new == 1 else BLOCK_T
    # Rows are skipped here and not in the kernel, which would be compiled anew for some numbers of them.
    rows = (stored[first_row:] for stored in (keys, key_scale, values, value_scale))
    write_kernel[(triton.cdiv(new, block_t), kv_heads, n)](
        keys_new,
        values_new,
        *rows,
        positions,
        keys.shape[2],
        new,
        *keys_new.stride()[:3],
        *values_new.stride()[:3],
        D=size,
        BLOCK_T=block_t,
        BLOCK_D=triton.next_power_of_2(size),
        num_warps=1 if new == 1 else 4,
    )
