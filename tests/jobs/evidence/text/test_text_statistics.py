"""Intervals over rows against hand formulas, numpy's quantiles, scipy's exact intervals, and coverage by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from deshi.jobs.evidence.figure import figure_of
from deshi.jobs.evidence.text.text_scores import TokenScores
from deshi.jobs.evidence.text.text_statistics import (
    by_row,
    kl_mean,
    kl_quantiles,
    mean_over_rows,
    perplexity,
    perplexity_ratio,
    ratio_interval,
    same_top,
    share_interval,
    text_slices,
)
from deshi.serve.statistics import Interval

SURE = {"confidence": 0.95, "seed": 0}


def drawn(rng, rows: int, *, between: float = 1.0, within: float = 1.0, skip: int = 1):
    """(row, value) of tokens: each row has its own level and 5 to 40 tokens."""
    sizes = rng.integers(5, 41, rows)
    row = np.repeat(np.arange(rows) * skip, sizes)
    values = 3 + between * np.repeat(rng.standard_normal(rows), sizes) + within * rng.standard_normal(len(row))
    return row, values


def scored(row, nll, kl=None, same=None) -> TokenScores:
    return TokenScores(
        row=row,
        nll=np.asarray(nll, np.float32),
        kl=None if kl is None else np.asarray(kl, np.float32),
        same_top=same,
    )


def test_values_are_those_of_the_tokens():
    rng = np.random.default_rng(0)
    row, nll = drawn(rng, 50, skip=3)
    taught = nll - rng.exponential(0.2, len(nll))
    kl, same = rng.exponential(0.5, len(nll)), rng.random(len(nll)) < 0.7
    told = scored(row, nll, kl, same)
    assert perplexity(told, **SURE).value == pytest.approx(math.exp(nll.mean()), rel=1e-5)
    ratio = perplexity_ratio(told, scored(row, taught), **SURE)
    assert ratio.value == pytest.approx(math.exp(nll.mean()) / math.exp(taught.mean()), rel=1e-5)
    assert kl_mean(told, **SURE).value == pytest.approx(kl.mean(), rel=1e-5)
    assert same_top(told, **SURE).value == pytest.approx(same.mean(), rel=1e-12)
    for each in (perplexity(told, **SURE), ratio, kl_mean(told, **SURE), same_top(told, **SURE)):
        assert each.n == 50 and each.low < each.value < each.high


def test_a_mean_has_the_width_of_the_linearised_ratio():
    """Cochran's variance of a ratio: sum (s_r - m n_r)^2 over (sum n_r)^2; BCa differs by its corrections only."""
    row, values = drawn(np.random.default_rng(1), 400)
    found = mean_over_rows(values, row, **SURE)
    sums, sizes = by_row(values, row)
    error = math.sqrt(((sums - found.value * sizes) ** 2).sum()) / sizes.sum()
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.06)
    tokens_alone = 2 * 1.96 * values.std() / math.sqrt(len(values))
    assert found.high - found.low > 2 * tokens_alone


def test_means_cover_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(2)
    hits, naive, trials = 0, 0, 200
    for trial in range(trials):
        row, values = drawn(rng, 40)
        found = mean_over_rows(values, row, confidence=0.9, seed=trial)
        hits += found.low <= 3 <= found.high
        half = 1.645 * values.std() / math.sqrt(len(values))
        naive += abs(values.mean() - 3) < half
    assert 0.83 <= hits / trials <= 0.96  # 0.9 within three standard errors and what 40 rows take away
    assert naive / trials < 0.6


def test_a_paired_ratio_is_narrower_than_what_it_compares():
    row, nll = drawn(np.random.default_rng(3), 60)
    told, taught = scored(row, nll + 0.1), scored(row, nll)
    ratio, alone = perplexity_ratio(told, taught, **SURE), perplexity(told, **SURE)
    assert ratio.value == pytest.approx(math.exp(0.1), rel=1e-4)
    assert math.log(ratio.high / ratio.low) < 1e-4 < 0.1 < math.log(alone.high / alone.low)
    with pytest.raises(ValueError, match="give both the same sequences"):
        perplexity_ratio(told, scored(row[1:], nll[1:]), **SURE)


@pytest.mark.parametrize("quantile", [0.5, 0.99, 0.999])
def test_quantiles_are_numpys(quantile):
    rng = np.random.default_rng(4)
    row, kl = drawn(rng, 60)
    kl = np.exp(kl)
    (found,) = kl_quantiles(scored(row, kl, kl), (quantile,), **SURE)
    assert found.value == pytest.approx(np.quantile(kl, quantile, method="inverted_cdf"), rel=1e-6)
    tokens = [kl[row == each] for each in range(60)]
    again = [
        np.quantile(np.concatenate([tokens[r] for r in rng.integers(0, 60, 60)]), quantile, method="inverted_cdf")
        for _ in range(1500)
    ]
    low, high = np.quantile(again, [0.025, 0.975])
    assert found.low == pytest.approx(low, rel=0.1)
    assert found.high == (math.inf if high == kl.max() else pytest.approx(high, rel=0.1))
    assert found.n == 60


def test_quantiles_cover_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(5)
    truth = stats.norm(3, math.sqrt(2)).ppf(0.9)
    found = [
        kl_quantiles(scored(row, kl, kl), (0.9,), confidence=0.9, seed=trial)[0]
        for trial, (row, kl) in enumerate(drawn(rng, 40) for _ in range(100))
    ]
    assert 0.8 <= np.mean([each.low <= truth <= each.high for each in found]) <= 0.98


def test_exact_shares_of_quantiles_are_not_rounded_up():
    kl = np.arange(100.0)
    (found,) = kl_quantiles(scored(np.arange(100), kl, kl), (0.99,), **SURE)
    assert found.value == 98


def test_an_agreement_everywhere_is_no_certainty():
    row = np.repeat(np.arange(20), 30)
    all_same = same_top(scored(row, row, row, np.ones(600, bool)), **SURE)
    exact = stats.binomtest(20, 20).proportion_ci(method="exact")
    assert (all_same.value, all_same.high) == (1.0, 1.0)
    assert all_same.low == pytest.approx(exact.low)
    assert same_top(scored(row, row, row, np.zeros(600, bool)), **SURE).high == pytest.approx(1 - exact.low)
    # One hit a row: the rows are trials.
    some = share_interval([1] * 4 + [0] * 26, [1] * 30, **SURE)
    exact = stats.binomtest(4, 30).proportion_ci(method="exact")
    assert some.low <= exact.low + 1e-12 and some.high >= exact.high - 1e-12


def test_a_share_with_many_of_both_is_the_bootstraps():
    rng = np.random.default_rng(6)
    hits = rng.binomial(30, 0.6, 50)
    found = share_interval(hits, np.full(50, 30), **SURE)
    assert found == ratio_interval(hits, np.full(50, 30), **SURE)
    assert found.high - found.low < 0.1


def test_one_row_says_nothing_about_others():
    row = np.zeros(40, np.int64)
    told = scored(row, np.arange(40) / 40, np.arange(40) / 40)
    assert (perplexity(told, **SURE).low, perplexity(told, **SURE).high) == (0, math.inf)
    (quantile,) = kl_quantiles(told, (0.5,), **SURE)
    assert (quantile.low, quantile.high) == (-math.inf, math.inf)
    shown = figure_of(quantile, "nats", "how")
    assert (shown.value, shown.low, shown.high, shown.n) == (pytest.approx(19 / 40), None, None, 1)


def test_the_same_seed_gives_the_same_interval():
    row, kl = drawn(np.random.default_rng(7), 30)
    told = scored(row, kl, np.abs(kl))
    assert kl_mean(told, **SURE) == kl_mean(told, **SURE) != kl_mean(told, confidence=0.95, seed=1)
    assert kl_quantiles(told, (0.9,), **SURE) == kl_quantiles(told, (0.9,), **SURE)


def test_slices_say_where_the_agreement_is_lost():
    rng = np.random.default_rng(8)
    sizes = rng.integers(5, 41, 60)
    row = np.repeat(np.arange(60), sizes)
    topic = ["sport" if each % 3 else None for each in range(60)] + ["never asked"]
    same = rng.random(len(row)) < np.where(row % 3, 0.9, 0.4)
    found = text_slices(scored(row, row, row, same), {"topic": topic}, margin=0.2, **SURE)
    assert [(each.column, each.value, each.n) for each in found] == [("topic", "", 20), ("topic", "sport", 40)]
    for each, here in zip(found, (row % 3 == 0, row % 3 != 0), strict=True):
        share = same[here].mean()
        assert each.score.value == pytest.approx(share) and each.teacher_score == 1
        assert each.drop.value == pytest.approx(1 - share)
        assert (each.drop.low, each.drop.high) == pytest.approx((1 - each.score.high, 1 - each.score.low))
        assert each.drop.low < each.drop.value < each.drop.high
    assert found[0].drop.low > found[1].drop.high
    assert [each.harmed for each in found] == [True, False]
    assert found[0].harm_p < 1e-4 and found[1].harm_p > 0.9
    ungated = text_slices(scored(row, row, row, same), {"topic": topic}, margin=None, **SURE)
    assert [each.harm_p for each in ungated] == [each.harm_p for each in found] and not ungated[0].harmed


def test_nothing_has_no_mean():
    with pytest.raises(ValueError, match="give rows with tokens"):
        mean_over_rows([], np.zeros(0, np.int64), **SURE)
    with pytest.raises(ValueError, match="give rows with tokens"):
        ratio_interval([0, 0], [0, 0], **SURE)
    assert isinstance(ratio_interval([1, 2], [2, 2], **SURE), Interval)
