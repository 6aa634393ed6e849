"""One target's account: a month today and a month with the chosen model, as a function of named numbers.

Every number has the name of its key in the recipe's `business` (`today.price_per_1000`), or `target.` and a key of the
target, or what was measured (`throughput_rps`, requests a second within the latency limit; `latency_p50_ms`, as felt;
`error_cost_per_1000`; with `teacher.` before it, the teacher's on the same target). Money is in the recipe's currency.

    inference today  price_per_1000 x requests / 1,000, or machines(3,600 x peak, requests_per_hour) x price_per_hour x
                     730 h, or as below with the teacher's throughput
    inference new    machines(peak, throughput) x target.price_per_hour x 730 h      whole machines: money.machines
                     or, of a model behind a URL, vendor.price_per_1000 x requests / 1,000
    operation        new: hours_per_month x hour_cost; today: 0, for only added work is counted
    errors           error_cost_per_1000 x requests / 1,000, the teacher's standing for today's; what is saved is the
                     difference on the same rows, which is surer than the two apart
    staff waiting    people x hours_per_month x requests_per_hour x share_waiting x latency / 3.6e6 hours, x hour_cost;
                     today's latency is today.latency_ms or the teacher's p50

A line whose numbers the recipe or the measurement does not give is not there: nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from pydantic import BaseModel

from deshi.jobs.business import Business
from deshi.jobs.evidence.business.break_even import GROWTH, Fleet, break_even
from deshi.jobs.evidence.business.business_schema import Assumption
from deshi.jobs.evidence.business.money import HOURS_PER_MONTH, whole_machines
from deshi.jobs.evidence.business.payback import Floats, annuity
from deshi.jobs.evidence.figure import Figure
from deshi.jobs.evidence.risk.risk_schema import Risk
from deshi.jobs.evidence.schema import TargetRow
from deshi.jobs.recipe import Recipe
from deshi.serve.kpi import Target

Numbers = Mapping[str, Floats]  # name -> shape [draws] or [1]
VENDOR = "vendor.price_per_1000"
ERROR_COSTS = ("error_cost_per_1000", "teacher.error_cost_per_1000", "error_cost_difference_per_1000")


@dataclass(frozen=True, kw_only=True)
class Line:
    """Money a month today and new, and what that saves."""

    today: Floats
    new: Floats
    saved: Floats


@dataclass(frozen=True, kw_only=True)
class Account:
    """A month, line by line, and the money spent once; arrays of shape [draws] or [1].

    Attributes:
        lines: inference, and those of operation, errors and staff_waiting that there are numbers for.
        staff_hours: hours a month that staff wait less, or None.
        once: money spent before the first month.
    """

    lines: dict[str, Line]
    staff_hours: Floats | None
    once: float

    @property
    def saving(self) -> Floats:
        """Money a month, over all lines."""
        return np.sum(np.broadcast_arrays(*(line.saved for line in self.lines.values())), axis=0)

    @property
    def inference_share(self) -> Floats:
        """What inference costs less, as a share of today's; NaN where today's costs nothing."""
        line = self.lines["inference"]
        return np.where(line.today > 0, line.saved / np.where(line.today > 0, line.today, 1.0), np.nan)


def why_none(business: Business, chosen: TargetRow | None, teacher: TargetRow | None) -> str | None:
    """The text that says why a target has no account, or None where it has one."""
    if chosen is None or (not _value(chosen.throughput_rps) and vendor_price(chosen) is None):
        return "money.none.no_rate"
    priced = (
        business.today is not None and (business.today.price_per_1000, business.today.price_per_hour) != (None,) * 2
    )
    if not priced and (teacher is None or not _value(teacher.throughput_rps)):
        return "money.none.no_today"
    return None


def vendor_price(place: TargetRow) -> float | None:
    """Money for 1,000 requests where they are paid one by one: a price that no rate of requests stands behind."""
    return None if place.throughput_rps is not None else _value(place.cost_per_1000)


def measured(business: Business, chosen: TargetRow, teacher: TargetRow | None, risk: Risk | None) -> dict[str, Figure]:
    """The measured figures that the account of this target rests on, those with a value."""
    today = business.today
    found = {"throughput_rps": chosen.throughput_rps}
    if today is None or (today.price_per_1000 is None and today.price_per_hour is None):
        found["teacher.throughput_rps"] = None if teacher is None else teacher.throughput_rps
    if business.staff is not None:
        felt = {"latency_p50_ms": _p50(chosen)}
        if today is None or today.latency_ms is None:
            felt["teacher.latency_p50_ms"] = _p50(teacher)
        if all(_value(figure) for figure in felt.values()):
            found |= felt
    if risk is not None and business.error_cost is not None:
        told = (risk.error_cost_per_1000, risk.teacher_error_cost_per_1000, risk.error_cost_difference_per_1000)
        if all(figure is not None and figure.value is not None for figure in told):
            found |= dict(zip(ERROR_COSTS, told, strict=True))
    return {name: figure for name, figure in found.items() if figure is not None and figure.value is not None}


def stated(
    recipe: Recipe, target: Target, measured: Mapping[str, Figure], vendor: float | None = None
) -> tuple[Assumption, ...]:
    """What the recipe states, or leaves at its default, that this account uses; `vendor` is a vendor's price."""
    business, found = recipe.business, []
    own = vendor is None or "teacher.throughput_rps" in measured  # machines of the target

    def use(name: str, value: float | None, unit: str) -> None:
        if value is not None:
            found.append(Assumption(name=name, value=value, unit=unit, source=_source(recipe, target, name)))

    money, today, staff = business.currency, business.today, business.staff
    use("requests_per_month", business.requests_per_month, "requests")
    if own or (today is not None and today.price_per_hour is not None):
        use("peak_rps", business.peak_rps, "rps")
    if own:
        use("target.price_per_hour", target.price_per_hour, money)
    if vendor is not None:
        found.append(Assumption(name=VENDOR, value=vendor, unit=money, source="command"))
    if today is not None:
        use("today.price_per_1000", today.price_per_1000, money)
        use("today.price_per_hour", today.price_per_hour, money)
        use("today.requests_per_hour", today.requests_per_hour, "requests")
    if "operation" in business.model_fields_set:
        use("operation.hours_per_month", business.operation.hours_per_month, "hours")
        use("operation.hour_cost", business.operation.hour_cost, money)
    waits = staff is not None and "latency_p50_ms" in measured
    if staff is not None and waits:
        use("staff.people", staff.people, "people")
        use("staff.hours_per_month", staff.hours_per_month, "hours")
        use("staff.requests_per_hour", staff.requests_per_hour, "requests")
        use("staff.share_waiting", staff.share_waiting, "share")
        use("today.latency_ms", None if today is None else today.latency_ms, "ms")
        use("target.rtt_ms", target.rtt_ms, "ms")
    if staff is not None and (waits or business.staff_training_hours):
        use("staff.hour_cost", staff.hour_cost, money)
    if ERROR_COSTS[0] in measured:
        if isinstance(business.error_cost, dict):
            use("error_cost_matrix", 1.0, "x")  # all of its prices together
        else:
            use("error_cost", business.error_cost, money)
    if business.migration.hours:
        use("migration.hours", sum(business.migration.hours.values()), "hours")
        use("migration.hour_cost", business.migration.hour_cost, money)
    if "training_cost" in business.model_fields_set:
        use("training_cost", business.training_cost, money)
    if business.staff_training_hours:
        use("staff_training_hours", business.staff_training_hours, "hours")
    use("horizon_months", business.horizon_months, "months")
    use("discount_rate", business.discount_rate, "share")
    return tuple(found)


def account(x: Numbers) -> Account:
    """The account that the numbers give."""
    before, after = _inference_today(x), _inference_new(x)
    lines = {"inference": Line(today=before, new=after, saved=before - after)}
    if "operation.hours_per_month" in x:
        added = x["operation.hours_per_month"] * x["operation.hour_cost"]
        lines["operation"] = Line(today=np.zeros_like(added), new=added, saved=-added)
    if ERROR_COSTS[0] in x:
        new, today, more = (x[name] * x["requests_per_month"] / 1000 for name in ERROR_COSTS)
        lines["errors"] = Line(today=today, new=new, saved=-more)
    hours = None
    if "staff.people" in x:
        asked = x["staff.people"] * x["staff.hours_per_month"] * x["staff.requests_per_hour"]
        felt = (x["today.latency_ms" if "today.latency_ms" in x else "teacher.latency_p50_ms"], x["latency_p50_ms"])
        today, new = (asked * x["staff.share_waiting"] * ms / 3_600_000 for ms in felt)
        hours, cost = today - new, x["staff.hour_cost"]
        lines["staff_waiting"] = Line(today=today * cost, new=new * cost, saved=hours * cost)
    return Account(lines=lines, staff_hours=hours, once=spent_once(x))


def spent_once(x: Numbers) -> float:
    """Migration hours at their cost, training of the model, training of staff."""
    zero = np.zeros(1)
    money = x.get("migration.hours", zero) * x.get("migration.hour_cost", zero) + x.get("training_cost", zero)
    return float((money + x.get("staff_training_hours", zero) * x.get("staff.hour_cost", zero))[0])


def break_even_requests(x: Numbers) -> Floats:
    """Requests a month from which NPV over the horizon is at least 0; the peak moves in proportion to them."""
    told, planned = account(x), x["requests_per_month"]
    share = annuity(float(x["discount_rate"][0]), float(x["horizon_months"][0]))
    per_request, fixed = np.zeros(1), np.full(1, -told.once / share)
    for name, line in told.lines.items():
        if name == "errors":
            per_request = per_request + line.saved / planned
        elif name != "inference":
            fixed = fixed + line.saved
    fleet = None
    if "today.price_per_1000" in x:
        per_request = per_request + x["today.price_per_1000"] / 1000
    elif "today.price_per_hour" in x:
        fleet = _fleet(x, x["today.requests_per_hour"] / 3600, x["today.price_per_hour"])
    else:
        fleet = _fleet(x, x["teacher.throughput_rps"], x["target.price_per_hour"])
    if VENDOR in x:
        per_request = per_request - x[VENDOR] / 1000
        new_fleet = Fleet(carries=np.maximum(planned, 1.0) * GROWTH, price=0.0)
    else:
        new_fleet = _fleet(x, x["throughput_rps"], x["target.price_per_hour"])
    return break_even(per_request=per_request, fixed=fixed, today=fleet, new=new_fleet, planned=float(planned[0]))


def _fleet(x: Numbers, rps_of_one: Floats, price_per_hour: Floats) -> Fleet:
    carries = rps_of_one * x["requests_per_month"] / x["peak_rps"]
    return Fleet(carries=carries, price=float(price_per_hour[0]) * HOURS_PER_MONTH)


def _inference_today(x: Numbers) -> Floats:
    if "today.price_per_1000" in x:
        return x["today.price_per_1000"] * x["requests_per_month"] / 1000
    if "today.price_per_hour" in x:
        machines = whole_machines(x["peak_rps"] * 3600, x["today.requests_per_hour"])
        return machines * x["today.price_per_hour"] * HOURS_PER_MONTH
    return whole_machines(x["peak_rps"], x["teacher.throughput_rps"]) * x["target.price_per_hour"] * HOURS_PER_MONTH


def _inference_new(x: Numbers) -> Floats:
    if VENDOR in x:
        return x[VENDOR] * x["requests_per_month"] / 1000
    return whole_machines(x["peak_rps"], x["throughput_rps"]) * x["target.price_per_hour"] * HOURS_PER_MONTH


def _p50(place: TargetRow | None) -> Figure | None:
    return None if place is None or place.latency is None else place.latency.p50


def _value(figure: Figure | None) -> float | None:
    return None if figure is None else figure.value


def _source(recipe: Recipe, target: Target, name: str) -> Literal["recipe", "default"]:
    """Whether the user wrote the key: pydantic keeps what was given."""
    part: object = target if name.startswith("target.") else recipe
    path = name.removeprefix("target.") if part is target else f"business.{name.removesuffix('_matrix')}"
    for key in path.split("."):
        if isinstance(part, BaseModel) and key not in part.model_fields_set:
            return "default"
        part = getattr(part, key)
    return "recipe"
