"""Statistics of a comparison: intervals, non-inferiority, calibration.

With `confidence` c an interval holds the value with probability c, each end failing in (1 - c) / 2 of all
cases. Non-inferiority is read off the same interval that the report shows, so "the drop is below the margin"
is said wrongly in at most (1 - c) / 2: 2.5% at 0.95, as medicine's regulators ask (a one-sided test at 5% is
c = 0.90). `rows_needed` plans for the same interval.

Bootstraps are BCa (Efron 1987), percentile where BCa degenerates or rows abound. A drop, the teacher's score minus the
student's on the same rows, has its interval from `paired_statistics`.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, special, stats
from statsmodels.stats.proportion import proportion_confint

Outcome = Literal["PASS", "FAIL", "INCONCLUSIVE"]
Score = Callable[[NDArray[Any], NDArray[Any]], float]
Floats = NDArray[np.float64]

RESAMPLES = 4999
# Below this many differing rows the exact interval joins the bootstrap. Alone, the bootstrap passes a drop
# that equals a margin of 0.05 in 36% of cases at 20 rows: in all that happen to show no flip.
FEW_FLIPS = 10
# Above this many rows the percentile stands for BCa: its correction fades with 1/sqrt(n), its jackknife costs n^2.
BCA_ROWS = 5000
TEMPERATURES = (0.1, 10.0)


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A value, the ends of its interval, and the number of observations. An end may be infinite."""

    value: float
    low: float
    high: float
    n: int


def non_inferior(low: float, high: float, margin: float) -> Outcome:
    """PASS if all of the interval of the drop lies below the margin, FAIL if all of it lies above.

    The value inside the interval plays no part; an interval that straddles the margin decides nothing.
    """
    if high < margin:
        return "PASS"
    return "FAIL" if low > margin else "INCONCLUSIVE"


def rows_needed(
    drop: float, discordant_share: float, margin: float, confidence: float, power: float = 0.8
) -> int | None:
    """Rows that show a true `drop` to be below `margin` with probability `power`; None if it is not below.

    n = (z_alpha + z_power)^2 (p_d - drop^2) / (margin - drop)^2, alpha = (1 - confidence) / 2, since a row's
    difference is -1, 0 or 1 and so has the variance p_d - drop^2, with p_d the share of rows on which exactly
    one is right. At least as many as prove the margin when no row differs at all, so that a share of 0 is not
    taken for certainty.
    """
    if drop >= margin:
        return None
    deviates = stats.norm.ppf((1 + confidence) / 2) + stats.norm.ppf(power)
    variance = max(discordant_share - drop**2, 0.0)
    without_flips = math.log((1 - confidence) / 4) / math.log1p(-margin)
    return math.ceil(max(deviates**2 * variance / (margin - drop) ** 2, without_flips))


def proportion_interval(successes: int, n: int, *, confidence: float) -> Interval:
    """A share with Wilson's score interval (1927)."""
    _require_rows(n)
    low, high = proportion_confint(successes, n, alpha=1 - confidence, method="wilson")
    return Interval(value=successes / n, low=float(low), high=float(high), n=n)


def mean_interval(values: ArrayLike, *, confidence: float, seed: int) -> Interval:
    """A mean with its bootstrap interval."""
    data = np.asarray(values, dtype=float)
    _require_rows(len(data))
    return bootstrap((data,), np.mean, confidence, seed, RESAMPLES)


def score_interval(
    score: Score, labels: ArrayLike, predictions: ArrayLike, *, confidence: float, seed: int, resamples: int = 1999
) -> Interval:
    """Any `score(labels, predictions)` with its bootstrap interval over rows."""
    truth, told = one_length(labels, predictions)

    def score_of(rows: NDArray[np.int64]) -> float:
        return score(truth[rows], told[rows])

    return bootstrap((np.arange(len(truth)),), score_of, confidence, seed, resamples, vectorized=False)


def quantile_interval(values: ArrayLike, quantile: float, *, confidence: float) -> Interval:
    """A quantile (latency p50, p95) between two order statistics: exact for independent rows.

    Where there are too few rows for a bound (72 for the upper end of a p95 at confidence 0.95) it is
    infinite.
    """
    data = np.asarray(values, dtype=float)
    _require_rows(len(data))
    value = float(np.quantile(data, quantile))
    tested = stats.quantile_test(data, q=value, p=quantile)
    ends = tested.confidence_interval(confidence_level=confidence)
    low, high = float(ends.low), float(ends.high)
    return Interval(
        value=value,
        low=-math.inf if math.isnan(low) else low,
        high=math.inf if math.isnan(high) else high,
        n=len(data),
    )


def ratio_of_medians_interval(
    times: ArrayLike, reference_times: ArrayLike, *, confidence: float, seed: int
) -> Interval:
    """median(times) / median(reference_times) of pairs that were measured one after the other in one window.

    Pairs are resampled together, so that what slowed both of them down cancels.
    """
    mine, reference = (array.astype(float) for array in one_length(times, reference_times))

    def ratio(a: Floats, b: Floats, axis: int = -1) -> Floats:
        return np.median(a, axis=axis) / np.median(b, axis=axis)

    return bootstrap((mine, reference), ratio, confidence, seed, RESAMPLES, method="percentile")


def expected_calibration_error(
    probabilities: ArrayLike, labels: ArrayLike, *, confidence: float, seed: int, bins: int = 15
) -> Interval:
    """Mean gap between confidence and accuracy over equal-width bins of confidence (Guo et al. 2017).

    Gaps are absolute, so chance adds to the error: of few rows a perfectly calibrated model shows one, too.
    Resampling adds as much once more; the interval is mirrored at the value (basic bootstrap) to take that out
    again.
    """
    given = np.asarray(probabilities, dtype=float)
    truth, predictions = one_length(labels, given.argmax(axis=1))
    sure, right = given.max(axis=1), (predictions == truth).astype(float)
    bin_of = np.clip(np.ceil(sure * bins).astype(np.int64) - 1, 0, bins - 1)
    gap = right - sure

    def error(rows: NDArray[np.int64]) -> float:
        return float(np.abs(np.bincount(bin_of[rows], weights=gap[rows], minlength=bins)).sum() / len(rows))

    ends = bootstrap((np.arange(len(truth)),), error, confidence, seed, 999, vectorized=False, method="basic")
    return Interval(
        value=ends.value, low=max(min(ends.low, ends.value), 0.0), high=max(ends.high, ends.value), n=ends.n
    )


def kl_rows(teacher_log_probs: ArrayLike, student_log_probs: ArrayLike) -> Floats:
    """KL(teacher || student) of each row, nats, from log-probabilities [n, k]; where p = 0 it adds 0."""
    teacher, student = one_length(teacher_log_probs, student_log_probs)
    log_p, log_q = teacher.astype(float), student.astype(float)
    possible = log_p > -np.inf
    terms = np.zeros_like(log_p)
    np.subtract(log_p, log_q, out=terms, where=possible)
    return np.sum(np.exp(log_p) * terms, axis=1)


def fit_temperature(logits: ArrayLike, targets: ArrayLike) -> float:
    """The T whose softmax(logits / T) has the least cross-entropy with labels [n] or probabilities [n, k].

    Guo et al. 2017. Searched in 0.1 to 10: a model without an error on these rows would ask for T = 0, which
    is certainty about everything.
    """
    scores, truth = np.asarray(logits, dtype=float), np.asarray(targets)
    _require_rows(len(scores))
    if truth.ndim == 1:
        truth = np.eye(scores.shape[1])[truth]
    if truth.shape != scores.shape:
        raise ValueError(f"targets {truth.shape} do not fit logits {scores.shape}; give one row for each row")

    def cross_entropy(log_temperature: float) -> float:
        log_q = special.log_softmax(scores / math.exp(log_temperature), axis=1)
        return float(-(truth * log_q).sum(axis=1).mean())

    bounds = tuple(math.log(end) for end in TEMPERATURES)
    found = optimize.minimize_scalar(cross_entropy, bounds=bounds, method="bounded", options={"xatol": 1e-6})
    return math.exp(found.x)


def bootstrap(
    data: tuple[NDArray[Any], ...],
    statistic: Callable[..., Any],
    confidence: float,
    seed: int,
    resamples: int,
    *,
    vectorized: bool = True,
    method: str = "BCa",
) -> Interval:
    """scipy's bootstrap over rows, data columns resampled together; in slices of a few megabytes."""
    value, n = float(statistic(*data)), len(data[0])
    if n == 1:
        return Interval(value=value, low=-math.inf, high=math.inf, n=n)
    if method == "BCa" and n > BCA_ROWS:
        method = "percentile"
    with warnings.catch_warnings(), np.errstate(invalid="ignore", divide="ignore"):
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        ends = stats.bootstrap(
            data,
            statistic,
            paired=len(data) > 1,
            vectorized=vectorized,
            confidence_level=confidence,
            n_resamples=resamples,
            batch=max(1, 500_000 // n),
            method=method,
            rng=np.random.default_rng(seed),
        ).confidence_interval
    if method == "BCa" and not (math.isfinite(ends.low) and math.isfinite(ends.high)):
        return bootstrap(data, statistic, confidence, seed, resamples, vectorized=vectorized, method="percentile")
    return Interval(value=value, low=float(ends.low), high=float(ends.high), n=n)


def one_length(first: ArrayLike, second: ArrayLike) -> tuple[NDArray[Any], NDArray[Any]]:
    """Both as arrays; ValueError if they are not of one length above 0."""
    one, other = np.asarray(first), np.asarray(second)
    if len(one) != len(other):
        raise ValueError(f"{len(one)} rows are compared with {len(other)}; give both the same rows in the same order")
    _require_rows(len(one))
    return one, other


def _require_rows(n: int) -> None:
    if n == 0:
        raise ValueError("0 rows have no statistics; give at least one row")
