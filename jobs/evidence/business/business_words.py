"""Which sentence an account supports: keys of serve/words/business.py, for the page and the terminal.

The sentences take `target`, `value`, `low`, `high`, `horizon`, `planned` and `times`, numbers with their units; a value
that a sentence does not use is ignored.
"""

from __future__ import annotations

from deshi.jobs.evidence.business.break_even import GROWTH
from deshi.jobs.evidence.business.business_schema import BusinessCase
from deshi.jobs.evidence.figure import Figure
from deshi.jobs.evidence.numbers import style_of, written
from deshi.serve.texts import Language, text

LINES = ("operation", "errors", "staff_waiting")


def saving_key(case: BusinessCase) -> str:
    """What becomes of the cost of inference."""
    share = case.inference_saving_share
    if share.value is None:
        return "money.says.free"
    if share.value < 0:
        return "money.says.costs_more"
    if share.value == 0:
        return "money.says.same"
    return "money.says.saves" if share.low is None else "money.says.saves.interval"


def payback_key(case: BusinessCase) -> str:
    """When the money spent once is back, or that it is not."""
    pays, saving = case.payback_months, case.monthly_saving.value or 0.0
    if pays.value is None:
        if pays.low is not None:
            return "money.says.payback.never_but"
        return "money.says.payback.never" if saving > 0 else "money.says.loses"
    if not any(once.figure.value for once in case.one_off):
        return "money.says.payback.none_spent"
    if pays.low is None:
        return "money.says.payback"
    return "money.says.payback.interval" if pays.high is not None else "money.says.payback.may_never"


def break_even_key(case: BusinessCase) -> str:
    """How far the requests may fall, or how far they have to grow."""
    needed = case.break_even_requests.value
    if needed is None:
        return "money.says.break_even.none"
    return "money.says.break_even" if needed <= assumed(case, "requests_per_month") else "money.says.break_even.grow"


def without(case: BusinessCase) -> tuple[str, ...]:
    """What the account leaves out for want of numbers: keys of the lines and of the money spent once."""
    there = {line.name for line in case.monthly}
    lines = tuple(f"money.{name}" for name in LINES if name not in there)
    return lines if any(once.figure.value for once in case.one_off) else (*lines, "money.once")


def assumed(case: BusinessCase, name: str) -> float:
    """The value of an assumption that every account has."""
    return next(each.value for each in case.assumptions if each.name == name)


def sentences(case: BusinessCase, lang: Language) -> tuple[str, str, str]:
    """Saving, payback and break-even in plain words."""
    common = {
        "target": case.target,
        "horizon": written(assumed(case, "horizon_months"), style_of("months"), lang),
        "planned": written(assumed(case, "requests_per_month"), style_of("requests"), lang),
        "times": GROWTH,
    }

    def say(key: str, figure: Figure) -> str:
        ends = {
            name: written(getattr(figure, name), style_of(figure.unit), lang, unit=name != "low" or figure.high is None)
            for name in ("value", "low", "high")
        }
        return text(key, lang, **ends, **common)

    return (
        say(saving_key(case), case.inference_saving_share),
        say(payback_key(case), case.payback_months),
        say(break_even_key(case), case.break_even_requests),
    )
