"""A divergence from cached answers, the teacher's top k and one bucket for the rest, and its gradient over the logits.

Student logits x [c, v]; ids [c, k], each once a row, log_probs [c, k] and log_tail [c] the teacher's. Both sides become
distributions over k + 1 outcomes, and with D and f of divergences.py taken between those, at temperature T,

    o_j = x[id_j],  o_tail = log sum of e^x over what is not listed          outcomes; without the tail where k = v
    q = softmax(o / T),  p = softmax((log_probs, log_tail) / T)
    s = distil_weight T q (f - sum q f) + ce_weight softmax(o)               slope of each outcome
    x[id_j] <- s_j,  x[i] <- s_tail e^(x[i] - o_tail) elsewhere,             and ce_weight less at the label
    values[r] = (T^2 D, o-logsumexp - x[label])

The tail's logsumexp is computed, never log(1 - sum), which loses all digits where the student is sure. A bucket cannot
be softened exactly, since that needs the probabilities inside it: both sides are softened over the outcomes. By the
data-processing inequality D is then at most the one over the whole vocabulary at T = 1; with k = v it is that one at
any T. p sums to one however the cache rounded; a tail of less than e^-80 counts as that, so that no D is infinite.

The kernel gives each row to a program: it takes the listed logits out and leaves -inf in their place, passes over the
row for the tail's logsumexp, holds the k + 1 outcomes in registers (k + 1 <= 1024), and passes again to share the
tail's slope by softmax. The listed slopes are written last. Policies are those of divergence_gradient.py, and an id
beyond v counts as not finite too, on a GPU. So are the bounds, over the outcomes and with e(l) + e(0) / min(T, 1) for
e(l), and for x[i] of the tail that of s_tail times its share, plus 2 e |x[i]|.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from deshi.kernels.divergence_gradient import check_logits, labels_of, numbers_of, sizes_of
from deshi.kernels.divergences import check_settings, log_softmax, row_divergence, terms
from deshi.kernels.online_softmax import LOWEST, SIZES, exp, get, label_of, numbers, observe, put, settle, takes
from deshi.kernels.through_head import at_least_float32, blocks
from deshi.kernels.triton_or_none import jit, tl, triton
from deshi.kernels.tuning import Config

# A tail of no mass counts as e^-80, which is nothing in float32 and keeps 0 times infinity out of the divergences.
NO_MASS = -80.0
MAX_OUTCOMES = 1024  # of a program; more take the reference


@jit
def log_softmax_of(outcomes: tl.tensor, scale: tl.tensor) -> tl.tensor:
    """Of a vector, at temperature 1 / scale; what is -inf stays so."""
    gaps = (outcomes - tl.max(outcomes, 0)) * scale
    return gaps - tl.log(tl.sum(exp(gaps), 0))


@jit
def share_out(
    x: tl.tensor,
    n: tl.tensor,
    V: tl.tensor,
    top: tl.tensor,
    part: tl.tensor,
    label: tl.tensor,
    MASKED: tl.constexpr,
) -> None:
    """Writes one block of the gradient of what is not listed: the tail's slope shared by softmax, less the label's."""
    gradient = part * exp(get(x, n, V, MASKED) - top)
    if label is not None:
        at, ce_weight = label
        gradient -= tl.where(n == at, ce_weight, 0.0)
    put(x, n, gradient, V, MASKED)


@jit
def topk_kernel(
    student: tl.tensor,
    ids: tl.tensor,
    log_probs: tl.tensor,
    log_tail: tl.tensor,
    labels: tl.tensor,
    values: tl.tensor,
    V: tl.tensor,
    K: tl.tensor,
    student_stride: tl.tensor,
    temperature: tl.tensor,
    scale: tl.tensor,
    alpha: tl.tensor,
    rest: tl.tensor,
    distil_weight: tl.tensor,
    ce_weight: tl.tensor,
    NO_MASS: tl.constexpr,
    KIND: tl.constexpr,
    OUTCOMES: tl.constexpr,
    BLOCK: tl.constexpr,
    WIDTH: tl.constexpr,
) -> None:
    """One row. Outcome K is the tail. The barriers order what one thread writes of the row and another reads."""
    row = tl.program_id(0).to(tl.int64)
    x = student + row * student_stride
    j = tl.arange(0, OUTCOMES)
    listed = j < K
    piece = tl.load(ids + row * K + j, mask=listed, other=0).to(tl.int32)
    inside = listed & (piece >= 0) & (piece < V)
    outcomes = tl.load(x + piece, mask=inside, other=-float("inf")).to(tl.float32)
    outcomes = tl.where(listed != inside, float("nan"), outcomes)
    log_p = tl.load(log_probs + row * K + j, mask=listed, other=-float("inf")).to(tl.float32)
    label, logit = None, 0.0
    if labels is not None:
        at, logit, ce_weight = label_of(labels, row, x, V, ce_weight)
        label = (at, ce_weight)
    full = (V - 1) // BLOCK
    end = numbers(full * BLOCK, BLOCK, WIDTH)
    if log_tail is not None:
        tl.debug_barrier()
        tl.store(x + piece, tl.full([OUTCOMES], -float("inf"), x.dtype.element_ty), mask=inside)
        tl.debug_barrier()
        peak = tl.full([BLOCK // WIDTH], LOWEST, tl.float32)
        mass = tl.zeros([BLOCK // WIDTH], tl.float32)
        for step in range(0, full):
            peak, mass = observe(get(x, numbers(step * BLOCK, BLOCK, WIDTH), V, False), peak, mass, 1.0)
        peak, mass = observe(get(x, end, V, True), peak, mass, 1.0)
        top, log_mass = settle(peak, mass, 1.0)
        # From the tail's largest logit on, so that logits far from 0 lose nothing; where the tail is empty, from 0 on.
        base = tl.where(log_mass < 0.0, 0.0, top)
        outcomes, logit = tl.where(j == K, log_mass, outcomes - base), logit - base
        tail = tl.load(log_tail + row).to(tl.float32)
        log_p = tl.where(j == K, tl.where(tail < NO_MASS, NO_MASS, tail), log_p)

    log_q = log_softmax_of(outcomes, scale)
    q, q_f, value = terms(log_q, log_softmax_of(log_p, scale), alpha, rest, KIND)
    slope = distil_weight * temperature * (q_f - q * tl.sum(q_f, 0))
    tl.store(values + 2 * row, temperature * temperature * tl.sum(value, 0))
    if labels is not None:
        log_1 = log_softmax_of(outcomes, 1.0)
        slope += ce_weight * exp(log_1)
        # The largest outcome and its log-probability tell the logsumexp. The last term is 0, or NaN where the row is.
        cross_entropy = tl.max(outcomes, 0) - logit - tl.max(log_1, 0) + 0.0 * tl.sum(slope, 0)
        tl.store(values + 2 * row + 1, tl.where(ce_weight == 0.0, 0.0, cross_entropy))
    if log_tail is not None:
        part = tl.sum(tl.where(j == K, slope, 0.0), 0) * tl.exp(-log_mass)
        for step in range(0, full):
            share_out(x, numbers(step * BLOCK, BLOCK, WIDTH), V, top, part, label, False)
        share_out(x, end, V, top, part, label, True)
    tl.debug_barrier()
    if labels is not None:
        slope -= tl.where(piece == at, ce_weight, 0.0)
    tl.store(x + piece, slope.to(x.dtype.element_ty), mask=inside)


def topk_gradient_(
    student_logits: Tensor,
    ids: Tensor,
    log_probs: Tensor,
    log_tail: Tensor,
    labels: Tensor | None = None,
    *,
    kind: str,
    temperature: float,
    alpha: float,
    distil_weight: float = 1.0,
    ce_weight: float = 0.0,
) -> Tensor:
    """values [c, 2] in float32 or better; student_logits [c, v] are overwritten by the gradient.

    Raises:
        ValueError: for settings, shapes, types or devices that do not belong together.
    """
    check_settings(kind, temperature, alpha)
    check_logits(student_logits, labels, ce_weight)
    check_answers(ids, log_probs, log_tail, *student_logits.shape)
    for name, tensor in (("ids", ids), ("log-probabilities", log_probs), ("tails", log_tail)):
        if tensor.device != student_logits.device:
            raise ValueError(
                f"{name} are on {tensor.device} and the student's logits on {student_logits.device}; move one"
            )
    # Without a tail its column is not read.
    tail = log_tail if ids.shape[1] < student_logits.shape[1] else None
    labels = labels if ce_weight else None
    return _topk_gradient(
        student_logits, ids, log_probs, tail, labels, kind, temperature, alpha, distil_weight, ce_weight
    )


def check_answers(ids: Tensor, log_probs: Tensor, log_tail: Tensor, n: int, size: int) -> None:
    """Refuses answers that are not those of n tokens over a vocabulary of `size`."""
    if not (ids.ndim == 2 and ids.shape == log_probs.shape and ids.shape[0] == n and log_tail.shape == (n,)):
        raise ValueError(
            f"ids {tuple(ids.shape)}, log-probabilities {tuple(log_probs.shape)} and tails {tuple(log_tail.shape)} "
            f"must be [{n}, k], [{n}, k] and [{n}], one row for each target token; read the answers of the same tokens"
        )
    if not (0 < ids.shape[1] <= size):
        raise ValueError(
            f"{ids.shape[1]} listed answers a token must be 1 to {size}, the vocabulary; cache the answers again"
        )
    if ids.is_floating_point() or not (log_probs.is_floating_point() and log_tail.is_floating_point()):
        raise ValueError(
            f"ids are {ids.dtype}, log-probabilities {log_probs.dtype} and tails {log_tail.dtype}; give integers "
            "and floats"
        )


def run_topk(
    student_logits: Tensor,
    ids: Tensor,
    log_probs: Tensor,
    log_tail: Tensor | None,
    labels: Tensor | None,
    kind: str,
    temperature: float,
    alpha: float,
    distil_weight: float,
    ce_weight: float,
    config: Config,
) -> Tensor:
    """The kernel at these sizes. No tail where all is listed."""
    values = student_logits.new_zeros(len(student_logits), 2, dtype=torch.float32)
    if len(values) == 0:
        return values
    listed = ids.shape[1]
    topk_kernel[(len(values),)](
        student_logits,
        ids.contiguous(),
        log_probs.contiguous(),
        None if log_tail is None else log_tail.contiguous(),
        None if labels is None else labels.contiguous(),
        values,
        student_logits.shape[1],
        listed,
        student_logits.stride(0),
        *numbers_of(temperature, alpha, distil_weight, ce_weight),
        NO_MASS=NO_MASS,
        OUTCOMES=triton.next_power_of_2(listed + (log_tail is not None)),
        **sizes_of(student_logits, kind, alpha, config),
    )
    return values


def reference(
    student_logits: Tensor,
    ids: Tensor,
    log_probs: Tensor,
    log_tail: Tensor | None,
    labels: Tensor | None,
    kind: str,
    temperature: float,
    alpha: float,
    distil_weight: float,
    ce_weight: float,
) -> Tensor:
    """The same in plain PyTorch, in blocks of rows that stay in the processor's cache."""
    dtype, divergence = at_least_float32(student_logits), row_divergence(kind, alpha)
    values = student_logits.new_zeros(len(student_logits), 2, dtype=dtype)
    teacher = log_probs if log_tail is None else torch.cat([log_probs, log_tail[:, None].clamp(min=NO_MASS)], dim=1)
    log_p = log_softmax(teacher.to(dtype), temperature)
    for rows in blocks(student_logits):
        block, listed = student_logits[rows].to(dtype), ids[rows].long()
        if labels is not None:
            at, weight = labels_of(labels[rows], ce_weight, dtype)
            at_label = block.gather(1, at)
        outcomes = block.gather(1, listed)
        rest = block.scatter_(1, listed, -torch.inf)
        if log_tail is not None:
            # exp(rest - peak) gives the tail's mass and, divided by it, how the tail is shared: one exponential.
            peak = rest.amax(dim=-1, keepdim=True)
            rest = rest.sub_(peak).exp_()
            mass = rest.sum(dim=-1, keepdim=True)
            outcomes = torch.cat([outcomes, peak + mass.log()], dim=1)
        value, slope = divergence(log_softmax(outcomes, temperature), log_p[rows])
        values[rows, 0] = temperature**2 * value
        slope.mul_(distil_weight * temperature)
        if labels is not None:
            lse = outcomes.logsumexp(dim=-1, keepdim=True)
            values[rows, 1] = (lse - at_label).where(weight != 0, 0.0).squeeze(1)
            slope += weight * (outcomes - lse).exp()
        gradient = rest.mul_(slope[:, -1:] / mass) if log_tail is not None else rest
        gradient.scatter_(1, listed, slope[:, : listed.shape[1]])
        if labels is not None:
            gradient.scatter_add_(1, at, -weight)
        if student_logits.dtype != dtype:  # elsewhere all of this happened in the logits' own memory
            student_logits[rows] = gradient
    return values


_topk_gradient = torch.library.custom_op(
    "deshi::topk_gradient_", reference, mutates_args=("student_logits",), device_types="cpu"
)


@_topk_gradient.register_kernel("cuda")
def _(student: Tensor, ids: Tensor, *rest: Any) -> Tensor:
    fits = takes(student) and ids.shape[1] < MAX_OUTCOMES
    return run_topk(*(student, ids, *rest, SIZES)) if fits else reference(student, ids, *rest)


@_topk_gradient.register_fake
def _(student: Tensor, *_: object) -> Tensor:
    return student.new_empty(len(student), 2, dtype=at_least_float32(student))
