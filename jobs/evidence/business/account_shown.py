"""One target's account in words: what it saves, when it pays, how far the volume may move, and what it leaves out."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from deshi.jobs.evidence.business.break_even import GROWTH
from deshi.jobs.evidence.business.business_schema import BusinessCase, Sensitivity
from deshi.jobs.evidence.business.business_words import break_even_key, payback_key, saving_key, without
from deshi.jobs.evidence.figure import Figure
from deshi.jobs.evidence.numbers import style_of
from deshi.jobs.evidence.page.shown import Shown
from deshi.serve.texts import named

MATTER_MOST = 3
RESULTS = ("inference_saving_share", "monthly_saving", "staff_hours", "roi", "npv", "payback_months",
           "break_even_requests", "experience")  # fmt: skip


def results(case: BusinessCase, s: Shown) -> list[tuple[str, Markup]]:
    """What the account comes to, by name; a figure without a value says why elsewhere, in `says`."""
    figures = [(name, getattr(case, name)) for name in RESULTS]
    missing = {"payback_months": "account.never"}
    return [
        (
            named("account", name, s.lang),
            s.say(missing.get(name, "account.none")) if figure.value is None else s.cell(figure, style_of(figure.unit)),
        )
        for name, figure in figures
        if figure is not None
    ]


def says(case: BusinessCase, s: Shown) -> list[Markup]:
    """The account in sentences."""
    left_out = without(case)
    found = [
        sentence(saving_key(case), case.inference_saving_share, case, s),
        sentence(payback_key(case), case.payback_months, case, s),
        sentence(break_even_key(case), case.break_even_requests, case, s),
    ]
    if left_out:
        found.append(s.say("money.says.without", names=s.join([s.say(key) for key in left_out])))
    return found


def sentence(key: str, figure: Figure, case: BusinessCase, s: Shown) -> Markup:
    """One of `money.says.`, its numbers linked to where they stand."""
    unit = style_of(figure.unit)
    return s.say(
        key,
        target=s.quote(case.target, case, "target"),
        value=s.number(figure, "value", style=unit),
        low=s.number(figure, "low", style=unit, unit=figure.high is None),
        high=s.number(figure, "high", style=unit),
        horizon=_assumed(case, "horizon_months", s),
        planned=_assumed(case, "requests_per_month", s),
        times=s.quote(str(GROWTH), case.break_even_requests, "how"),
    )


def matter_most(case: BusinessCase) -> Sequence[Sensitivity]:
    """The assumptions with the largest swing."""
    return case.sensitivities[:MATTER_MOST]


def unit_of(case: BusinessCase, name: str) -> str:
    """The unit of an assumption that a sensitivity moves."""
    return next((each.unit for each in case.assumptions if each.name == name), "")


def _assumed(case: BusinessCase, name: str, s: Shown) -> Markup:
    each = next((each for each in case.assumptions if each.name == name), None)
    return Markup("–") if each is None else s.number(each, "value", style=style_of(each.unit))
