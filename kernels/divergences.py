"""The divergences of distillation, a row's value and its gradient: in plain PyTorch, and for a Triton kernel.

q = softmax(x / T) is the student's and p = softmax(y / T) the teacher's distribution at temperature T, in nats:

    kind         divergence D of a row                       f = dD/dq, up to a constant of the row
    forward_kl   KL(p || q)                                  -p / q                           arXiv 1503.02531
    reverse_kl   KL(q || p)                                  log q - log p                    arXiv 2306.08543
    jsd          b KL(p || m) + (1-b) KL(q || m)             (1-b) (log q - log m)            arXiv 2306.13649
                 m = b p + (1-b) q, b = alpha
    skew_kl      KL(p || a p + (1-a) q), a = alpha           -(1-a) p / m                     arXiv 2402.03898

    dD/d(x / T) = q (f - sum q f)

jsd at alpha 0 is forward_kl and at 1 reverse_kl, the limits of D / alpha and D / (1 - alpha); skew_kl at 0 is
forward_kl. 0 log 0 is 0: a teacher may rule pieces out with -inf. reverse_kl is then infinite, and its gradient no
number, unless the student rules them out too.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from deshi.kernels.online_softmax import exp, log
from deshi.kernels.triton_or_none import jit, tl

KINDS = ("forward_kl", "reverse_kl", "jsd", "skew_kl")


@jit
def weighted(w: tl.tensor, gap: tl.tensor) -> tl.tensor:
    """w gap, where 0 log 0 is 0; a NaN stays one."""
    return tl.where(w == 0.0, 0.0, w * gap)


@jit
def terms(log_q: tl.tensor, log_p: tl.tensor, alpha: tl.tensor, rest: tl.tensor, KIND: tl.constexpr) -> tl.tensor:
    """q, q f and the terms of D, of alpha within its edges; `rest` is 1 - alpha."""
    q, p, gap = exp(log_q), exp(log_p), log_p - log_q
    if KIND == "forward_kl":
        return q, -p, weighted(p, gap)
    if KIND == "reverse_kl":
        q_f = weighted(q, -gap)
        return q, q_f, q_f
    # log m = max(log p, log q) + log(mixed), from one exponential that cannot overflow.
    less = exp(-tl.abs(gap))
    mixed = log(tl.where(gap > 0.0, alpha + rest * less, alpha * less + rest))
    p_over_m = tl.minimum(gap, 0.0) - mixed
    of_p = weighted(p, p_over_m)
    if KIND == "skew_kl":
        return q, -rest * weighted(q, exp(p_over_m)), of_p
    of_q = rest * weighted(q, tl.minimum(-gap, 0.0) - mixed)
    return q, of_q, alpha * of_p + of_q


def row_divergence(kind: str, alpha: float) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """From log q and log p [r, v] to each row's D [r] and its gradient in x / T [r, v]."""
    plain = {"forward_kl": _forward_kl, "reverse_kl": _reverse_kl}.get(at_its_edge(kind, alpha))
    if plain is not None:
        return plain
    mixture = _jsd if kind == "jsd" else _skew_kl
    return lambda log_q, log_p: mixture(log_q, log_p, alpha)


def at_its_edge(kind: str, alpha: float) -> str:
    """What jsd and skew_kl are where alpha leaves no mixture."""
    if kind == "jsd" and alpha == 1:
        return "reverse_kl"
    return "forward_kl" if kind in ("jsd", "skew_kl") and alpha == 0 else kind


def check_settings(kind: str, temperature: float, alpha: float) -> None:
    """Refuses a divergence that is not one.

    Raises:
        ValueError: with the value, the rule and the fix.
    """
    if kind not in KINDS:
        raise ValueError(f"loss {kind!r} is not known; take one of {', '.join(KINDS)}")
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature {temperature} must be a number above 0; take 1 for none")
    if kind == "jsd" and not 0 <= alpha <= 1:
        raise ValueError(f"alpha {alpha} of jsd is a share; take a number from 0 to 1")
    if kind == "skew_kl" and not 0 <= alpha < 1:
        raise ValueError(
            f"alpha {alpha} of skew_kl must be at least 0 and below 1, since at 1 every student is perfect; take 0.1"
        )


def log_softmax(logits: Tensor, temperature: float) -> Tensor:
    """log softmax(x / T)."""
    return functional.log_softmax(logits if temperature == 1 else logits / temperature, dim=-1)


def _forward_kl(log_q: Tensor, log_p: Tensor) -> tuple[Tensor, Tensor]:
    p = log_p.exp()
    _, value = _expected(p, log_p - log_q)
    return value.squeeze(-1), log_q.exp().sub_(p)


def _reverse_kl(log_q: Tensor, log_p: Tensor) -> tuple[Tensor, Tensor]:
    q = log_q.exp()
    q_f, value = _expected(q, log_q - log_p)
    return value.squeeze(-1), q_f.addcmul_(q, value, value=-1)


def _jsd(log_q: Tensor, log_p: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    log_m, q = _log_mixture(log_p, log_q, beta), log_q.exp()
    _, to_teacher = _expected(log_p.exp(), log_p - log_m)
    q_f, to_student = _expected(q, log_q - log_m)
    value = beta * to_teacher + (1 - beta) * to_student
    return value.squeeze(-1), q_f.addcmul_(q, to_student, value=-1).mul_(1 - beta)


def _skew_kl(log_q: Tensor, log_p: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    gap, q = log_p - _log_mixture(log_p, log_q, alpha), log_q.exp()
    q_ratio, mean = _expected(q, gap.exp())  # p / m, at most 1 / alpha
    _, value = _expected(log_p.exp(), gap)
    return value.squeeze(-1), q.mul_(mean).sub_(q_ratio).mul_(1 - alpha)


def _expected(w: Tensor, gap: Tensor) -> tuple[Tensor, Tensor]:
    """w gap [r, v] in gap's place and its sums [r, 1]. Only where one is no number is 0 log 0 looked for."""
    total = gap.mul_(w).sum(dim=-1, keepdim=True)
    if total.isnan().any():
        total = gap.masked_fill_(w == 0, 0.0).sum(dim=-1, keepdim=True)
    return gap, total


def _log_mixture(log_p: Tensor, log_q: Tensor, share: float) -> Tensor:
    """log(share p + (1 - share) q), without leaving the logarithm: e^-200 stays apart from 0."""
    return torch.logaddexp(log_p + math.log(share), log_q + math.log1p(-share))
