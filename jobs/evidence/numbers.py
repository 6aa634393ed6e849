"""How a number of the evidence is written down: scale, digits and unit by kind of quantity, in a language.

A score of 0.842 reads 84.2%, a drop of 0.016 reads 1.6 points; times, sizes and money keep three significant digits.
The report and the figures write every number through `written`, so that a table and a picture never differ.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import MappingProxyType

from deshi.jobs.evidence.figure import Figure
from deshi.serve.texts import TEXTS, Language, text

MINUS, SPACE = "\N{MINUS SIGN}", "\N{NO-BREAK SPACE}"


@dataclass(frozen=True, kw_only=True)
class Style:
    """Multiply, round, add a suffix. `decimals` None means three significant digits."""

    scale: float = 1.0
    decimals: int | None = None
    suffix: str = ""
    spaced: bool = True


PERCENT = Style(scale=100, decimals=1, suffix="%", spaced=False)
FINE_PERCENT = Style(scale=100, decimals=2, suffix="%", spaced=False)
POINTS = Style(scale=100, decimals=1, suffix="unit.points")
PLAIN = Style()
UNITS = MappingProxyType(
    {
        "share": PERCENT,
        "fraction": PERCENT,
        "score": PERCENT,
        "accuracy": PERCENT,
        "points": POINTS,
        "drop": POINTS,
        "ms": Style(suffix="ms"),
        "s": Style(suffix="unit.s"),
        "MB": Style(suffix="MB"),
        "1/s": Style(suffix="unit.rps"),
        "rps": Style(suffix="unit.rps"),
        "requests/s": Style(suffix="unit.rps"),
        "nats": Style(decimals=3, suffix="nats"),
        "machines": Style(decimals=0),
        "months": Style(suffix="unit.months"),
        "hours": Style(suffix="unit.hours"),
        "requests": Style(decimals=0, suffix="unit.requests"),
        "people": Style(decimals=0, suffix="unit.people"),
        "correlation": Style(decimals=2, suffix="unit.correlation"),
        "targets": Style(decimals=0, suffix="unit.targets"),
        "perplexity": PLAIN,
        "tokens/s": Style(suffix="unit.tokens_per_second"),
        "ratio": Style(decimals=3, suffix="unit.times", spaced=False),
        "x": Style(decimals=3, suffix="unit.times", spaced=False),
        "": PLAIN,
    }
)


def style_of(unit: str) -> Style:
    """The style of a unit; an unknown unit is written as it stands."""
    return UNITS.get(unit) or Style(suffix=unit)


def digits(value: float, decimals: int | None = None) -> str:
    """A number alone: `decimals` places, or three significant digits without an exponent; -0 is 0."""
    if not math.isfinite(value):
        return "∞" if value > 0 else f"{MINUS}∞" if value < 0 else "?"
    if decimals is None:
        decimals = 2 if value == 0 else min(6, max(0, 2 - math.floor(math.log10(abs(value)))))
        if value == round(value):
            decimals = 0
    if (rounded := round(value, decimals)) == 0:
        rounded = 0.0
    return f"{rounded:,.{decimals}f}".replace("-", MINUS)


def written(value: float | None, style: Style, lang: Language, *, unit: bool = True) -> str:
    """`84.2%`, `1.6 pt`, `14.7 MB`; the words for "not measured" where there is no value."""
    if value is None:
        return text("basis.not measured", lang)
    number = digits(value * style.scale, style.decimals)
    if not unit or not style.suffix:
        return number
    suffix = text(style.suffix, lang) if style.suffix in TEXTS else style.suffix
    return f"{number}{SPACE if style.spaced else ''}{suffix}"


def interval(figure: Figure, style: Style, lang: Language) -> str:
    """`0.4 to 2.8`, without the unit; an end that could not be had is infinite; empty where there is no interval."""
    if figure.low is None and figure.high is None:
        return ""
    low = -math.inf if figure.low is None else figure.low
    high = math.inf if figure.high is None else figure.high
    ends = {name: written(end, style, lang, unit=False) for name, end in (("low", low), ("high", high))}
    return text("number.interval", lang, **ends)
