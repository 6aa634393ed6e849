"""Intervals of a language model's figures on held-out text: rows are drawn again, the tokens of a row together.

The tokens of one conversation resemble each other, so a conversation is what was drawn and what the bootstrap draws.
All means are weighted by tokens, as a perplexity is: with s_r the sum over row r and n_r its tokens, sum s_r / sum n_r,
over the same rows above and below.

    perplexity          exp(mean nll), and the interval's ends exponentiated
    perplexity_ratio    exp(mean (nll - teacher's nll)), token by token: what makes a text hard for both cancels
    kl_quantiles        nats; a quantile is the smallest KL that this share of the tokens does not exceed
    same_top            share of the targets at which both find the same token likeliest

Means are BCa (serve/statistics.py). Quantiles are percentile intervals; one that reaches the largest KL seen has no
upper end. Of a share with fewer than FEW_FLIPS tokens on one side the bootstrap is too sure (with none it has width 0),
so there the exact binomial interval with rows as trials stands beside it: a row's share, between 0 and 1, varies at
most as much as a coin of the same mean.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from deshi.jobs.evidence.figure import figure_of
from deshi.jobs.evidence.risk.slice_harm import members, share_harms
from deshi.jobs.evidence.schema import SliceRow
from deshi.jobs.evidence.text.text_scores import TokenScores
from deshi.serve.statistics import FEW_FLIPS, RESAMPLES, Floats, Interval, bootstrap

QUANTILE_RESAMPLES = 1999
TABLE = 4_000_000  # numbers of a table [resamples, tokens] at a time


def perplexity(told: TokenScores, *, confidence: float, seed: int) -> Interval:
    """exp of the mean nll a token."""
    return _exponentiated(mean_over_rows(told.nll, told.row, confidence=confidence, seed=seed))


def perplexity_ratio(told: TokenScores, taught: TokenScores, *, confidence: float, seed: int) -> Interval:
    """The model's perplexity over the teacher's, paired token by token.

    Raises:
        ValueError: if the two were asked for different tokens.
    """
    if not np.array_equal(told.row, taught.row):
        raise ValueError(
            f"the model was asked for {len(told.row)} tokens and the teacher for {len(taught.row)}, or of other rows; "
            "give both the same sequences"
        )
    gap = told.nll.astype(float) - taught.nll
    return _exponentiated(mean_over_rows(gap, told.row, confidence=confidence, seed=seed))


def kl_mean(told: TokenScores, *, confidence: float, seed: int) -> Interval:
    """Mean KL(teacher || model), nats a token."""
    assert told.kl is not None, "scores without a teacher"
    return mean_over_rows(told.kl, told.row, confidence=confidence, seed=seed)


def same_top(told: TokenScores, *, confidence: float, seed: int) -> Interval:
    """Share of the targets at which model and teacher find the same token likeliest."""
    assert told.same_top is not None, "scores without a teacher"
    return share_interval(*by_row(told.same_top, told.row), confidence=confidence, seed=seed)


def mean_over_rows(values: ArrayLike, row: NDArray[np.int64], *, confidence: float, seed: int) -> Interval:
    """Mean of values [tokens] of rows [tokens]; n counts rows."""
    return ratio_interval(*by_row(values, row), confidence=confidence, seed=seed)


def by_row(values: ArrayLike, row: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Sums and numbers of tokens [rows], of rows that have any."""
    _, number = np.unique(row, return_inverse=True)
    sums = np.bincount(number, weights=np.asarray(values, float))
    return sums.astype(np.float64), np.bincount(number).astype(np.float64)


def ratio_interval(above: ArrayLike, below: ArrayLike, *, confidence: float, seed: int) -> Interval:
    """sum(above) / sum(below) of rows that are drawn together.

    Raises:
        ValueError: if there are no rows, or nothing to divide by.
    """
    sums, sizes = np.asarray(above, float), np.asarray(below, float)
    if not len(sums) or len(sums) != len(sizes) or sizes.sum() <= 0:
        raise ValueError(f"{len(sums)} sums over {len(sizes)} rows of {sizes.sum():g} tokens; give rows with tokens")

    def ratio(some: Floats, of: Floats, axis: int = -1) -> Floats:
        return some.sum(axis=axis) / of.sum(axis=axis)

    return bootstrap((sums, sizes), ratio, confidence, seed, RESAMPLES)


def share_interval(hits: ArrayLike, tokens: ArrayLike, *, confidence: float, seed: int) -> Interval:
    """sum(hits) / sum(tokens) where a token is a hit or is none, by row."""
    found = ratio_interval(hits, tokens, confidence=confidence, seed=seed)
    hit, total = np.sum(hits), np.sum(tokens)
    if min(hit, total - hit) >= FEW_FLIPS:
        return found
    trials, successes, error = found.n, found.value * found.n, (1 - confidence) / 2
    # Clopper-Pearson, for a number of successes that need not be whole.
    low = stats.beta.ppf(error, successes, trials - successes + 1) if hit else 0.0
    high = stats.beta.ppf(1 - error, successes + 1, trials - successes) if hit < total else 1.0
    return Interval(
        value=found.value, low=max(0.0, min(found.low, low)), high=min(1.0, max(found.high, high)), n=trials
    )


def kl_quantiles(told: TokenScores, quantiles: Sequence[float], *, confidence: float, seed: int) -> list[Interval]:
    """Quantiles of KL(teacher || model) over the tokens, nats, each between percentiles of its bootstrap."""
    assert told.kl is not None, "scores without a teacher"
    order = np.argsort(told.kl, kind="stable")
    values = told.kl[order].astype(float)
    names, number = np.unique(told.row, return_inverse=True)
    rows, number = len(names), number[order]

    def found(times: NDArray[np.int64]) -> Floats:
        """[resamples, quantiles] of rows that are drawn so many times [resamples, rows]."""
        reached = np.cumsum(times[:, number], axis=1)
        # The share is taken a hair down, so that 0.99 of 100 tokens are 99 and not one more by rounding.
        least = [np.ceil(reached[:, -1] * share - 1e-9)[:, None] for share in quantiles]
        return np.stack([values[(reached < some).sum(axis=1)] for some in least], axis=1)

    told_once = found(np.ones((1, rows), np.int64))[0]
    rng = np.random.default_rng([seed, 13])
    step = max(1, TABLE // len(values))
    drawn = np.concatenate(
        [
            found(rng.multinomial(rows, np.full(rows, 1 / rows), size=min(step, QUANTILE_RESAMPLES - begin)))
            for begin in range(0, QUANTILE_RESAMPLES, step)
        ]
    )
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    if rows == 1:
        low, high = np.full(len(quantiles), -math.inf), np.full(len(quantiles), math.inf)
    return [
        Interval(value=float(value), low=float(a), high=float(b) if b < values[-1] else math.inf, n=rows)
        for value, a, b in zip(told_once, low, high, strict=True)
    ]


def text_slices(
    told: TokenScores,
    columns: Mapping[str, Sequence[str | None]],
    *,
    margin: float | None,
    confidence: float,
    seed: int,
) -> tuple[SliceRow, ...]:
    """For each value of each slice column (a value a row of the split): same top, and how much the teacher loses so.

    The teacher agrees with itself everywhere, so its score is 1 and the paired drop is 1 - same_top.
    """
    assert told.same_top is not None, "scores without a teacher"
    hits, tokens = by_row(told.same_top, told.row)
    rows = np.unique(told.row)
    parts = members({column: [values[row] for row in rows] for column, values in columns.items()})
    harms = share_harms(tokens - hits, tokens, list(parts.values()), margin) if parts else []
    found = []
    for ((column, value), here), harm in zip(parts.items(), harms, strict=True):
        share = share_interval(hits[here], tokens[here], confidence=confidence, seed=seed)
        drop = Interval(value=1 - share.value, low=1 - share.high, high=1 - share.low, n=share.n)
        found.append(
            SliceRow(
                column=column,
                value=value,
                n=share.n,
                score=figure_of(share, "share", "same likeliest token as the teacher, bootstrap over the slice's rows"),
                teacher_score=1.0,
                drop=figure_of(drop, "share", "1 - same top, bootstrap over the slice's rows"),
                harm_p=harm.p,
                harmed=harm.harmed,
            )
        )
    return tuple(found)


def _exponentiated(interval: Interval) -> Interval:
    return Interval(
        value=math.exp(interval.value), low=math.exp(interval.low), high=math.exp(interval.high), n=interval.n
    )
