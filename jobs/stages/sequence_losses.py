"""Distillation of a language model from an online teacher, over the whole vocabulary, in nats per target token.

The student's hidden states h [n, d] at the target tokens meet its head W [v, d], the teacher's [n, dt] its own
[v, dt]. The divergences are those of losses.py with the same conventions: at temperature T, times T^2, mean over the
tokens. They pass through through_head.py chunk by chunk, where the gradient in the logits is asked for with the value:
with f = dL/dq of a row it is q (f - sum q f), written out for each below. Cross-entropy shares the pass, and at T = 1
the student's softmax.

Cached top-k answers are in topk_loss.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from deshi.jobs.stages.losses import LOSSES
from deshi.jobs.stages.through_head import Mixed, at_least_float32, blocks, check, chunk_tokens, through_head


def online_loss(
    hidden: Tensor,
    head: Tensor,
    teacher_hidden: Tensor,
    teacher_head: Tensor,
    *,
    loss: str,
    temperature: float,
    alpha: float,
    labels: Tensor | None = None,
    distil_weight: float = 1.0,
    ce_weight: float = 0.0,
    vocabulary: int | None = None,
) -> Mixed:
    """`distil_weight` times a divergence from an online teacher plus `ce_weight` times cross-entropy on labels [n].

    The student is hidden [n, d] with head [v, d], the teacher teacher_hidden [n, dt] with teacher_head [vt, dt]; it
    gets no gradient. `vocabulary` is the common size where one head has padded rows (see
    vocabulary_match.same_vocabulary); rows beyond it take no part and get gradient 0.
    """
    size = common_rows(head, teacher_head, vocabulary)
    divergence = row_divergence(loss, temperature, alpha)
    check(hidden, head, labels, ce_weight)
    _require(
        len(teacher_hidden) == len(hidden) and teacher_hidden.dtype == teacher_head.dtype,
        f"teacher states {tuple(teacher_hidden.shape)} {teacher_hidden.dtype} with a head in {teacher_head.dtype} must "
        f"have one row for each of the student's {len(hidden)} tokens and the head's type; give both the same targets",
    )
    states, teacher_rows = teacher_hidden.detach(), teacher_head.detach()[:size]
    dtype = at_least_float32(head)
    buffer = states.new_empty(min(chunk_tokens(hidden.device, size), len(hidden)), size)

    def judge(logits: Tensor, tokens: slice) -> Tensor:
        teacher_logits = torch.mm(states[tokens], teacher_rows.t(), out=buffer[: len(logits)])
        sums = logits.new_zeros(2, dtype=dtype)
        for rows in blocks(logits):
            student = logits[rows].to(dtype)
            log_q = _log_softmax(student, temperature)
            log_p = _log_softmax(teacher_logits[rows].to(dtype), temperature)
            value, gradient = divergence(log_q, log_p)
            sums[0] += temperature**2 * value.sum()
            gradient.mul_(distil_weight * temperature)  # T^2, and 1/T since the logits were divided by it
            if labels is not None and ce_weight:
                plain = log_q if temperature == 1 else _log_softmax(student, 1.0)
                at = labels[tokens][rows, None].long()
                sums[1] -= plain.gather(1, at).sum()
                gradient.add_(plain.exp_(), alpha=ce_weight)
                gradient.scatter_add_(1, at, gradient.new_full(at.shape, -ce_weight))
            logits[rows] = gradient
        return sums

    return through_head(hidden, head, size, judge, distil_weight=distil_weight, ce_weight=ce_weight)


def row_divergence(name: str, temperature: float, alpha: float) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """From log q, log p [r, v] to each row's divergence [r] and its gradient [r, v] in the student's softened logits.

    The edges of alpha mean what they mean in losses.py.
    """
    _require(name in LOSSES, f"loss {name!r} is not known; take one of {', '.join(LOSSES)}")
    # One class on which teacher and student agree: losses.py itself says whether it takes these settings.
    LOSSES[name](torch.zeros(1, 1), torch.zeros(1, 1), temperature=temperature, alpha=alpha)
    if name == "forward_kl" or (name in ("jsd", "skew_kl") and alpha == 0):
        return _forward_kl
    if name == "reverse_kl" or (name == "jsd" and alpha == 1):
        return _reverse_kl
    mixture = _jsd if name == "jsd" else _skew_kl
    return lambda log_q, log_p: mixture(log_q, log_p, alpha)


def common_rows(head: Tensor, teacher_head: Tensor, vocabulary: int | None) -> int:
    """How many rows of both heads mean the same pieces."""
    sizes = len(head), len(teacher_head)
    _require(
        sizes[0] == sizes[1] or vocabulary is not None,
        f"the student's head has {sizes[0]} rows and the teacher's {sizes[1]}; if they differ by padding alone, "
        "give the common size as `vocabulary` (same_vocabulary tells it)",
    )
    size = sizes[0] if vocabulary is None else vocabulary
    _require(0 < size <= min(sizes), f"vocabulary {size} must lie in 1..{min(sizes)}, the rows that both heads have")
    return size


def _forward_kl(log_q: Tensor, log_p: Tensor) -> tuple[Tensor, Tensor]:
    p = log_p.exp()
    value = (p * (log_p - log_q)).sum(dim=-1)
    return value, log_q.exp().sub_(p)


def _reverse_kl(log_q: Tensor, log_p: Tensor) -> tuple[Tensor, Tensor]:
    q, gap = log_q.exp(), log_q - log_p
    value = (q * gap).sum(dim=-1, keepdim=True)
    return value.squeeze(-1), gap.sub_(value).mul_(q)


def _jsd(log_q: Tensor, log_p: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    log_m, q = _log_mixture(log_p, log_q, beta), log_q.exp()
    to_teacher = (log_p.exp() * (log_p - log_m)).sum(dim=-1)
    gap = log_q - log_m
    to_student = (q * gap).sum(dim=-1, keepdim=True)
    value = beta * to_teacher + (1 - beta) * to_student.squeeze(-1)
    return value, gap.sub_(to_student).mul_(q).mul_(1 - beta)


def _skew_kl(log_q: Tensor, log_p: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    gap = log_p - _log_mixture(log_p, log_q, alpha)
    value = (log_p.exp() * gap).sum(dim=-1)
    q, ratio = log_q.exp(), gap.exp_()  # p / m, at most 1 / alpha
    mean = (q * ratio).sum(dim=-1, keepdim=True)
    return value, (mean - ratio).mul_(q).mul_(1 - alpha)


def _log_softmax(logits: Tensor, temperature: float) -> Tensor:
    return functional.log_softmax(logits if temperature == 1 else logits / temperature, dim=-1)


def _log_mixture(log_p: Tensor, log_q: Tensor, share: float) -> Tensor:
    return torch.logaddexp(log_p + math.log(share), log_q + math.log1p(-share))


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise ValueError(otherwise)
