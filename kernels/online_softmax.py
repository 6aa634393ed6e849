"""A row of logits that streams through one program: its softmax in one pass, and what both loss kernels share.

A block of BLOCK logits is [BLOCK / WIDTH, WIDTH], the WIDTH of one lane being one 128-bit load. Each lane keeps a
maximum and a sum of exponentials of its own, so that lanes need not meet before the row's end (Milakov & Gimelshein
2018, arXiv 1805.02867):

    peak' = max(peak, x_1, ..., x_WIDTH)        mass' = mass e^((peak - peak') / T) + sum_i e^((x_i - peak') / T)
    log sum_i e^(x_i / T) = top / T + log(sum over lanes of mass e^((peak - top) / T)),  top = max over lanes of peak

All in float32, u = 2^-24. The processor's own exponential and logarithm are used, which are good to 4u (PTX ISA,
ex2.approx and lg2.approx) and take what is below 2^-126 for 0. An exponential passes through at most v / BLOCK
rescalings, whose exponents add up to its own. So a log-probability l is off by at most

    e(l) = (6 v / BLOCK + 5 ln v + 32 + 6 |l|) u

NaN and +inf make both results NaN, and so does a row of -inf alone; among other numbers -inf adds nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor

from deshi.kernels.triton_or_none import INTERPRETED, jit, tl, triton
from deshi.kernels.tuning import Config

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
# Eight 16-bit logits a thread are one 128-bit load; four programs fit on a processor. Rows stream through, so that the
# memory's speed decides and not these sizes.
SIZES = Config(rows=None, block_n=2048, warps=8)
# Where a running maximum begins: not at -inf, which taken from itself is NaN.
LOWEST = None if tl is None else tl.constexpr(torch.finfo(torch.float32).min)


@jit
def exp(x: tl.tensor) -> tl.tensor:
    """e^x in two instructions; tl.exp takes six, for results below 2^-126."""
    if INTERPRETED:
        return tl.exp(x)
    else:
        return tl.inline_asm_elementwise(
            "ex2.approx.ftz.f32 $0, $1;", "=f,f", args=[x * 1.4426950408889634], dtype=tl.float32, is_pure=True, pack=1
        )


@jit
def log(x: tl.tensor) -> tl.tensor:
    """ln x in two instructions, where tl.log takes twenty."""
    if INTERPRETED:
        return tl.log(x)
    else:
        base_2 = tl.inline_asm_elementwise(
            "lg2.approx.ftz.f32 $0, $1;", "=f,f", args=[x], dtype=tl.float32, is_pure=True, pack=1
        )
        return base_2 * 0.6931471805599453


@jit
def observe(x: tl.tensor, peak: tl.tensor, mass: tl.tensor, scale: tl.tensor) -> tl.tensor:
    """Lane by lane, the maximum so far and sum exp((x - maximum) scale) with a block more; scale is 1 / T."""
    higher = tl.maximum(peak, tl.max(x, 1))
    return higher, mass * exp((peak - higher) * scale) + tl.sum(exp((x - higher[:, None]) * scale), 1)


@jit
def settle(peak: tl.tensor, mass: tl.tensor, scale: tl.tensor) -> tl.tensor:
    """All lanes' maximum, and the logarithm of sum exp((x - maximum) scale)."""
    top = tl.max(peak, 0)
    return top, tl.log(tl.sum(mass * exp((peak - top) * scale), 0))


@jit
def numbers(start: tl.tensor, BLOCK: tl.constexpr, WIDTH: tl.constexpr) -> tl.tensor:
    """The places in the row of a block that begins at `start`."""
    return start + tl.arange(0, BLOCK // WIDTH)[:, None] * WIDTH + tl.arange(0, WIDTH)[None, :]


@jit
def get(row: tl.tensor, n: tl.tensor, V: tl.tensor, MASKED: tl.constexpr) -> tl.tensor:
    """The logits there, in float32. Only a row's last block is masked: a mask at an odd v splits 128-bit loads."""
    if MASKED:
        return tl.load(row + n, mask=n < V, other=-float("inf")).to(tl.float32)
    return tl.load(row + n).to(tl.float32)


@jit
def put(row: tl.tensor, n: tl.tensor, x: tl.tensor, V: tl.tensor, MASKED: tl.constexpr) -> None:
    """Writes x there."""
    if MASKED:
        tl.store(row + n, x.to(row.dtype.element_ty), mask=n < V)
    else:
        tl.store(row + n, x.to(row.dtype.element_ty))


@jit
def label_of(labels: tl.tensor, row: tl.tensor, x: tl.tensor, V: tl.tensor, ce_weight: tl.tensor) -> tl.tensor:
    """The row's label, its logit and the weight of its cross-entropy: 0 without a label, NaN with one beyond v."""
    label = tl.load(labels + row).to(tl.int64)
    known = (label >= 0) & (label < V)
    logit = tl.load(x + label, mask=known, other=0.0).to(tl.float32)
    weight = tl.where(known, ce_weight, tl.where(label < 0, 0.0, float("nan")))
    return tl.where(known, label, -1).to(tl.int32), logit, weight


def takes(*logits: Tensor) -> bool:
    """Whether the kernels do; the references take the rest."""
    return triton is not None and all(one.dtype in DTYPES for one in logits)
