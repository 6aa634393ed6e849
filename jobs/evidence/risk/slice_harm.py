"""Which slices a model harms: proven to lose more than on the other rows, and more than the recipe allows.

One-sided, for a slice of n of N rows, "its drop is no more than that of the other rows", by a score test: variances are
estimated as if that were so. With m1 and m2 the mean drops of the slice and of the rest,

    T = (m1 - m2) / sqrt(v1 + v2),   p = P(standard normal > z)

- A classifier's row differs by 1, 0 or -1. v = (P(to wrong) + P(to right) - d^2) / rows of the group, at the likeliest
  such shares whose difference is d, the drop over all N rows (Tango 1998, Statistics in Medicine 17). If the model as a
  whole drops, most flips are one way, and such sums are skewed: T = z + g (z^2 - 1) / 6, g the skewness of m1 - m2 at
  those shares (Cornish and Fisher's expansion, as Gart and Nam 1990 use it, Biometrics 46).
- A language model misses s_r of the n_r tokens of row r. m = sum s_r / sum n_r over the group, and with d the same over
  all N rows v = sum (s_r - d n_r)^2 / (sum n_r)^2 over the group; z = T.

Permuting rows between slice and rest would be exact only if rows differed equally often everywhere. They do not: a
hard slice has more flips both ways. With 30% of differing rows in a slice of 50 of 3,000, 5% elsewhere and no drop in
either, the permutation test rejects at 5% in 25% of draws, this one in 5% (Janssen 1997 and Chung and Romano 2013 say
why: the variance must be each group's own). Wald's variance fails as well: a slice that happens to show no flip has
none (20% to 50% of draws where the student is better than the teacher).

T reaches sqrt(n) when every row of the slice is lost and no other, and not more. So the slices that enter Holm's
adjustment (1979) are those of at least c rows, on both sides, for the smallest c at which c rows could still reject
against all of them: P(standard normal > sqrt(c)) <= ERROR / (slices of at least c rows). That asks for 8 rows of 20
slices and 10 of 50, whatever was answered (Tarone 1990's idea, by rows alone). Smaller slices cannot be judged, cost
the others no power, and are told as unproven.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from deshi.serve.statistics import Floats

ERROR = 0.05  # at most this often is any slice called harmed that is not
Bools = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Harm:
    """`p` is Holm's, None of a slice too small to be judged."""

    p: float | None
    harmed: bool


def members(columns: Mapping[str, Sequence[str | None]]) -> dict[tuple[str, str], Bools]:
    """(column, value) -> [rows] which rows it holds, by name; a value that is missing is the value ""."""
    found: dict[tuple[str, str], Bools] = {}
    for column, told in columns.items():
        values = np.array([value or "" for value in told])
        for value in sorted(set(values.tolist())):
            found[column, value] = values == value
    return found


def flip_harms(differences: ArrayLike, slices: Sequence[Bools], margin: float | None) -> list[Harm]:
    """One a slice; `differences` [rows] are 1 where only the teacher is right, -1 where only the model is, else 0."""
    each, here = np.asarray(differences), np.stack(list(slices)).astype(np.float64)
    n, worse, better = (np.asarray(here @ flips, np.float64) for flips in (np.ones(len(each)), each > 0, each < 0))
    total, all_worse, all_better = len(each), int(np.sum(each > 0)), int(np.sum(each < 0))
    common = (all_worse - all_better) / total
    rest = total - n
    drops = (worse - better) / n
    gap = drops - _over(all_worse - all_better - worse + better, rest)
    second, third = _null_moments(worse, better, n, common)
    second_rest, third_rest = _null_moments(all_worse - worse, all_better - better, rest, common)
    variance = _over(second, n) + _over(second_rest, rest)
    sixth = _over(_over(third, n**2) - _over(third_rest, rest**2), variance**1.5) / 6
    t = _over(gap, np.sqrt(variance))
    # z of T = z + sixth (z^2 - 1), written so that no skewness divides by 0.
    z = 2 * (t + sixth) / (1 + np.sqrt(np.maximum(1 + 4 * sixth * (t + sixth), 0.0)))
    return _judged(_p(z, variance), drops, n, total, margin)


def share_harms(misses: ArrayLike, tokens: ArrayLike, slices: Sequence[Bools], margin: float | None) -> list[Harm]:
    """One a slice; row by row [rows], how many tokens were missed of how many."""
    missed, size, here = np.asarray(misses, float), np.asarray(tokens, float), np.stack(list(slices))
    of_slice, of_rest = here @ size, (~here) @ size
    drops = _over(here @ missed, of_slice)
    gap = drops - _over((~here) @ missed, of_rest)
    apart = (missed - missed.sum() / size.sum() * size) ** 2
    variance = _over(here @ apart, of_slice**2) + _over((~here) @ apart, of_rest**2)
    return _judged(_p(_over(gap, np.sqrt(variance)), variance), drops, here.sum(axis=1), len(size), margin)


def judgeable(rows: ArrayLike, total: int) -> Bools:
    """Which slices, told by their numbers of rows, are large enough to be judged beside each other."""
    least = np.minimum(np.asarray(rows), total - np.asarray(rows))
    for count in sorted(set(least.tolist()) - {0}):
        if stats.norm.sf(math.sqrt(count)) <= ERROR / int(np.sum(least >= count)):
            return least >= count
    return np.zeros(len(least), np.bool_)


def holm(p: Floats) -> Floats:
    """Holm's adjusted p: the i-th smallest of m times m - i + 1, no smaller than the one before.

    As statsmodels' multipletests, which collects all of Python's garbage at each call (0.2 s of a simulated student).
    """
    order = np.argsort(p)
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(np.maximum.accumulate(np.arange(len(p), 0, -1) * p[order]), 1.0)
    return adjusted


def _judged(p: Floats, drops: Floats, rows: ArrayLike, total: int, margin: float | None) -> list[Harm]:
    """Holm's p over the slices large enough; harmed where it is at most ERROR and the drop is above the margin."""
    enters = judgeable(rows, total)
    adjusted = np.ones(len(p))
    adjusted[enters] = holm(p[enters])
    return [
        Harm(p=float(proven), harmed=bool(margin is not None and proven <= ERROR and drop > margin))
        if inside
        else Harm(p=None, harmed=False)
        for inside, proven, drop in zip(enters, adjusted, drops, strict=True)
    ]


def _null_moments(worse: Floats, better: Floats, n: Floats, drop: float) -> tuple[Floats, Floats]:
    """A row's variance and third central moment at the likeliest shares of flips, P(to wrong) - P(to right) = drop.

    P(to right) = q solves 2 n q^2 - b q - better drop (1 - drop) = 0, b = worse + better - drop (2 n - worse + better).
    """
    b = worse + better - drop * (2 * n - worse + better)
    q = _over(b + np.sqrt(np.maximum(b**2 + 8 * n * better * drop * (1 - drop), 0.0)), 4 * n)
    differing = 2 * np.maximum(q, max(0.0, -drop)) + drop
    return differing - drop**2, drop - 3 * drop * differing + 2 * drop**3


def _p(z: Floats, variance: Floats) -> Floats:
    """1 where nothing varies: no row was lost, or all were."""
    return np.where(variance > 0, stats.norm.sf(z), 1.0)


def _over(above: ArrayLike, below: ArrayLike) -> Floats:
    """0 where there is nothing below: of a slice that holds all rows there is no rest, and it is not judged."""
    top, bottom = np.asarray(above, float), np.asarray(below, float)
    return np.divide(top, bottom, out=np.zeros_like(bottom), where=bottom > 0)
