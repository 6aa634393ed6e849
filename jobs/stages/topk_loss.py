"""Distillation of a language model from cached answers: the teacher's top k and one bucket for all the rest.

For each of n target tokens the cache holds ids [n, k], their log-probabilities [n, k] and the log-probability of the
tail, all that is not listed [n]. Student and teacher are compared as distributions over these k + 1 outcomes, by the
divergences of losses.py with the same conventions; kernels/topk_gradient.py says what that means for the tail and for
temperature. The tokens pass through kernels/kd_loss.py chunk by chunk, in plain PyTorch on a CPU and through Triton
kernels on a GPU.
"""

from __future__ import annotations

from torch import Tensor

from deshi.kernels.kd_loss import TopK, kd_loss
from deshi.kernels.through_head import Mixed


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
    once a row. `vocabulary` is the common size where the student's head has padded rows
    (vocabulary_match.same_vocabulary tells it); rows beyond it take no part and get gradient 0.
    """
    return kd_loss(
        hidden,
        head,
        TopK(ids, log_probs, log_tail),
        kind=loss,
        temperature=temperature,
        alpha=alpha,
        labels=labels,
        distil_weight=distil_weight,
        ce_weight=ce_weight,
        vocabulary=vocabulary,
    )
