"""A number of the evidence: value, unit, interval, and how it came about."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field

from deshi.serve.kpi import Frozen
from deshi.serve.statistics import Interval

Basis = Literal["measured", "projected", "computed", "not measured"]


class Figure(Frozen):
    """A number with what it is worth."""

    value: float | None
    unit: str
    n: int | None = Field(None, description="observations behind the value")
    low: float | None = Field(None, description="lower end of the interval at the recipe's confidence")
    high: float | None = None
    basis: Basis = "measured"
    how: str = Field("", description="one line: the command, function or formula that gave it")


def figure_of(interval: Interval, unit: str, how: str) -> Figure:
    """A measured figure; an end that could not be had is left out."""
    ends = [end if math.isfinite(end) else None for end in (interval.low, interval.high)]
    return Figure(value=interval.value, unit=unit, n=interval.n, low=ends[0], high=ends[1], how=how)
