"""The cost of errors against sums done by hand, and what a matrix must price."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from scipy import stats

from deshi.jobs.evidence.risk.error_cost import cost_per_1000, difference_per_1000, refuse_unpriced, row_costs

MATRIX = {"a": {"b": 10, "c": 0}, "b": {"a": 2.5, "c": 100}, "c": {"a": 1, "b": 1}}
SURE = {"confidence": 0.95, "seed": 0}


def rows(pairs: str) -> pa.Table:
    """`ab bb`: label a answered b, label b answered b."""
    labels, answers = zip(*pairs.split(), strict=True)
    return pa.table({"label": labels, "answer": answers})


def test_the_matrix_is_read_true_label_first():
    assert row_costs(MATRIX, rows("aa ab ac ba bb bc ca")).tolist() == [0, 10, 0, 2.5, 0, 100, 1]
    assert row_costs(7.0, rows("aa ab ba")).tolist() == [0, 7, 7]


def test_the_mean_is_that_of_a_thousand_requests_and_the_interval_scipys():
    told = rows("aa " * 40 + "ab " * 12 + "bc " * 8)
    found = cost_per_1000(MATRIX, told, **SURE)
    assert found.value == pytest.approx(1000 * (12 * 10 + 8 * 100) / 60)
    ends = stats.bootstrap(
        (np.array([0.0] * 40 + [10.0] * 12 + [100.0] * 8),), np.mean, n_resamples=4999, rng=np.random.default_rng(1)
    ).confidence_interval
    assert (found.low, found.high) == pytest.approx((1000 * ends.low, 1000 * ends.high), rel=0.03)


def test_the_difference_is_paired():
    told, taught = rows("ab " * 20 + "aa " * 30 + "ba " * 50), rows("aa " * 20 + "ab " * 30 + "ba " * 50)
    found = difference_per_1000(10.0, told, taught, **SURE)
    assert found.value == pytest.approx(1000 * (20 - 30) * 10 / 100)
    assert found.low < found.value < found.high < 1000
    same = difference_per_1000(10.0, told, told, **SURE)
    assert same.value == 0  # 70 errors of each, all of them the same: only what could not be seen is left
    exact = stats.beta.ppf(1 - 0.025 / 2, 1, 100)
    assert (same.low, same.high) == pytest.approx((-10_000 * exact, 10_000 * exact))


def test_no_error_in_few_rows_is_not_taken_for_none_ever():
    found = cost_per_1000(MATRIX, rows("aa " * 50), **SURE)
    assert (found.value, found.low) == (0, 0)
    assert found.high == pytest.approx(1000 * 100 * (1 - 0.025 ** (1 / 50)))  # Clopper-Pearson without a success


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"c": None}, "no row for the label 'c'"),
        ({"b": {"a": 2.5}}, "error_cost.b has no price for the answer 'c'"),
        ({"d": {"a": 1}}, "prices 'd', which is no label"),
        ({"a": {"b": 1, "c": 1, "x": 1}}, "error_cost.a prices 'x'"),
        ({"a": {"a": 3, "b": 1, "c": 1}}, "a right answer costs nothing"),
    ],
)
def test_a_matrix_that_does_not_fit_the_labels_is_refused(change, said):
    matrix = {truth: prices for truth, prices in (MATRIX | change).items() if prices is not None}
    with pytest.raises(ValueError, match=said):
        refuse_unpriced(matrix, ("a", "b", "c"))


@pytest.mark.parametrize("fits", [None, 5.0, MATRIX, MATRIX | {"a": {"a": 0, "b": 1, "c": 1}}])
def test_what_fits_is_not_refused_and_prices_every_answer(fits):
    refuse_unpriced(fits, ("a", "b", "c"))
    if fits is not None:
        told = row_costs(fits, rows(" ".join(truth + answer for truth in "abc" for answer in "abc"))).reshape(3, 3)
        assert np.isfinite(told).all() and np.diag(told).tolist() == [0, 0, 0] and told.sum() > 0
