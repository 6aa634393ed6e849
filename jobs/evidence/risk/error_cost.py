"""What wrong answers cost: `business.error_cost`, one price for all or a price for each label taken for another.

    cost per 1,000 requests = 1,000 x mean over test rows of price(true label, answered label)

A right answer costs nothing. Intervals are bootstrapped over rows (`serve.statistics.mean_interval`); the difference of
two models is taken row by row on the same rows. Of few errors a bootstrap is too sure, of none it is certain: below
`FEW_FLIPS` rows with a cost, the ends are at least those of the exact binomial interval (Clopper and Pearson 1934) of
the share of such rows, at the lowest and the highest price that there is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy import stats

from deshi.serve.statistics import FEW_FLIPS, Interval, mean_interval

ErrorCost = float | Mapping[str, Mapping[str, float]]


def refuse_unpriced(error_cost: ErrorCost | None, labels: Sequence[str]) -> None:
    """Raises ValueError unless every error that a classifier of these labels can make has one price."""
    if error_cost is None or not isinstance(error_cost, Mapping):
        return
    known = ", ".join(labels)
    for truth, answers in error_cost.items():
        for label in (truth, *answers):
            if label not in labels:
                where = "business.error_cost" if label == truth else f"business.error_cost.{truth}"
                raise ValueError(f"{where} prices {label!r}, which is no label of the rows; use {known}")
        if answers.get(truth):
            raise ValueError(
                f"business.error_cost.{truth}.{truth} = {answers[truth]:g}, but a right answer costs nothing; remove it"
            )
    for truth in labels:
        if truth not in error_cost:
            raise ValueError(f"business.error_cost has no row for the label {truth!r}; price its errors too")
        for answer in labels:
            if answer != truth and answer not in error_cost[truth]:
                raise ValueError(
                    f"business.error_cost.{truth} has no price for the answer {answer!r}; add it (0 if it is harmless)"
                )


def row_costs(error_cost: ErrorCost, rows: pa.Table) -> NDArray[np.float64]:
    """What each row's answer costs; `rows` has the columns `label` and `answer`."""
    pairs = zip(rows["label"].to_pylist(), rows["answer"].to_pylist(), strict=True)
    return np.array([price_of(error_cost, label, answer) for label, answer in pairs])


def price_of(error_cost: ErrorCost, label: str, answer: str | None) -> float:
    """The price of one answer; of one that is no label (None) that of the label's dearest error."""
    if label == answer:
        return 0.0
    if not isinstance(error_cost, Mapping):
        return float(error_cost)
    prices = error_cost[label]
    return float(max(prices.values(), default=0.0) if answer is None else prices[answer])


def cost_per_1000(error_cost: ErrorCost, rows: pa.Table, *, confidence: float, seed: int) -> Interval:
    """Money for 1,000 requests like the test rows."""
    costs = row_costs(error_cost, rows)
    found = mean_interval(costs, confidence=confidence, seed=seed)
    wrong = int(np.sum(costs > 0))
    if wrong >= FEW_FLIPS:
        return _times_1000(found)
    least, most = _prices(error_cost)
    low, high = _exact(wrong, len(costs), confidence)
    return _times_1000(_no_surer(found, least * low, most * high))


def difference_per_1000(
    error_cost: ErrorCost, rows: pa.Table, taught: pa.Table, *, confidence: float, seed: int
) -> Interval:
    """The same, this model's minus the teacher's, row by row; positive is dearer than the teacher."""
    more = row_costs(error_cost, rows) - row_costs(error_cost, taught)
    found = mean_interval(more, confidence=confidence, seed=seed)
    dearer, cheaper = int(np.sum(more > 0)), int(np.sum(more < 0))
    if dearer + cheaper >= FEW_FLIPS:
        return _times_1000(found)
    _, most = _prices(error_cost)
    # Each side at half the error, so that their far ends hold together (Bonferroni).
    (_, up), (_, down) = (_exact(count, len(more), (1 + confidence) / 2) for count in (dearer, cheaper))
    return _times_1000(_no_surer(found, -most * down, most * up))


def _prices(error_cost: ErrorCost) -> tuple[float, float]:
    """The lowest price of an error that costs anything, and the highest."""
    if not isinstance(error_cost, Mapping):
        return float(error_cost), float(error_cost)
    told = [price for truth, answers in error_cost.items() for answer, price in answers.items() if answer != truth]
    return min((price for price in told if price > 0), default=0.0), max(told, default=0.0)


def _exact(count: int, n: int, confidence: float) -> tuple[float, float]:
    ends = stats.binomtest(count, n).proportion_ci(confidence_level=confidence, method="exact")
    return float(ends.low), float(ends.high)


def _no_surer(found: Interval, low: float, high: float) -> Interval:
    return Interval(value=found.value, low=min(found.low, low), high=max(found.high, high), n=found.n)


def _times_1000(found: Interval) -> Interval:
    return Interval(value=1000 * found.value, low=1000 * found.low, high=1000 * found.high, n=found.n)
