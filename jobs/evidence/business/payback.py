"""What a saving of every month is worth against money spent once, and how sure that is.

All money is in one currency. The saving S comes at the end of each of H months and is the same in all of them; the
money spent once, C, is paid before the first. The discount rate r is a year's, (1 + r)^(1/12) - 1 a month:

    NPV     = S x (1 - d^H) d / (1 - d) - C,  d = (1 + r)^(-1/12)     (H x S - C where r = 0)
    ROI     = (H x S - C) / C                                          undiscounted
    payback = C / S months where that is at most H, else never         undiscounted

**Uncertainty.** A measured figure becomes many draws of a two-piece normal (a split normal): its median is the value,
and the ends of its interval are its quantiles at the recipe's confidence, so that lopsided intervals stay lopsided. A
rate or a time, which is above 0, is drawn so on the log scale. An end that could not be had is as far off as the other
one; a figure without an interval does not vary. Figures are drawn independently of each other. What comes of the draws
has the interval of their quantiles.

Arrays are of shape [draws], or [1] for the account at the measured values themselves.
"""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from deshi.jobs.evidence.figure import Figure

Floats = NDArray[np.float64]

DRAWS = 10_000


def annuity(discount_rate: float, months: float) -> float:
    """What 1 at the end of each month is worth before the first, at a rate a year."""
    monthly = (1 + discount_rate) ** (1 / 12) - 1
    return float(months) if monthly == 0 else (1 - (1 + monthly) ** -months) / monthly


def npv(saving: Floats, once: float, *, discount_rate: float, months: float) -> Floats:
    """Net present value of a monthly saving against money spent once."""
    return saving * annuity(discount_rate, months) - once


def roi(saving: Floats, once: float, *, months: float) -> Floats:
    """Net gain over the horizon as a share of the money spent once; NaN where nothing is spent."""
    return (months * saving - once) / once if once else np.full_like(saving, np.nan)


def payback(saving: Floats, once: float, *, months: float) -> Floats:
    """Months until the savings have added up to the money spent once; infinite where not within the horizon."""
    with np.errstate(divide="ignore"):
        needed = np.where(saving > 0, once / np.where(saving > 0, saving, 1.0), np.inf)
    return np.where(needed <= months, needed, np.inf)


def drawn(figure: Figure, *, confidence: float, random: np.random.Generator, log: bool) -> Floats:
    """`DRAWS` values that a measured figure may stand for; see the module's first lines.

    Args:
        figure: with a value.
        confidence: of its interval.
        random: the draws that follow each other are independent.
        log: whether on the log scale, as a rate or a time is.
    """
    value = figure.value
    if value is None:
        raise ValueError("a figure without a value cannot be drawn; leave its line out of the account")
    # Drawn even where it is not needed, so that a figure more does not change the draws of those before it.
    normal = random.standard_normal(DRAWS)
    scale = math.log if log else float
    ends = [end if end is not None and (not log or end > 0) else None for end in (figure.low, figure.high)]
    spreads = [None if end is None else max(0.0, sign * (scale(end) - scale(value)))
               for sign, end in zip((-1, 1), ends, strict=True)]  # fmt: skip
    given = [spread for spread in spreads if spread is not None]
    if not given or not any(given):
        return np.full(DRAWS, float(value))
    below, above = (given[0] if spread is None else spread for spread in spreads)
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    moved = scale(value) + normal * np.where(normal < 0, below, above) / z
    return np.exp(moved) if log else moved


def ends(draws: Floats, confidence: float) -> tuple[float | None, float | None]:
    """The interval of drawn results; an infinite end is None, and so are both where nothing varies."""
    if draws.min() == draws.max() or np.isnan(draws).any():
        return None, None
    # A quantile that is one of the draws: between a number and infinity there is no middle.
    low, high = np.quantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2], method="inverted_cdf")
    return _finite(low), _finite(high)


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
