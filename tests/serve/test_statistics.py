"""Statistics against hand formulas and exact enumeration; error rates by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import log_loss

from deshi.serve import statistics
from deshi.serve.statistics import Interval

SETTING = {"confidence": 0.95, "seed": 0}


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


def accuracy(truth: np.ndarray, predictions: np.ndarray) -> float:
    return float(np.mean(truth == predictions))


def questions(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    labels = rng.choice(4, size=n, p=[0.6, 0.2, 0.15, 0.05])
    teacher = np.where(rng.random(n) < 0.1, rng.integers(0, 4, n), labels)
    student = np.where(rng.random(n) < 0.08, rng.integers(0, 4, n), teacher)
    return labels, teacher, student


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
    with pytest.raises(ValueError, match="do not fit"):
        statistics.fit_temperature([[1.0, 2.0]], [[0.5, 0.25, 0.25]])
