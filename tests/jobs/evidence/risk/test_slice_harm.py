"""The harm test against numerical likelihood, hand formulas and loops; its error rates by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import optimize, stats
from statsmodels.stats.multitest import multipletests

from deshi.jobs.evidence.figure import Figure
from deshi.jobs.evidence.kpis import kpi_rows
from deshi.jobs.evidence.quality import slice_rows
from deshi.jobs.evidence.risk.slice_harm import flip_harms, judgeable, members, share_harms
from deshi.jobs.evidence.schema import ModelRow, Quality, SliceRow
from deshi.jobs.evidence.verdict import verdict
from deshi.serve.kpi import Kpi
from deshi.serve.texts import recorded

NORMAL = stats.norm.sf


def rows_of(to_wrong: int, to_right: int, n: int) -> np.ndarray:
    return np.repeat([1, -1, 0], [to_wrong, to_right, n - to_wrong - to_right])


def two_groups(slice_counts: tuple[int, int, int], rest_counts: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    differences = np.concatenate([rows_of(*slice_counts), rows_of(*rest_counts)])
    return differences, np.arange(len(differences)) < slice_counts[2]


@pytest.mark.parametrize(
    ("mine", "rest"), [((14, 3, 60), (30, 25, 940)), ((5, 0, 40), (0, 30, 500)), ((0, 1, 80), (12, 40, 700))]
)
def test_the_variances_are_those_of_the_likeliest_shares_without_harm(mine, rest):
    differences, here = two_groups(mine, rest)
    common, variance, third = differences.mean(), 0.0, 0.0
    for to_wrong, to_right, n in (mine, rest):

        def unlikely(q: float, to_wrong=to_wrong, to_right=to_right, n=n) -> float:
            shares = np.clip([q + common, q, 1 - 2 * q - common], 1e-15, None)
            return float(-(np.array([to_wrong, to_right, n - to_wrong - to_right]) @ np.log(shares)))

        ends = (max(0.0, -common), (1 - common) / 2)
        q = optimize.minimize_scalar(unlikely, bounds=ends, method="bounded", options={"xatol": 1e-12}).x
        shares, apart = np.array([q + common, q, 1 - 2 * q - common]), np.array([1, -1, 0]) - common
        variance += shares @ apart**2 / n
        third += (1 if n == mine[2] else -1) * (shares @ apart**3) / n**2
    t = (differences[here].mean() - differences[~here].mean()) / math.sqrt(variance)
    skewness = third / variance**1.5
    z = optimize.brentq(lambda z: z + skewness * (z**2 - 1) / 6 - t, -1.5, 6)
    (found,) = flip_harms(differences, [here], None)
    assert found.p == pytest.approx(NORMAL(z), rel=1e-3)


def test_beside_many_unchanged_rows_it_is_mcnemars_score():
    differences, here = two_groups((13, 4, 100), (0, 0, 1_000_000))
    (found,) = flip_harms(differences, [here], None)
    assert found.p == pytest.approx(NORMAL(9 / math.sqrt(17)), rel=1e-3)


def test_a_slice_that_is_lost_whole_reaches_the_root_of_its_rows():
    """Which is what decides how large a slice must be to be judged; of 10,000 rows nothing is skewed by it."""
    for n in (3, 9, 30):
        differences, here = two_groups((n, 0, n), (0, 0, 10_000 - n))
        (found,) = flip_harms(differences, [here], 0.05)
        assert found.p == pytest.approx(NORMAL(math.sqrt(n)), rel=0.01 * n) and found.harmed


def test_slices_too_small_to_reject_cost_the_others_nothing():
    assert judgeable([8] * 20, 3000).all() and not judgeable([7] * 20, 3000).any()
    assert judgeable([10] * 50, 3000).all() and not judgeable([9] * 50, 3000).any()
    assert judgeable([500, 3, 3, 300], 1000).tolist() == [True, False, False, True]
    assert judgeable([996, 4], 1000).tolist() == [True, True]  # one family: what one loses the other keeps
    assert judgeable([1000], 1000).tolist() == [False]  # no other rows to be held against
    differences, here = two_groups((12, 2, 100), (20, 20, 900))
    lone = [np.arange(1000) == row for row in range(200, 230)]
    alone, beside = flip_harms(differences, [here], 0.05), flip_harms(differences, [here, *lone], 0.05)
    assert beside[0] == alone[0]
    assert {harm.p for harm in beside[1:]} == {None} and not any(harm.harmed for harm in beside[1:])


def test_p_is_holms_over_all_slices_of_all_columns():
    rng = np.random.default_rng(0)
    differences = rng.choice([1, -1, 0], p=[0.06, 0.03, 0.91], size=900)
    parts = list(members({"a": rng.choice(["x", "y", "z"], 900), "b": rng.choice(["u", "v"], 900)}).values())
    assert len(parts) == 5
    single = np.array([flip_harms(differences, [here], None)[0].p for here in parts])
    adjusted = multipletests(single, method="holm")[1]
    assert [harm.p for harm in flip_harms(differences, parts, None)] == pytest.approx(adjusted)


def test_harm_is_proven_and_beyond_the_margin():
    differences, here = two_groups((40, 10, 400), (30, 30, 3000))  # 7.5 points, certain to be more than elsewhere
    assert [flip_harms(differences, [here], margin)[0].harmed for margin in (0.05, 0.075, 0.08, None)] == [
        True,
        False,
        False,
        False,
    ]
    alike, part = two_groups((40, 10, 400), (300, 75, 3000))  # as much everywhere: the whole model drops
    (found,) = flip_harms(alike, [part], 0.05)
    assert found.p == pytest.approx(0.5, abs=0.01) and not found.harmed


def test_nothing_lost_anywhere_is_no_harm():
    (found,) = flip_harms(np.zeros(100, int), [np.arange(100) < 50], 0.05)
    assert found.p == 1 and not found.harmed


def level(p: list[float]) -> float:
    """The chance of so many rejections at 5% or more."""
    return stats.binomtest(int(np.sum(np.array(p) <= 0.05)), len(p), 0.05, alternative="greater").pvalue


def test_slices_that_differ_more_often_are_not_called_harmed():
    """No drop anywhere, 30% of the slice's rows differ and 5% of the others: permuting rows would not keep to 5%."""
    rng, ours, permuted = np.random.default_rng(1), [], []
    here = np.arange(3000) < 100
    share = np.where(here, 0.3, 0.05)
    for _ in range(2000):
        luck = rng.random(3000)
        differences = np.where(luck < share / 2, 1, np.where(luck < share, -1, 0))
        ours.append(flip_harms(differences, [here], None)[0].p)
        spread = differences.var() * 3000 / 2999 * (1 / 100 + 1 / 2900)  # of all permutations
        permuted.append(NORMAL((differences[here].mean() - differences[~here].mean()) / math.sqrt(spread)))
    assert level(ours) > 0.001
    assert level(permuted) < 1e-12


def test_a_model_that_only_loses_is_not_called_harmful_to_a_slice():
    """5% of all rows flip to wrong and none to right: uncorrected for skewness 2% of these lie below 1.25%."""
    rng, found = np.random.default_rng(5), []
    here = np.arange(3000) < 150
    for _ in range(4000):
        found.append(flip_harms((rng.random(3000) < 0.05).astype(int), [here], None)[0].p)
    assert stats.binomtest(int(np.sum(np.array(found) <= 0.0125)), 4000, 0.0125, alternative="greater").pvalue > 0.01
    assert level(found) > 0.001


def test_token_shares_by_a_plain_loop():
    rng = np.random.default_rng(2)
    tokens = rng.integers(3, 60, 90)
    misses = rng.binomial(tokens, 0.2)
    parts = list(members({"topic": rng.choice(["a", "b", "c"], 90)}).values())
    mean = misses.sum() / tokens.sum()
    for here, found in zip(parts, (share_harms(misses, tokens, [part], 0.1)[0] for part in parts), strict=True):
        gap, variance = 0.0, 0.0
        for sign, group in ((1, here), (-1, ~here)):
            size = sum(tokens[row] for row in range(90) if group[row])
            gap += sign * sum(misses[row] for row in range(90) if group[row]) / size
            variance += sum((misses[row] - mean * tokens[row]) ** 2 for row in range(90) if group[row]) / size**2
        assert found.p == pytest.approx(NORMAL(gap / math.sqrt(variance)))


def test_long_and_unsteady_rows_are_not_called_harmed():
    """Rows of the slice are three times as long and scatter more, around the same share."""
    rng, found = np.random.default_rng(3), []
    here = np.arange(400) < 60
    for _ in range(1500):
        tokens = rng.integers(5, 40, 400) * np.where(here, 3, 1)
        share = np.where(here, rng.beta(1, 4, 400), rng.beta(8, 32, 400))
        found.append(share_harms(rng.binomial(tokens, share), tokens, [here], None)[0].p)
    assert level(found) > 0.001
    assert np.mean(np.array(found) <= 0.05) > 0.02  # and it is a test


def test_a_harmed_slice_rejects_the_release_and_is_named():
    rng = np.random.default_rng(4)
    topic = rng.choice(["rain", "sun", "snow"], 1500, p=[0.2, 0.4, 0.4])
    taught = rng.random(1500) < 0.9
    right = taught ^ (rng.random(1500) < 0.04)
    broken = rng.choice(np.flatnonzero((topic == "rain") & right), 60, replace=False)
    right[broken] = False
    whole = Figure(value=0.04, low=0.02, high=0.06, n=1500, unit="share")
    found = {
        name: judged(slice_rows(told, taught, {"topic": topic}, margin=0.1, confidence=0.95, seed=0), whole)
        for name, told in (("broken", right), ("sound", taught ^ (rng.random(1500) < 0.04)))
    }
    spoken = found["broken"]
    assert spoken.decision == "REJECT"
    assert [reason.code for reason in spoken.reasons] == ["harmed_slices.fail"]
    assert spoken.reasons[0].values["slice"] == "topic = rain"
    n = int(np.sum(topic == "rain"))
    assert spoken.reasons[0].text.startswith(f"slice topic = rain (n = {n}) is harmed: it drops by ")
    assert "beyond the limit of 10.00" in spoken.reasons[0].text
    assert found["sound"].decision == "ACCEPT"
    assert found["sound"].reasons[-1].text == "no slice of the 3 that are large enough to be judged is harmed"


def judged(slices: tuple[SliceRow, ...], drop: Figure):
    quality = Quality(score=Figure(value=0.8, unit="share"), drop=drop, slices=slices)
    row = ModelRow(
        id="chosen",
        role="chosen",
        digest="d",
        parameters=1,
        layers=1,
        ffn=1,
        vocabulary=1,
        scheme="fp32",
        training_steps=0,
        quality=quality,
        targets=(),
    )
    rows = kpi_rows(row, Kpi(), (), margin=0.1, currency="JPY")
    how = next(row.figure.how for row in rows if row.name == "harmed_slices")
    assert (
        recorded(how, "en") == how and "score test" not in recorded(how, "ja") and "slices" not in recorded(how, "ja")
    )
    return verdict(rows, slices=slices, confidence=0.95)
