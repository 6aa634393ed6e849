"""Distillation of a language model from cached answers: the teacher's top k and one bucket for all the rest.

For each of n target tokens the cache holds ids [n, k], their log-probabilities [n, k] and the log-probability of the
tail, all that is not listed [n]. The student's k listed probabilities are taken as they are and its other v - k are
summed into the same bucket, so both become distributions over k + 1 outcomes, and any divergence of losses.py is taken
between those. By the data-processing inequality it is at most the one over the whole vocabulary, and with k = v it is
that one. The tail's own logsumexp is computed, never log(1 - sum), which loses all digits where the student is sure.

Temperature: a bucket cannot be softened exactly, since that needs the probabilities inside it. Both sides are softened
as distributions over k + 1 outcomes: log p_T = log_softmax(log p_1 / T) over the listed and the bucket. At T = 1 this
changes nothing, with k = v it is exact, and a student equal to the teacher on these outcomes costs 0 at any T.

The teacher's k + 1 numbers are normalised to sum to one, which quantised log-probabilities do only nearly. Passes
through through_head.py; the gradient in the logits is that of the k + 1 log-probabilities at the listed ids, and the
bucket's shared by softmax among the rest. Cross-entropy on labels uses the same logsumexp.
"""

from __future__ import annotations

import torch
from torch import Tensor

from deshi.jobs.stages.losses import LOSSES
from deshi.jobs.stages.through_head import Mixed, at_least_float32, blocks, check, through_head

# A tail of no mass counts as e^-80, which is nothing in float32 and keeps 0 times infinity out of the divergences.
NO_MASS = -80.0


def topk_loss(
    hidden: Tensor,
    head: Tensor,
    ids: Tensor,
    log_probs: Tensor,
    log_tail: Tensor,
    *,
    loss: str,
    temperature: float,
    alpha: float,
    labels: Tensor | None = None,
    distil_weight: float = 1.0,
    ce_weight: float = 0.0,
    vocabulary: int | None = None,
) -> Mixed:
    """`distil_weight` times a divergence from cached answers plus `ce_weight` times cross-entropy on labels [n].

    The student is hidden [n, d] with head [v, d]; ids, log_probs [n, k] and log_tail [n] are the teacher's, each id
    once a row. `vocabulary` is the common size where the student's head has padded rows (see
    vocabulary_match.same_vocabulary); rows beyond it take no part and get gradient 0.
    """
    size = len(head) if vocabulary is None else vocabulary
    check(hidden, head, labels, ce_weight)
    _check_answers(ids, log_probs, log_tail, len(hidden), size, len(head))
    _require(loss in LOSSES, f"loss {loss!r} is not known; take one of {', '.join(LOSSES)}")
    dtype, has_tail = at_least_float32(head), ids.shape[1] < size
    teacher = torch.cat([log_probs, log_tail[:, None].clamp(min=NO_MASS)], dim=1) if has_tail else log_probs
    teacher = teacher.detach().to(dtype).log_softmax(dim=-1)
    # Once before any work: losses.py itself says whether it takes these settings.
    LOSSES[loss](teacher.new_zeros(1, 1), teacher.new_zeros(1, 1), temperature=temperature, alpha=alpha)

    def judge(logits: Tensor, tokens: slice) -> Tensor:
        sums = logits.new_zeros(2, dtype=dtype)
        for rows in blocks(logits):
            block, listed = logits[rows].to(dtype), ids[tokens][rows].long()
            at = None if labels is None or not ce_weight else labels[tokens][rows, None].long()
            at_label = None if at is None else block.gather(1, at)
            outcomes = block.gather(1, listed)
            rest = block.scatter_(1, listed, -torch.inf)
            if has_tail:
                # exp(rest - peak) gives the tail's mass and, divided by it, how the tail is shared: one exponential.
                peak = rest.amax(dim=-1, keepdim=True)
                rest = rest.sub_(peak).exp_()
                mass = rest.sum(dim=-1, keepdim=True)
                outcomes = torch.cat([outcomes, peak + mass.log()], dim=1)
            lse = outcomes.logsumexp(dim=-1, keepdim=True)
            with torch.enable_grad():
                leaf = outcomes.requires_grad_()
                value = len(leaf) * LOSSES[loss](leaf, teacher[tokens][rows], temperature=temperature, alpha=alpha)
                (slope,) = torch.autograd.grad(value, leaf)
            sums[0] += value.detach()
            slope = distil_weight * slope
            if at_label is not None:
                sums[1] += (lse - at_label).sum()
                slope += ce_weight * (outcomes.detach() - lse).exp()
            gradient = rest.mul_(slope[:, -1:] / mass) if has_tail else rest.zero_()
            gradient.scatter_(1, listed, slope[:, : listed.shape[1]])
            if at is not None:
                gradient.scatter_add_(1, at, gradient.new_full(at.shape, -ce_weight))
            if logits.dtype != dtype:  # elsewhere all of this happened in the chunk's own memory
                logits[rows] = gradient
        return sums

    return through_head(hidden, head, size, judge, distil_weight=distil_weight, ce_weight=ce_weight)


def _check_answers(ids: Tensor, log_probs: Tensor, log_tail: Tensor, n: int, size: int, rows: int) -> None:
    _require(0 < size <= rows, f"vocabulary {size} must lie in 1..{rows}, the rows of the student's head")
    _require(
        ids.ndim == 2 and ids.shape == log_probs.shape and ids.shape[0] == n and log_tail.shape == (n,),
        f"ids {tuple(ids.shape)}, log-probabilities {tuple(log_probs.shape)} and tails {tuple(log_tail.shape)} must be "
        f"[{n}, k], [{n}, k] and [{n}], one row for each target token; read the answers of the same tokens",
    )
    _require(
        0 < ids.shape[1] <= size,
        f"{ids.shape[1]} listed answers a token must be 1 to {size}, the vocabulary; cache the answers again",
    )


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise ValueError(otherwise)
