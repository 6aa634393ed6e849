"""Statistics against hand formulas and exact enumeration; error rates by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import log_loss

from deshi.jobs.evidence import scores
from deshi.serve import statistics
from deshi.serve.statistics import Interval

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
    found = statistics.paired_drop(teacher, student, **SETTING)
    difference = teacher.astype(float) - student.astype(float)
    half = 1.959964 * difference.std(ddof=1) / math.sqrt(4000)
    assert found.drop.value == pytest.approx(difference.mean())
    assert found.drop.low == pytest.approx(difference.mean() - half, abs=0.0006)
    assert found.drop.high == pytest.approx(difference.mean() + half, abs=0.0006)
    assert found.drop.n == 4000
    assert found.flips_to_wrong == sum(t and not s for t, s in zip(teacher, student, strict=True))
    assert found.flips_to_right == sum(s and not t for t, s in zip(teacher, student, strict=True))
    assert found.discordant_share == pytest.approx(np.mean(teacher != student))
    assert statistics.paired_drop(teacher, student, **SETTING) == found


def test_pairing_narrows_the_interval():
    """The drop of nearly equal models is known far better than either score: p_d, not p (1 - p), rules."""
    teacher, student = draw(np.random.default_rng(1), 1000, 0.02, 0.015)
    paired = statistics.paired_drop(teacher, student, **SETTING).drop
    unpaired = math.sqrt(teacher.var() / 1000 + student.var() / 1000)
    assert paired.high - paired.low < 0.6 * 2 * 1.96 * unpaired


@pytest.mark.parametrize(("to_wrong", "to_right"), [(9, 2), (0, 0), (1, 0), (30, 30), (0, 12)])
def test_mcnemar_is_the_exact_binomial_test(to_wrong, to_right):
    n = to_wrong + to_right
    tail = sum(math.comb(n, k) for k in range(min(to_wrong, to_right) + 1)) / 2**n
    assert statistics.mcnemar_p(to_wrong, to_right) == pytest.approx(min(1.0, 2 * tail))


def test_equal_answers_are_no_certainty():
    """100 rows without a flip: a flip rate of 4.3% shows none with probability 1.25%, so it ends there."""
    drop = statistics.paired_drop([1] * 100, [1] * 100, **SETTING).drop
    end = 1 - 0.0125 ** (1 / 100)
    assert (drop.low, drop.value, drop.high) == pytest.approx((-end, 0, end))


@pytest.mark.parametrize("margin", [0.02, 0.05, 0.1])
@pytest.mark.parametrize("n", [20, 60, 150])
def test_few_flips_pass_wrongly_in_at_most_half_the_error(margin, n, monkeypatch):
    """No simulation: the chance of each number of flips is known when all of them go to wrong."""
    monkeypatch.setattr(statistics, "RESAMPLES", 999)
    passes = 0.0
    for flips in range(int(n * margin) + 1):
        student = np.arange(n) >= flips
        drop = statistics.paired_drop(np.ones(n), student, **SETTING).drop
        if statistics.non_inferior(drop.low, drop.high, margin) == "PASS":
            passes += stats.binom.pmf(flips, n, margin)
    assert passes <= 0.025


@pytest.mark.parametrize(("n", "margin", "to_right"), [(300, 0.05, 0.03), (150, 0.1, 0.02)])
def test_pass_rate_at_the_margin_keeps_to_the_nominal_error(n, margin, to_right, monkeypatch):
    """True drop = margin: PASS must come in at most 2.5% of draws, as far as a binomial test can tell."""
    monkeypatch.setattr(statistics, "RESAMPLES", 999)
    rng, draws = np.random.default_rng(2), 300
    outcomes = []
    for _ in range(draws):
        teacher, student = draw(rng, n, margin + to_right, to_right)
        drop = statistics.paired_drop(teacher, student, **SETTING).drop
        outcomes.append(statistics.non_inferior(drop.low, drop.high, margin))
    tested = stats.binomtest(outcomes.count("PASS"), draws, 0.025, alternative="greater")
    assert tested.pvalue > 0.001, f"{outcomes.count('PASS')} of {draws} passed"
    assert outcomes.count("INCONCLUSIVE") > 0.9 * draws


def test_planned_rows_have_the_planned_power(monkeypatch):
    monkeypatch.setattr(statistics, "RESAMPLES", 999)
    drop, share, margin, draws = 0.01, 0.07, 0.06, 200
    n = statistics.rows_needed(drop, share, margin, 0.95)
    assert n is not None
    rng, passes = np.random.default_rng(3), 0
    for _ in range(draws):
        teacher, student = draw(rng, n, (share + drop) / 2, (share - drop) / 2)
        found = statistics.paired_drop(teacher, student, **SETTING).drop
        passes += statistics.non_inferior(found.low, found.high, margin) == "PASS"
    assert stats.binomtest(passes, draws, 0.8).pvalue > 0.001, f"{passes} of {draws} passed at n = {n}"


@pytest.mark.parametrize(
    ("low", "high", "outcome"),
    [(-0.01, 0.04, "PASS"), (0.06, 0.09, "FAIL"), (0.04, 0.06, "INCONCLUSIVE"), (0.0, 0.05, "INCONCLUSIVE")],
)
def test_non_inferiority_goes_by_the_interval_alone(low, high, outcome):
    assert statistics.non_inferior(low, high, 0.05) == outcome


@pytest.mark.parametrize(
    ("share", "margin", "rows"),
    [(0.06, 0.02, 928), (0.06, 0.01, 3710), (0.06, 0.005, 14839), (0.1, 0.02, 1546)],
)
def test_rows_needed_for_a_one_sided_test_at_5_percent(share, margin, rows):
    """The textbook's 6.18 p_d / m^2: one-sided 5% is the interval at 0.90."""
    assert statistics.rows_needed(0.0, share, margin, 0.90) == rows


def test_rows_needed_with_a_true_drop():
    # (1.959964 + 0.841621)^2 = 7.8489; variance 0.08 - 0.02^2 = 0.0796; distance 0.03.
    assert statistics.rows_needed(0.02, 0.08, 0.05, 0.95) == math.ceil(7.848880 * 0.0796 / 0.0009)
    assert statistics.rows_needed(0.05, 0.08, 0.05, 0.95) is None
    assert statistics.rows_needed(0.07, 0.08, 0.05, 0.95) is None
    without_flips = statistics.rows_needed(0.0, 0.0, 0.05, 0.95)
    assert without_flips is not None
    for n, outcome in ((without_flips, "PASS"), (without_flips - 1, "INCONCLUSIVE")):
        drop = statistics.paired_drop(np.ones(n), np.ones(n), **SETTING).drop
        assert statistics.non_inferior(drop.low, drop.high, 0.05) == outcome


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

    found = statistics.paired_score_drop(macro_f1, labels, teacher, student, **SETTING, resamples=999)
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
    by_score = statistics.paired_score_drop(accuracy, labels, teacher, student, **SETTING, resamples=999)
    by_rows = statistics.paired_drop(teacher == labels, student == labels, **SETTING)
    assert by_score.drop.value == pytest.approx(by_rows.drop.value)
    assert by_score.drop.low == pytest.approx(by_rows.drop.low, abs=0.004)
    assert by_score.drop.high == pytest.approx(by_rows.drop.high, abs=0.004)
    assert by_score.mcnemar_p == by_rows.mcnemar_p


def test_a_score_of_equal_answers_is_no_certainty_either():
    labels, teacher, _ = questions(np.random.default_rng(7), 50)
    found = statistics.paired_score_drop(accuracy, labels, teacher, teacher, **SETTING, resamples=99)
    assert found.drop.value == 0
    assert found.drop.high > 0.05


def test_wilson_by_hand():
    found = statistics.proportion_interval(8, 10, confidence=0.95)
    z, p, n = 1.959964, 0.8, 10
    middle = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    assert found == Interval(value=0.8, low=pytest.approx(middle - half), high=pytest.approx(middle + half), n=10)


def test_mean_interval():
    values = np.random.default_rng(8).normal(5, 2, 900)
    found = statistics.mean_interval(values, **SETTING)
    half = 1.96 * values.std(ddof=1) / 30
    assert (found.low, found.value, found.high) == pytest.approx(
        (values.mean() - half, values.mean(), values.mean() + half), abs=0.02
    )
    constant = statistics.mean_interval([3.0] * 20, **SETTING)
    assert (constant.low, constant.high) == (3.0, 3.0)
    single = statistics.mean_interval([3.0], **SETTING)
    assert (single.low, single.high) == (-math.inf, math.inf)


def test_score_interval_of_accuracy_is_near_wilson():
    labels, teacher, _ = questions(np.random.default_rng(14), 800)
    found = statistics.score_interval(accuracy, labels, teacher, **SETTING, resamples=999)
    wilson = statistics.proportion_interval(int(np.sum(labels == teacher)), 800, confidence=0.95)
    assert found.value == wilson.value
    assert (found.low, found.high) == pytest.approx((wilson.low, wilson.high), abs=0.004)


def test_quantile_interval_covers():
    rng, truth, covered = np.random.default_rng(9), math.exp(stats.norm.ppf(0.95)), 0
    for _ in range(400):
        found = statistics.quantile_interval(rng.lognormal(size=300), 0.95, confidence=0.95)
        covered += found.low <= truth <= found.high
    assert stats.binomtest(covered, 400, 0.95, alternative="less").pvalue > 0.001


@pytest.mark.parametrize(("n", "bounded"), [(71, False), (72, True)])
def test_too_few_rows_have_no_upper_end_of_a_p95(n, bounded):
    """All of n rows lie below the p95 with probability 0.95^n, which is under 2.5% from 72 rows on."""
    found = statistics.quantile_interval(np.arange(n, dtype=float), 0.95, confidence=0.95)
    assert math.isfinite(found.high) == bounded
    assert found.value == pytest.approx(np.quantile(np.arange(n), 0.95))


def test_ratio_of_medians_cancels_a_shared_slowdown():
    rng = np.random.default_rng(10)
    weather = rng.lognormal(0, 0.8, 200)
    found = statistics.ratio_of_medians_interval(
        2 * weather * rng.normal(1, 0.02, 200), 10 * weather, confidence=0.95, seed=0
    )
    assert found.low < 0.2 < found.high
    assert found.high - found.low < 0.02
    with pytest.raises(ValueError, match="same rows"):
        statistics.ratio_of_medians_interval([1.0, 2.0], [1.0], **SETTING)


def test_calibration_error_by_hand():
    probabilities = np.array([[0.95, 0.05], [0.92, 0.08], [0.6, 0.4], [0.3, 0.7]])
    labels = np.array([0, 1, 0, 1])
    # Bins of 1/10: (0.9, 1] holds two rows, one right; (0.5, 0.6] one, right; (0.6, 0.7] one, right.
    expected = (2 * abs(0.5 - 0.935) + abs(1 - 0.6) + abs(1 - 0.7)) / 4
    found = statistics.expected_calibration_error(probabilities, labels, **SETTING, bins=10)
    assert found.value == pytest.approx(expected)
    assert 0 <= found.low <= found.value <= found.high


def test_calibration_error_interval_contains_the_truth():
    """Confidence 0.9, right in 70% of rows: the true error is 0.2."""
    rng, covered = np.random.default_rng(11), 0
    for seed in range(60):
        labels = (rng.random(400) > 0.7).astype(int)
        found = statistics.expected_calibration_error(np.tile([0.9, 0.1], (400, 1)), labels, confidence=0.95, seed=seed)
        covered += found.low <= 0.2 <= found.high
    assert stats.binomtest(covered, 60, 0.95, alternative="less").pvalue > 0.001


def test_calibration_error_of_a_calibrated_model_reaches_far_down():
    """The true error is 0; ends read off the resamples, noisier than the rows, would stay near the value."""
    rng, shares = np.random.default_rng(13), []
    for seed in range(10):
        sure = rng.uniform(0.5, 1, 800)
        labels = (rng.random(800) > sure).astype(int)
        found = statistics.expected_calibration_error(
            np.stack([sure, 1 - sure], axis=1), labels, confidence=0.95, seed=seed
        )
        shares.append(found.low / found.value)
    assert np.mean(shares) < 0.5


def test_kl_rows_by_hand():
    p, q = np.array([[0.5, 0.5], [1.0, 0.0]]), np.array([[0.25, 0.75], [0.5, 0.5]])
    with np.errstate(divide="ignore"):
        found = statistics.kl_rows(np.log(p), np.log(q))
    assert found == pytest.approx([0.5 * math.log(2) + 0.5 * math.log(2 / 3), math.log(2)])


def test_fit_temperature_finds_the_temperature_that_made_the_labels():
    rng = np.random.default_rng(12)
    logits = 2 * rng.normal(size=(4000, 5))
    q = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = (q.cumsum(axis=1) > rng.random((4000, 1))).argmax(axis=1)
    fitted = statistics.fit_temperature(3 * logits, labels)
    assert fitted == pytest.approx(3, rel=0.05)
    assert statistics.fit_temperature(3 * logits, q) == pytest.approx(3, rel=1e-4)

    def loss(temperature: float) -> float:
        scaled = np.exp(3 * logits / temperature)
        return log_loss(labels, scaled / scaled.sum(axis=1, keepdims=True))

    assert loss(fitted) < min(loss(fitted * 1.01), loss(fitted / 1.01))
    separable = statistics.fit_temperature([[5.0, 0.0], [0.0, 5.0]], [0, 1])
    assert 0.1 <= separable < 0.2


def test_senseless_input_is_refused():
    with pytest.raises(ValueError, match="0 rows"):
        statistics.mean_interval([], **SETTING)
    with pytest.raises(ValueError, match="same rows"):
        statistics.paired_drop([1, 0], [1], **SETTING)
    with pytest.raises(ValueError, match="do not fit"):
        statistics.fit_temperature([[1.0, 2.0]], [[0.5, 0.25, 0.25]])
