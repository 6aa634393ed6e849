"""Teacher against student on the same rows: the drop of a score with its interval, flips, McNemar's test.

A drop is the teacher's score minus the student's; positive is a loss. Of accuracy a row's difference is 1 (only the
teacher is right, a flip to wrong), -1 (only the student, a flip to right) or 0. Its bootstrap is BCa (Efron 1987):

    resample      n rows drawn again of w flips to wrong and r to right are one draw of Multinomial(n; w/n, r/n, rest),
                  so it costs the same for any n, and a simulation can ask for thousands of intervals
    bias          z0 = probit(share of resampled drops below the drop, ties half)
    acceleration  a = sum (d_i - d)^3 / (6 (sum (d_i - d)^2)^1.5), which is the jackknife's of a mean
    ends          the resampled drops' quantiles Phi(z0 + (z0 + z) / (1 - a (z0 + z))), z = -+ probit((1 + c) / 2)

A bootstrap knows only the rows it saw: where nearly all rows have one difference it is too sure (where all have, it has
width 0), so there an exact binomial interval stands beside it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats
from statsmodels.stats.contingency_tables import mcnemar

from deshi.serve.statistics import FEW_FLIPS, RESAMPLES, Interval, Score, bootstrap, one_length


@dataclass(frozen=True, kw_only=True)
class PairedDrop:
    """Teacher against student on the same rows."""

    drop: Interval
    mcnemar_p: float
    flips_to_wrong: int
    flips_to_right: int

    @property
    def discordant_share(self) -> float:
        """Share of rows on which exactly one of the two is right."""
        return (self.flips_to_wrong + self.flips_to_right) / self.drop.n


def paired_drop(teacher_correct: ArrayLike, student_correct: ArrayLike, *, confidence: float, seed: int) -> PairedDrop:
    """The drop of a score that is a mean over rows (accuracy): the inputs say row by row who was right."""
    teacher, student = one_length(teacher_correct, student_correct)
    to_wrong, to_right = _flips(teacher, student)
    drop = _bootstrap(to_wrong, to_right, len(teacher), confidence, seed)
    return PairedDrop(
        drop=_widened(drop, to_wrong, to_right, confidence),
        mcnemar_p=mcnemar_p(to_wrong, to_right),
        flips_to_wrong=to_wrong,
        flips_to_right=to_right,
    )


def paired_score_drop(
    score: Score,
    labels: ArrayLike,
    teacher_predictions: ArrayLike,
    student_predictions: ArrayLike,
    *,
    confidence: float,
    seed: int,
    resamples: int = 1999,
) -> PairedDrop:
    """The drop of any `score(labels, predictions)`, macro F1 say: rows are resampled and both scored again.

    With few differing rows the interval is at least as wide as that of the accuracy drop, which has an exact
    one.
    """
    truth, teacher = one_length(labels, teacher_predictions)
    _, student = one_length(labels, student_predictions)

    def drop_of(rows: NDArray[np.int64]) -> float:
        return score(truth[rows], teacher[rows]) - score(truth[rows], student[rows])

    rows = np.arange(len(truth))
    drop = bootstrap((rows,), drop_of, confidence, seed, resamples, vectorized=False)
    to_wrong, to_right = _flips(teacher == truth, student == truth)
    return PairedDrop(
        drop=_widened(drop, to_wrong, to_right, confidence),
        mcnemar_p=mcnemar_p(to_wrong, to_right),
        flips_to_wrong=to_wrong,
        flips_to_right=to_right,
    )


def mcnemar_p(flips_to_wrong: int, flips_to_right: int) -> float:
    """Exact two-sided McNemar test that flips go both ways alike; 1 without flips."""
    if flips_to_wrong + flips_to_right == 0:
        return 1.0
    return float(mcnemar([[0, flips_to_wrong], [flips_to_right, 0]], exact=True).pvalue)


def _bootstrap(to_wrong: int, to_right: int, n: int, confidence: float, seed: int) -> Interval:
    """BCa of the mean of n differences, percentile where BCa degenerates."""
    drop = (to_wrong - to_right) / n
    if n == 1:
        return Interval(value=drop, low=-math.inf, high=math.inf, n=n)
    counts = np.array([to_wrong, to_right, n - to_wrong - to_right])
    drawn = np.random.default_rng(seed).multinomial(n, counts / n, size=RESAMPLES)
    drops = (drawn[:, 0] - drawn[:, 1]) / n
    shares = np.array([(1 - confidence) / 2, (1 + confidence) / 2])
    apart = np.array([1, -1, 0]) - drop
    spread = float(counts @ apart**2)
    bias = float(special.ndtri((np.mean(drops < drop) + np.mean(drops <= drop)) / 2))
    if spread > 0 and math.isfinite(bias):
        acceleration = float(counts @ apart**3) / (6 * spread**1.5)
        z = bias + special.ndtri(shares)
        shares = special.ndtr(bias + z / (1 - acceleration * z))
    low, high = np.quantile(drops, shares)
    return Interval(value=drop, low=float(low), high=float(high), n=n)


def _widened(drop: Interval, to_wrong: int, to_right: int, confidence: float) -> Interval:
    """Where few rows differ from the rest: the wider of the bootstrap and the exact interval, each end further out.

    The drop of accuracy is P(to wrong) - P(to right). Each has a Clopper-Pearson interval at half the error,
    so that the difference of their far ends is right for every number of rows (Bonferroni).
    """
    if drop.n - max(to_wrong, to_right, drop.n - to_wrong - to_right) >= FEW_FLIPS:
        return drop
    (worse_low, worse_high), (better_low, better_high) = (
        stats.binomtest(flips, drop.n).proportion_ci(confidence_level=(1 + confidence) / 2, method="exact")
        for flips in (to_wrong, to_right)
    )
    low, high = min(drop.low, worse_low - better_high), max(drop.high, worse_high - better_low)
    return Interval(value=drop.value, low=float(low), high=float(high), n=drop.n)


def _flips(teacher_correct: NDArray[Any], student_correct: NDArray[Any]) -> tuple[int, int]:
    teacher, student = teacher_correct.astype(bool), student_correct.astype(bool)
    return int(np.sum(teacher & ~student)), int(np.sum(~teacher & student))
