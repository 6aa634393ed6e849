"""Paired drops against hand formulas, scipy's bootstrap and exact enumeration; error rates by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from deshi.jobs.evidence import scores
from deshi.serve.paired_statistics import mcnemar_p, paired_drop, paired_score_drop
from deshi.serve.statistics import non_inferior, rows_needed

SETTING = {"confidence": 0.95, "seed": 0}


def draw(rng: np.random.Generator, n: int, to_wrong: float, to_right: float) -> tuple[np.ndarray, np.ndarray]:
    """Who was right, row by row, with the given chances of a flip each way."""
    u = rng.random(n)
    both = rng.random(n) < 0.9
    teacher = np.where(u < to_wrong, True, np.where(u < to_wrong + to_right, False, both))
    student = np.where(u < to_wrong, False, np.where(u < to_wrong + to_right, True, both))
    return teacher, student


def test_paired_drop_is_the_normal_interval_where_rows_are_many():
    teacher, student = draw(np.random.default_rng(0), 4000, 0.08, 0.05)
    found = paired_drop(teacher, student, **SETTING)
    difference = teacher.astype(float) - student.astype(float)
    half = 1.959964 * difference.std(ddof=1) / math.sqrt(4000)
    assert found.drop.value == pytest.approx(difference.mean())
    assert found.drop.low == pytest.approx(difference.mean() - half, abs=0.0006)
    assert found.drop.high == pytest.approx(difference.mean() + half, abs=0.0006)
    assert found.drop.n == 4000
    assert found.flips_to_wrong == sum(t and not s for t, s in zip(teacher, student, strict=True))
    assert found.flips_to_right == sum(s and not t for t, s in zip(teacher, student, strict=True))
    assert found.discordant_share == pytest.approx(np.mean(teacher != student))
    assert paired_drop(teacher, student, **SETTING) == found


@pytest.mark.parametrize(("n", "to_wrong", "to_right"), [(150, 21, 3), (400, 6, 30), (60, 40, 2), (900, 40, 38)])
def test_the_interval_is_scipys_bca_of_the_differences(n, to_wrong, to_right):
    """Scipy draws rows where we draw counts; 40,000 draws of its own leave a noise of under a row."""
    differences = np.repeat([1.0, -1.0, 0.0], [to_wrong, to_right, n - to_wrong - to_right])
    found = paired_drop(differences == 1, differences == -1, **SETTING).drop
    ends = stats.bootstrap(
        (differences,), np.mean, n_resamples=40_000, batch=2000, method="BCa", rng=np.random.default_rng(1)
    ).confidence_interval
    assert (found.low, found.high) == pytest.approx((ends.low, ends.high), abs=1.01 / n)


def test_a_slice_that_is_lost_whole_is_no_certainty():
    drop = paired_drop(np.ones(12), np.zeros(12), **SETTING).drop
    assert drop.low == pytest.approx(0.0125 ** (1 / 12) - (1 - 0.0125 ** (1 / 12)))
    assert drop.value == 1


def test_rows_are_compared_with_as_many():
    with pytest.raises(ValueError, match="same rows"):
        paired_drop([1, 0], [1], **SETTING)


def test_pairing_narrows_the_interval():
    """The drop of nearly equal models is known far better than either score: p_d, not p (1 - p), rules."""
    teacher, student = draw(np.random.default_rng(1), 1000, 0.02, 0.015)
    paired = paired_drop(teacher, student, **SETTING).drop
    unpaired = math.sqrt(teacher.var() / 1000 + student.var() / 1000)
    assert paired.high - paired.low < 0.6 * 2 * 1.96 * unpaired


@pytest.mark.parametrize(("to_wrong", "to_right"), [(9, 2), (0, 0), (1, 0), (30, 30), (0, 12)])
def test_mcnemar_is_the_exact_binomial_test(to_wrong, to_right):
    n = to_wrong + to_right
    tail = sum(math.comb(n, k) for k in range(min(to_wrong, to_right) + 1)) / 2**n
    assert mcnemar_p(to_wrong, to_right) == pytest.approx(min(1.0, 2 * tail))


def test_equal_answers_are_no_certainty():
    """100 rows without a flip: a flip rate of 4.3% shows none with probability 1.25%, so it ends there."""
    drop = paired_drop([1] * 100, [1] * 100, **SETTING).drop
    end = 1 - 0.0125 ** (1 / 100)
    assert (drop.low, drop.value, drop.high) == pytest.approx((-end, 0, end))


@pytest.mark.parametrize("margin", [0.02, 0.05, 0.1])
@pytest.mark.parametrize("n", [20, 60, 150])
def test_few_flips_pass_wrongly_in_at_most_half_the_error(margin, n):
    """No simulation: the chance of each number of flips is known when all of them go to wrong."""
    passes = 0.0
    for flips in range(int(n * margin) + 1):
        student = np.arange(n) >= flips
        drop = paired_drop(np.ones(n), student, **SETTING).drop
        if non_inferior(drop.low, drop.high, margin) == "PASS":
            passes += stats.binom.pmf(flips, n, margin)
    assert passes <= 0.025


@pytest.mark.parametrize(("n", "margin", "to_right"), [(300, 0.05, 0.03), (150, 0.1, 0.02)])
def test_pass_rate_at_the_margin_keeps_to_the_nominal_error(n, margin, to_right):
    """True drop = margin: PASS must come in at most 2.5% of draws, as far as a binomial test can tell."""
    rng, draws = np.random.default_rng(2), 300
    outcomes = []
    for _ in range(draws):
        teacher, student = draw(rng, n, margin + to_right, to_right)
        drop = paired_drop(teacher, student, **SETTING).drop
        outcomes.append(non_inferior(drop.low, drop.high, margin))
    tested = stats.binomtest(outcomes.count("PASS"), draws, 0.025, alternative="greater")
    assert tested.pvalue > 0.001, f"{outcomes.count('PASS')} of {draws} passed"
    assert outcomes.count("INCONCLUSIVE") > 0.9 * draws


def test_planned_rows_have_the_planned_power():
    drop, share, margin, draws = 0.01, 0.07, 0.06, 200
    n = rows_needed(drop, share, margin, 0.95)
    assert n is not None
    rng, passes = np.random.default_rng(3), 0
    for _ in range(draws):
        teacher, student = draw(rng, n, (share + drop) / 2, (share - drop) / 2)
        found = paired_drop(teacher, student, **SETTING).drop
        passes += non_inferior(found.low, found.high, margin) == "PASS"
    assert stats.binomtest(passes, draws, 0.8).pvalue > 0.001, f"{passes} of {draws} passed at n = {n}"


def test_rows_needed_with_a_true_drop():
    # (1.959964 + 0.841621)^2 = 7.8489; variance 0.08 - 0.02^2 = 0.0796; distance 0.03.
    assert rows_needed(0.02, 0.08, 0.05, 0.95) == math.ceil(7.848880 * 0.0796 / 0.0009)
    assert rows_needed(0.05, 0.08, 0.05, 0.95) is None
    assert rows_needed(0.07, 0.08, 0.05, 0.95) is None
    without_flips = rows_needed(0.0, 0.0, 0.05, 0.95)
    assert without_flips is not None
    for n, outcome in ((without_flips, "PASS"), (without_flips - 1, "INCONCLUSIVE")):
        drop = paired_drop(np.ones(n), np.ones(n), **SETTING).drop
        assert non_inferior(drop.low, drop.high, 0.05) == outcome


def accuracy(truth: np.ndarray, predictions: np.ndarray) -> float:
    return float(np.mean(truth == predictions))


def questions(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    labels = rng.choice(4, size=n, p=[0.6, 0.2, 0.15, 0.05])
    teacher = np.where(rng.random(n) < 0.1, rng.integers(0, 4, n), labels)
    student = np.where(rng.random(n) < 0.08, rng.integers(0, 4, n), teacher)
    return labels, teacher, student


def test_the_drop_of_any_score_resamples_rows():
    labels, teacher, student = questions(np.random.default_rng(4), 600)

    def macro_f1(truth, predictions):
        return scores.macro_f1(truth, predictions, 4)

    found = paired_score_drop(macro_f1, labels, teacher, student, **SETTING, resamples=999)
    assert found.drop.value == pytest.approx(macro_f1(labels, teacher) - macro_f1(labels, student))
    rng, drops = np.random.default_rng(5), []
    for _ in range(999):
        rows = rng.integers(0, 600, 600)
        drops.append(macro_f1(labels[rows], teacher[rows]) - macro_f1(labels[rows], student[rows]))
    assert found.drop.low < found.drop.value < found.drop.high
    low, high = np.quantile(drops, (0.025, 0.975))
    assert (found.drop.low, found.drop.high) == pytest.approx((low, high), abs=0.012)


def test_a_row_mean_score_gives_what_paired_drop_gives():
    labels, teacher, student = questions(np.random.default_rng(6), 500)
    by_score = paired_score_drop(accuracy, labels, teacher, student, **SETTING, resamples=999)
    by_rows = paired_drop(teacher == labels, student == labels, **SETTING)
    assert by_score.drop.value == pytest.approx(by_rows.drop.value)
    assert by_score.drop.low == pytest.approx(by_rows.drop.low, abs=0.004)
    assert by_score.drop.high == pytest.approx(by_rows.drop.high, abs=0.004)
    assert by_score.mcnemar_p == by_rows.mcnemar_p


def test_a_score_of_equal_answers_is_no_certainty_either():
    labels, teacher, _ = questions(np.random.default_rng(7), 50)
    found = paired_score_drop(accuracy, labels, teacher, teacher, **SETTING, resamples=99)
    assert found.drop.value == 0
    assert found.drop.high > 0.05
