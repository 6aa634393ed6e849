"""The business case as rows of the evidence: what a target costs today and tomorrow, and when the change pays.

Money is in the recipe's `business.currency`. Every figure that the load, the latency or the errors decide has an
interval from the measured distributions; what the recipe states is an `Assumption` and is varied in `Sensitivity`.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from deshi.jobs.evidence.figure import Figure
from deshi.serve.kpi import Frozen


class Assumption(Frozen):
    """A number that the result rests on, and where it comes from."""

    name: str = Field(description="a text `assumption.<name>`: a key of the recipe such as today.price_per_1000")
    value: float
    unit: str
    source: Literal["recipe", "default", "command", "measured", "projected"]


class MoneyLine(Frozen):
    """One line of the monthly account; a saving is today minus new."""

    name: str = Field(description="a text `money.<name>`: inference, operation, errors, staff_waiting, cascade")
    today: Figure
    new: Figure


class OneOff(Frozen):
    """Money spent once, before the first month."""

    name: str = Field(description="a text `one_off.<name>` or a step of the recipe's migration.hours")
    figure: Figure


class Sensitivity(Frozen):
    """What one assumption, moved alone by a fifth down and up, does to the net present value."""

    name: str
    low: float
    high: float
    npv_low: float
    npv_high: float


class BusinessCase(Frozen):
    """One target's account. `None` where the recipe gives no number for it."""

    target: str
    monthly: tuple[MoneyLine, ...]
    one_off: tuple[OneOff, ...]
    inference_saving_share: Figure = Field(description="of today's inference cost, unit share; negative costs more")
    monthly_saving: Figure
    staff_hours: Figure | None = Field(None, description="hours a month that staff wait less")
    roi: Figure = Field(description="net gain over the horizon, undiscounted, over all money spent once; unit share")
    npv: Figure
    payback_months: Figure = Field(description="value None where it never pays within the horizon")
    break_even_requests: Figure = Field(description="requests a month from which the change pays within the horizon")
    experience: Figure | None = Field(None, description="money a month, outside of all the above")
    sensitivities: tuple[Sensitivity, ...] = Field((), description="largest swing first")
    assumptions: tuple[Assumption, ...] = ()
