"""The losses of distillation: pure functions of tensors, in nats.

p is the teacher's and q the student's distribution over k classes (or the vocabulary), at temperature T:

    forward_kl   KL(p || q)                                  Hinton et al. 2015, arXiv 1503.02531
    reverse_kl   KL(q || p)                                  Gu et al. 2024 (MiniLLM), arXiv 2306.08543
    jsd          b KL(p || m) + (1-b) KL(q || m), m = b p + (1-b) q, b = alpha
                                                             Agarwal et al. 2024 (GKD), arXiv 2306.13649
    skew_kl      KL(p || a p + (1-a) q), a = alpha           Ko et al. 2024 (DistiLLM), arXiv 2402.03898

Each is the mean over rows times T^2, so that its gradient keeps its size when T changes. The teacher comes as
log-probabilities at temperature 1, the form in which its answers are cached. They are logits up to a constant
of the row, so softening them is exact: log p_T = log_softmax(log p_1 / T). Half precision is raised to
float32 first.

Beside them stand the cross-entropy on labelled rows and the match of hidden states by a table of layers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional


class Loss(Protocol):
    """Student logits [n, k] and the teacher's log-probabilities at temperature 1 [n, k] to a scalar."""

    def __call__(
        self, student_logits: Tensor, teacher_log_probs: Tensor, *, temperature: float, alpha: float
    ) -> Tensor: ...


def forward_kl(student_logits: Tensor, teacher_log_probs: Tensor, *, temperature: float, alpha: float) -> Tensor:
    """T^2 KL(p || q): the student must cover whatever the teacher thinks possible. `alpha` plays no part."""
    log_q, log_p = _at_temperature(student_logits, teacher_log_probs, temperature)
    return temperature**2 * _kl(log_p, log_q)


def reverse_kl(student_logits: Tensor, teacher_log_probs: Tensor, *, temperature: float, alpha: float) -> Tensor:
    """T^2 KL(q || p): the student may keep to the teacher's main modes. `alpha` plays no part."""
    log_q, log_p = _at_temperature(student_logits, teacher_log_probs, temperature)
    return temperature**2 * _kl(log_q, log_p)


def jsd(student_logits: Tensor, teacher_log_probs: Tensor, *, temperature: float, alpha: float) -> Tensor:
    """T^2 times the generalised Jensen-Shannon divergence with beta = `alpha`.

    At beta 0 and 1 the formula is zero for every student. There it is replaced, as in GKD, by the divergence
    whose gradient it approaches: JSD/beta -> KL(p || q) as beta -> 0, and JSD/(1-beta) -> KL(q || p) as beta
    -> 1.
    """
    _require(0 <= alpha <= 1, f"alpha {alpha} of jsd is a share; take a number from 0 to 1")
    if alpha == 0:
        return forward_kl(student_logits, teacher_log_probs, temperature=temperature, alpha=alpha)
    if alpha == 1:
        return reverse_kl(student_logits, teacher_log_probs, temperature=temperature, alpha=alpha)
    log_q, log_p = _at_temperature(student_logits, teacher_log_probs, temperature)
    log_m = _log_mixture(log_p, log_q, alpha)
    return temperature**2 * (alpha * _kl(log_p, log_m) + (1 - alpha) * _kl(log_q, log_m))


def skew_kl(student_logits: Tensor, teacher_log_probs: Tensor, *, temperature: float, alpha: float) -> Tensor:
    """T^2 KL(p || alpha p + (1 - alpha) q), bounded by -T^2 log(alpha); forward KL at alpha 0."""
    _require(
        0 <= alpha < 1,
        f"alpha {alpha} of skew_kl must be at least 0 and below 1, since at 1 every student is perfect; "
        "DistiLLM takes 0.1",
    )
    log_q, log_p = _at_temperature(student_logits, teacher_log_probs, temperature)
    log_m = log_q if alpha == 0 else _log_mixture(log_p, log_q, alpha)
    return temperature**2 * _kl(log_p, log_m)


# A loss joins by one row; `distill.loss` in the recipe names it.
LOSSES: dict[str, Loss] = {
    "forward_kl": forward_kl,
    "reverse_kl": reverse_kl,
    "jsd": jsd,
    "skew_kl": skew_kl,
}


def cross_entropy(student_logits: Tensor, labels: Tensor, labelled: Tensor) -> Tensor:
    """Mean of -log q(label) over the rows where the bool mask `labelled` [n] is set.

    The label of an unlabelled row is never read and may be any number. With no labelled row the loss is 0 and
    so is its gradient: every worker of a batch then still takes part in the exchange of gradients.
    """
    logits = student_logits.to(_at_least_float32(student_logits))
    known = labelled.bool()
    rows = functional.cross_entropy(logits, torch.where(known, labels, 0), reduction="none")
    return torch.where(known, rows, 0.0).sum() / known.sum().clamp(min=1)


@dataclass(frozen=True, kw_only=True)
class MatchRow:
    """One row of the match table: which hidden state of the student imitates which of the teacher.

    Counted as transformers counts `hidden_states`: 0 is the output of the embeddings, i that of the i-th
    layer.
    """

    student_layer: int
    teacher_layer: int
    weight: float

    @property
    def projection(self) -> str:
        """The name of this row's projection."""
        return f"{self.student_layer}_{self.teacher_layer}"


def uniform_match(kept: Sequence[int], teacher_layers: int) -> tuple[MatchRow, ...]:
    """The default table for a student that keeps the teacher's layers `kept` (from 0); weights sum to 1.

    Student layer j stands for the teacher's layers from kept[j] up to the next kept one, so it imitates what
    that next one expects as input, and the last imitates the teacher's last output. For evenly kept layers
    this is TinyBERT's m -> m N/M (arXiv 1909.10351). The embeddings imitate the embeddings.
    """
    _require(
        len(kept) > 0 and list(kept) == sorted(set(kept)) and kept[0] >= 0 and kept[-1] < teacher_layers,
        f"kept layers {list(kept)} must rise within 0..{teacher_layers - 1}; name each layer once, in order",
    )
    ends = (*kept[1:], teacher_layers)
    weight = 1 / (len(kept) + 1)
    layers = (MatchRow(student_layer=j, teacher_layer=end, weight=weight) for j, end in enumerate(ends, start=1))
    return (MatchRow(student_layer=0, teacher_layer=0, weight=weight), *layers)


def projections_for(match: Sequence[MatchRow], student_width: int, teacher_width: int) -> nn.ModuleDict:
    """A linear map student width -> teacher width for each row of the table; none where the widths are equal.

    They are trained with the student and thrown away with the optimizer.
    """
    if student_width == teacher_width:
        return nn.ModuleDict()
    return nn.ModuleDict({row.projection: nn.Linear(student_width, teacher_width) for row in match})


def hidden_match(
    student_hidden: Sequence[Tensor],
    teacher_hidden: Sequence[Tensor],
    attention_mask: Tensor,
    projections: Mapping[str, Callable[[Tensor], Tensor]] | nn.ModuleDict,
    match: Sequence[MatchRow],
) -> Tensor:
    """Weighted sum over the match table of the mean squared error between hidden states [n, tokens, width].

    The mean is over the teacher's width and over the tokens that `attention_mask` [n, tokens] keeps; padding
    weighs nothing. A row without a projection compares the states as they are.
    """
    keep = attention_mask.bool()
    rows = []
    for row in match:
        student, teacher = student_hidden[row.student_layer], teacher_hidden[row.teacher_layer].detach()
        if row.projection in projections:
            student = projections[row.projection](student)
        _require(
            student.shape == teacher.shape,
            f"student state {row.student_layer} is {tuple(student.shape)} and teacher state "
            f"{row.teacher_layer} {tuple(teacher.shape)}; states of different width need a projection "
            "(see projections_for)",
        )
        dtype = _at_least_float32(student)
        # Masked states are replaced, not multiplied by 0: padding may hold NaN.
        error = torch.where(keep[..., None], student.to(dtype) - teacher.to(dtype), 0.0)
        rows.append(row.weight * error.square().sum() / (keep.sum().clamp(min=1) * teacher.shape[-1]))
    return torch.stack(rows).sum()


def _at_temperature(student_logits: Tensor, teacher_log_probs: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """log q and log p at the temperature, in float32 or better; no gradient flows to the teacher."""
    _require(temperature > 0, f"temperature {temperature} must be above 0; take 1 for none")
    _require(
        student_logits.shape == teacher_log_probs.shape,
        f"student logits {tuple(student_logits.shape)} and teacher log-probabilities "
        f"{tuple(teacher_log_probs.shape)} must have one shape; give both the same rows and classes",
    )
    dtype = _at_least_float32(student_logits)
    log_q = functional.log_softmax(student_logits.to(dtype) / temperature, dim=-1)
    log_p = functional.log_softmax(teacher_log_probs.detach().to(dtype) / temperature, dim=-1)
    return log_q, log_p


def _at_least_float32(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)


def _kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Mean over rows of KL(p || q) = sum p (log p - log q), both as log-probabilities [n, k]."""
    return (log_p.exp() * (log_p - log_q)).sum(dim=-1).mean()


def _log_mixture(log_p: Tensor, log_q: Tensor, share: float) -> Tensor:
    """log(share p + (1 - share) q), without leaving the logarithm: e^-200 stays apart from 0."""
    return torch.logaddexp(log_p + math.log(share), log_q + math.log1p(-share))


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise ValueError(otherwise)
