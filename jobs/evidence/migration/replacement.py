"""Replace or keep: a judged model against the live release, on the same test rows and the same targets.

The live release is kept unless the new model is accepted by the recipe's KPIs, is shown to lose less than the margin
against the live one, and gives something for the change: it costs less at peak load, or is shown to be better. Both
comparisons go by the interval, so doubt keeps what is live.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from deshi.jobs.evidence.business import money
from deshi.jobs.evidence.figure import Figure, figure_of
from deshi.jobs.evidence.migration.replacement_schema import Replacement
from deshi.jobs.evidence.schema import Decision, ModelRow
from deshi.jobs.recipe import Recipe
from deshi.serve.statistics import mean_interval, non_inferior

PRICED = "cost_per_1000 x requests_per_month / 1,000 / 730 h, over all targets"
HOURS = "whole machines at peak_rps within the latency limit x price_per_hour, over all targets"


def replacement(
    recipe: Recipe,
    *,
    live: str,
    rows: dict[str, ModelRow],
    answers: dict[str, pa.Table],
    decision: Decision,
) -> Replacement:
    """Decides by the rows "chosen" and "live" of the comparison, and their answers to the test rows.

    Raises:
        ValueError: if the two did not answer the same rows.
    """
    mine, theirs = hits(answers["chosen"]), hits(answers["live"])
    if len(mine) != len(theirs):
        raise ValueError(f"the judged model answered {len(mine)} rows and {live} {len(theirs)}; judge both anew")
    confidence = recipe.kpi.quality.confidence
    drop = mean_interval(theirs - mine, confidence=confidence, seed=recipe.seed)
    cost, live_cost = hourly_cost(recipe, rows["chosen"]), hourly_cost(recipe, rows["live"])
    margin = recipe.margin or 0.0
    cheaper = cost.value is not None and (live_cost.value is None or cost.value < live_cost.value)
    if decision != "ACCEPT":
        reason = "not_accepted"
    elif non_inferior(drop.low, drop.high, margin) != "PASS":
        reason = "may_be_worse"
    elif cheaper:
        reason = "cheaper"
    elif drop.high < 0:
        reason = "better"
    else:
        reason = "no_gain"
    return Replacement(
        decision="replace" if reason in ("cheaper", "better") else "keep",
        reason=reason,
        live=live,
        digest=rows["live"].digest,
        drop=figure_of(drop, "share", "mean over test rows of the live hit less this one's, paired bootstrap"),
        hourly_cost=cost,
        live_hourly_cost=live_cost,
    )


def hits(answers: pa.Table) -> NDArray[np.float64]:
    """1 where a classifier is right, else 0; of a language model the share of a row's tokens that it and the teacher
    find likeliest."""
    if "same_top" in answers.column_names:
        return np.asarray(answers["same_top"].to_numpy(zero_copy_only=False), dtype=np.float64)
    right = pc.fill_null(pc.equal(answers["answer"], answers["label"]), False)
    return np.asarray(right.to_numpy(zero_copy_only=False), dtype=np.float64)


def hourly_cost(recipe: Recipe, row: ModelRow) -> Figure:
    """Money an hour for all machines that the peak needs; not known where a target keeps the limit at no rate.

    A model behind a URL is paid by the request: its price for each target's requests, spread over the month's hours.
    """
    if row.asked is not None:
        paid = [place.cost_per_1000.value for place in row.targets if place.cost_per_1000 is not None]
        whole = len(paid) == len(row.targets)
        hours = recipe.business.requests_per_month / 1000 / money.HOURS_PER_MONTH
        return Figure(
            value=sum(price or 0.0 for price in paid) * hours if whole else None,
            unit=recipe.business.currency,
            basis="computed" if whole else "not measured",
            how=PRICED,
        )
    prices = {target.name: target.price_per_hour for target in recipe.targets}
    rates = {place.target: place.throughput_rps for place in row.targets}
    known = {name: rate.value for name, rate in rates.items() if rate is not None and rate.value}
    if set(known) != set(prices):
        return Figure(value=None, unit=recipe.business.currency, basis="not measured", how=HOURS)
    value = sum(money.machines(recipe.business.peak_rps, known[name]) * price for name, price in prices.items())
    return Figure(value=value, unit=recipe.business.currency, basis="computed", how=HOURS)
