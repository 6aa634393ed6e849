"""The business case: for each target, what the chosen model costs and saves, when it pays, and what that rests on.

`cases` is a pure function of the recipe and the measured rows. `account.py` says what a month costs, `payback.py` what
the saving is worth and how the draws are made, `break_even.py` from which volume on it pays.

Two kinds of doubt are kept apart. What was **measured** (throughput, latency, cost of errors) is drawn `DRAWS` times
from its interval, with the recipe's seed, and gives each result its interval. What the recipe **states** is not drawn:
each number alone is moved by a fifth down and up (`SHIFT`), and the move of the net present value is listed, largest
first. A horizon moves by whole months, a share no further than 1; with the price of an error moves the measured cost of
errors, with the network's round trip the latencies that hold it.

What a satisfied customer is worth stays outside of all this: `BusinessCase.experience` needs what people said of the
answers, and is None until they were asked.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from deshi.jobs.business import Business
from deshi.jobs.evidence.business import payback
from deshi.jobs.evidence.business.account import (
    ERROR_COSTS,
    VENDOR,
    Numbers,
    account,
    break_even_requests,
    measured,
    stated,
    vendor_price,
    why_none,
)
from deshi.jobs.evidence.business.break_even import GROWTH
from deshi.jobs.evidence.business.business_schema import Assumption, BusinessCase, MoneyLine, OneOff, Sensitivity
from deshi.jobs.evidence.business.payback import DRAWS, Floats
from deshi.jobs.evidence.figure import Basis, Figure
from deshi.jobs.evidence.risk.risk_schema import Risk
from deshi.jobs.evidence.schema import ModelRow, TargetRow
from deshi.jobs.recipe import Recipe
from deshi.serve.kpi import Target

SHIFT = 0.2
BY_MACHINES = "x price_per_hour x 730 h"
HOW = {
    "inference.price": "today.price_per_1000 x requests_per_month / 1,000",
    "inference.hourly": f"ceil(peak_rps x 3,600 / today.requests_per_hour) {BY_MACHINES}",
    "inference.teacher": f"ceil(peak_rps / the teacher's rate in the limit) {BY_MACHINES}",
    "inference.new": f"ceil(peak_rps / rate in the limit) {BY_MACHINES}",
    "inference.vendor": "vendor.price_per_1000 x requests_per_month / 1,000",
    "operation.today": "only work that is added to today's is counted",
    "operation.new": "operation.hours_per_month x operation.hour_cost",
    "errors.today": "the teacher's cost of errors a request x requests_per_month",
    "errors.new": "this model's cost of errors a request x requests_per_month",
    "staff_waiting.today": "hours that staff wait for today's answers (median latency) x staff.hour_cost",
    "staff_waiting.new": "hours that staff wait for the new answers (median latency) x staff.hour_cost",
    "once.migration": "{hours} h x migration.hour_cost",
    "once.training": "training_cost of the recipe",
    "once.staff_training": "staff_training_hours x staff.hour_cost",
    "share": "(today's inference cost - the new one) / today's",
    "saving": "today minus new, summed over all monthly lines, of errors the difference on the same rows",
    "staff_hours": "people x hours_per_month x requests_per_hour x share_waiting x (median latency today - new)",
    "roi": "(horizon_months x monthly saving - money spent once) / money spent once, undiscounted",
    "roi.none": "the recipe states no money that is spent once",
    "npv": "monthly savings, discounted at (1 + discount_rate)^(1/12) a month, minus money spent once",
    "payback": "money spent once / monthly saving, undiscounted",
    "payback.never": "the savings do not add up to the money spent once within horizon_months",
    "break_even": "smallest volume from which every one up to the planned volume has NPV >= 0, in whole machines",
    "break_even.grow": "first volume above the planned one with NPV >= 0, in whole machines",
    "break_even.none": "no volume up to {times} times the planned one has NPV >= 0",
    "draws": "interval from {draws} draws of the measured figures",
}

# Which measured figures of the target a line is made of; where they are projected, so is the line.
RESTS_ON = {
    "inference.teacher": {"teacher.throughput_rps"},
    "inference.new": {"throughput_rps"},
    "staff_waiting.today": {"teacher.latency_p50_ms"},
    "staff_waiting.new": {"latency_p50_ms"},
}


def cases(recipe: Recipe, rows: Sequence[ModelRow], risk: Risk | None) -> tuple[BusinessCase, ...]:
    """One account a target, in the recipe's order; a target for which `account.why_none` has a reason is left out.

    Args:
        recipe: its `business`, targets, seed and confidence.
        rows: the compared models; the chosen one and, where it is compared, the teacher.
        risk: of the chosen model; its cost of errors makes the line `errors`.
    """
    found = []
    for target in recipe.targets:
        chosen, teacher = (_place(rows, role, target.name) for role in ("chosen", "teacher"))
        if chosen is not None and why_none(recipe.business, chosen, teacher) is None:
            figures = measured(recipe.business, chosen, teacher, risk)
            found.append(_case(recipe, target, figures, vendor_price(chosen)))
    return tuple(found)


def _place(rows: Sequence[ModelRow], role: str, target: str) -> TargetRow | None:
    places = [place for row in rows if row.role == role for place in row.targets if place.target == target]
    return places[0] if places else None


def _case(recipe: Recipe, target: Target, figures: Mapping[str, Figure], vendor: float | None) -> BusinessCase:
    business, confidence = recipe.business, recipe.kpi.quality.confidence
    assumed = stated(recipe, target, figures, vendor)
    fixed = {each.name: np.array([each.value]) for each in assumed}
    values: Numbers = fixed | {name: np.array([float(figure.value or 0.0)]) for name, figure in figures.items()}
    random = np.random.default_rng(recipe.seed)
    draws: Numbers = fixed | {
        name: payback.drawn(figure, confidence=confidence, random=random, log=name not in ERROR_COSTS)
        for name, figure in figures.items()
    }
    projected = {name for name, figure in figures.items() if figure.basis == "projected"}

    def told(value: Floats, drawn: Floats, unit: str, how: str, *, rests_on: set[str] | None = None) -> Figure:
        low, high = payback.ends(drawn, confidence)
        if (low, high) != (None, None):
            how += f"; {HOW['draws'].format(draws=f'{DRAWS:,}')}"
        known = float(value[0]) if math.isfinite(value[0]) else None
        doubtful = projected if rests_on is None else projected & rests_on
        basis: Basis = "projected" if doubtful else "computed"
        return Figure(value=known, unit=unit, low=low, high=high, basis=basis, how=how)

    def line(name: str, when: str, value: Floats, drawn: Floats) -> Figure:
        return told(
            value, drawn, business.currency, HOW[f"{name}.{when}"], rests_on=RESTS_ON.get(f"{name}.{when}", set())
        )

    at, drawn, money = account(values), account(draws), business.currency
    months = float(business.horizon_months)
    pays, even = payback.payback(at.saving, at.once, months=months), break_even_requests(values)
    hours = None
    if at.staff_hours is not None and drawn.staff_hours is not None:
        hours = told(at.staff_hours, drawn.staff_hours, "hours", HOW["staff_hours"])
    return BusinessCase(
        target=target.name,
        monthly=tuple(
            MoneyLine(
                name=name,
                today=line(name, _today(values, name), each.today, drawn.lines[name].today),
                new=line(name, _new(values, name), each.new, drawn.lines[name].new),
            )
            for name, each in at.lines.items()
        ),
        one_off=_one_off(business),
        inference_saving_share=told(at.inference_share, drawn.inference_share, "share", HOW["share"]),
        monthly_saving=told(at.saving, drawn.saving, money, HOW["saving"]),
        staff_hours=hours,
        roi=told(
            payback.roi(at.saving, at.once, months=months),
            payback.roi(drawn.saving, at.once, months=months),
            "share",
            HOW["roi" if at.once else "roi.none"],
        ),
        npv=told(_npv(values), _npv(draws), money, HOW["npv"]),
        payback_months=told(
            pays,
            payback.payback(drawn.saving, at.once, months=months),
            "months",
            HOW["payback" if math.isfinite(pays[0]) else "payback.never"],
        ),
        break_even_requests=told(even, break_even_requests(draws), "requests", _how_even(even, business)),
        sensitivities=_sensitivities(assumed, values),
        assumptions=(*assumed, *(_assumption(name, figure) for name, figure in figures.items())),
    )


def _sensitivities(assumed: Sequence[Assumption], values: Numbers) -> tuple[Sensitivity, ...]:
    """What each stated number, moved alone, does to the net present value; largest swing first."""
    found = []
    for each in assumed:
        if each.value == 0:  # a fifth of nothing moves nothing
            continue
        (low, at_low), (high, at_high) = (_moved(values, each, 1 + by) for by in (-SHIFT, SHIFT))
        found.append(Sensitivity(name=each.name, low=low, high=high, npv_low=at_low, npv_high=at_high))
    return tuple(sorted(found, key=lambda each: -abs(each.npv_high - each.npv_low)))


def _moved(values: Numbers, each: Assumption, factor: float) -> tuple[float, float]:
    """The moved number and the net present value with it."""
    number = each.value * factor
    if each.name == "horizon_months":
        number = max(1.0, float(round(number)))
    if each.name == "staff.share_waiting":
        number = min(1.0, number)
    x = {**values, each.name: np.array([number])}
    if each.name in ("error_cost", "error_cost_matrix"):
        x |= {name: x[name] * number / each.value for name in ERROR_COSTS}
    if each.name == "target.rtt_ms":
        held = {"teacher.latency_p50_ms"} if VENDOR in values else {"latency_p50_ms", "teacher.latency_p50_ms"}
        felt = held & values.keys()
        x |= {name: x[name] + number - each.value for name in felt}
    return number, float(_npv(x)[0])


def _npv(x: Numbers) -> Floats:
    told, (rate,), (months,) = account(x), x["discount_rate"], x["horizon_months"]
    return payback.npv(told.saving, told.once, discount_rate=float(rate), months=float(months))


def _today(values: Numbers, line: str) -> str:
    """Which formula gives the line's cost today: a key of HOW after the line's name."""
    if line != "inference":
        return "today"
    if "today.price_per_1000" in values:
        return "price"
    return "hourly" if "today.price_per_hour" in values else "teacher"


def _new(values: Numbers, line: str) -> str:
    """The same for the new cost."""
    return "vendor" if line == "inference" and VENDOR in values else "new"


def _one_off(business: Business) -> tuple[OneOff, ...]:
    """Money spent once that the recipe states, each with its own line."""
    staff = 0.0 if business.staff is None else business.staff.hour_cost
    rows = [
        (step, hours * business.migration.hour_cost, HOW["once.migration"].format(hours=f"{hours:g}"))
        for step, hours in business.migration.hours.items()
    ]
    if "training_cost" in business.model_fields_set:
        rows.append(("training", business.training_cost, HOW["once.training"]))
    if business.staff_training_hours:
        rows.append(("staff_training", business.staff_training_hours * staff, HOW["once.staff_training"]))
    return tuple(
        OneOff(name=name, figure=Figure(value=money, unit=business.currency, basis="computed", how=how))
        for name, money, how in rows
    )


def _how_even(found: Floats, business: Business) -> str:
    if not math.isfinite(found[0]):
        return HOW["break_even.none"].format(times=GROWTH)
    return HOW["break_even" if found[0] <= business.requests_per_month else "break_even.grow"]


def _assumption(name: str, figure: Figure) -> Assumption:
    return Assumption(
        name=name,
        value=float(figure.value or 0.0),
        unit=figure.unit,
        source="projected" if figure.basis == "projected" else "measured",
    )
