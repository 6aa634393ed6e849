"""Fused head, distillation loss and gradient of a language model: [tokens, vocabulary] never exists.

    loss = mean over n tokens of  distil_weight T^2 D(teacher, softmax(h W^T)) + ce_weight (-log softmax(h W^T)[label])

h [n, d] are the student's hidden states and W [v, d] its head. The tokens pass in chunks through through_head.py, which
makes a chunk's logits by one matrix product; a judge overwrites them by the loss's gradient, and two more products take
that to h and W (Hsu et al. 2024, arXiv 2410.10989). On a GPU the judge is one Triton kernel that streams each row:

    TeacherHead   the teacher's logits are made by a product beside the student's   divergence_gradient.py
    TopK          cached answers: k listed pieces and a bucket for the rest         topk_gradient.py

The divergences D, at temperature T and with alpha, are those of divergences.py.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from deshi.kernels.divergence_gradient import divergence_gradient_
from deshi.kernels.divergences import check_settings
from deshi.kernels.through_head import Mixed, check, chunk_tokens, room, through_head
from deshi.kernels.topk_gradient import check_answers, topk_gradient_


class TeacherHead(NamedTuple):
    """An online teacher: its hidden states [n, dt] at the same tokens, and its head [vt, dt]."""

    hidden: Tensor
    head: Tensor


class TopK(NamedTuple):
    """Cached answers: ids [n, k], each once a row, their log-probabilities [n, k] and the tail's [n]."""

    ids: Tensor
    log_probs: Tensor
    log_tail: Tensor


def kd_loss(
    hidden: Tensor,
    head: Tensor,
    target: TeacherHead | TopK,
    *,
    kind: str,
    temperature: float,
    alpha: float,
    labels: Tensor | None = None,
    distil_weight: float = 1.0,
    ce_weight: float = 0.0,
    vocabulary: int | None = None,
) -> Mixed:
    """The loss, and its two parts unweighted. Gradients flow to `hidden` and `head`, and none to the target.

    `vocabulary` is the common size where one head has padded rows; rows beyond it take no part and get gradient 0. A
    label below 0 marks a token without cross-entropy, which the mean counts as 0.

    Raises:
        ValueError: for settings, shapes, types or devices that do not belong together.
    """
    check_settings(kind, temperature, alpha)
    check(hidden, head, labels, ce_weight)
    size = common_rows(head, target, vocabulary)
    settings: dict[str, Any] = {"kind": kind, "temperature": temperature, "alpha": alpha}
    weights = {"distil_weight": distil_weight, "ce_weight": ce_weight}
    if isinstance(target, TopK):
        check_answers(*target, len(hidden), size)
        ids, log_probs, log_tail = (part.detach() for part in target)
    else:
        _check_teacher(target, hidden)
        states, rows = target.hidden.detach(), target.head.detach()[:size]
        buffer = room(states, min(chunk_tokens(hidden.device, size), len(hidden)), size)

    def judge(logits: Tensor, tokens: slice) -> Tensor:
        given = {"labels": None if labels is None else labels[tokens], **settings, **weights}
        if isinstance(target, TopK):
            values = topk_gradient_(logits, ids[tokens], log_probs[tokens], log_tail[tokens], **given)
        else:
            teacher_logits = torch.mm(states[tokens], rows.t(), out=buffer[: len(logits)])
            values = divergence_gradient_(logits, teacher_logits, **given)
        return values.sum(dim=0)

    return through_head(hidden, head, size, judge, **weights)


def common_rows(head: Tensor, target: TeacherHead | TopK, vocabulary: int | None) -> int:
    """How many rows of the head mean pieces that the teacher has too."""
    rows = [len(head)] if isinstance(target, TopK) else [len(head), len(target.head)]
    if vocabulary is None and rows[0] != rows[-1]:
        raise ValueError(
            f"the student's head has {rows[0]} rows and the teacher's {rows[-1]}; if they differ by padding alone, "
            "give the common size as `vocabulary`"
        )
    size = rows[0] if vocabulary is None else vocabulary
    whose = "the rows of the student's head" if isinstance(target, TopK) else "the rows that both heads have"
    if not 0 < size <= min(rows):
        raise ValueError(f"vocabulary {size} must lie in 1..{min(rows)}, {whose}")
    return size


def _check_teacher(target: TeacherHead, hidden: Tensor) -> None:
    states, head = target
    if not (
        states.ndim == 2
        and head.ndim == 2
        and states.shape == (len(hidden), head.shape[1])
        and states.dtype == head.dtype
    ):
        raise ValueError(
            f"teacher states {tuple(states.shape)} {states.dtype} with a head {tuple(head.shape)} {head.dtype} must "
            f"have one row for each of the student's {len(hidden)} tokens, and the head's width and type; give both "
            "the same targets"
        )
