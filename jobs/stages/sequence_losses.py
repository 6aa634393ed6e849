"""Distillation of a language model from an online teacher, over the whole vocabulary, in nats per target token.

The student's hidden states h [n, d] at the target tokens meet its head W [v, d], the teacher's [n, dt] its own
[v, dt]. The divergences are those of losses.py with the same conventions: at temperature T, times T^2, mean over the
tokens. Cross-entropy shares the pass, and at T = 1 the student's softmax. The tokens pass through kernels/kd_loss.py
chunk by chunk, in plain PyTorch on a CPU and through Triton kernels on a GPU.

Cached top-k answers are in topk_loss.py.
"""

from __future__ import annotations

from torch import Tensor

from deshi.kernels.kd_loss import TeacherHead, kd_loss
from deshi.kernels.through_head import Mixed


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
    gets no gradient. `vocabulary` is the common size where one head has padded rows (vocabulary_match.same_vocabulary
    tells it); rows beyond it take no part and get gradient 0.
    """
    return kd_loss(
        hidden,
        head,
        TeacherHead(teacher_hidden, teacher_head),
        kind=loss,
        temperature=temperature,
        alpha=alpha,
        labels=labels,
        distil_weight=distil_weight,
        ce_weight=ce_weight,
        vocabulary=vocabulary,
    )
