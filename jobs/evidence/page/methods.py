"""How each figure was measured: all figures of the evidence, gathered by what they measure and how they came about."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from markupsafe import Markup

from deshi.jobs.evidence.business.business_schema import BusinessCase
from deshi.jobs.evidence.figure import Figure
from deshi.jobs.evidence.page.shown import Shown
from deshi.jobs.evidence.page.tables import PLACE, STYLES, kpi_name, place_figure, quantity_name
from deshi.jobs.evidence.people.review_schema import Opinion, Review
from deshi.jobs.evidence.risk.risk_schema import Risk
from deshi.jobs.evidence.schema import Evidence
from deshi.serve.texts import named

Named = Iterator[tuple[str, Figure]]


def methods(s: Shown) -> list[dict[str, Any]]:
    """What was measured, how, on which basis, over how many observations, and how many figures came so."""
    found: dict[tuple[str, str, str], list[tuple[str, Figure]]] = {}
    for name, figure in every_figure(s):
        words = name.striptags() if isinstance(name, Markup) else name
        found.setdefault((words, figure.how, figure.basis), []).append((name, figure))
    rows = []
    for (_, _, basis), named_figures in found.items():
        figures = [figure for _, figure in named_figures]
        first = {"quantity": named_figures[0][0], "first": figures[0], "basis": basis}
        rows.append(first | {"n": _span(figures, s), "count": s.size(figures)})
    return rows


def every_figure(s: Shown) -> Named:
    """All figures of the evidence, each with what it measures."""
    e = s.evidence
    yield from _of_models(e, s)
    for order in e.orders:
        for quantity, figure in (("order_score", order.score), ("order_agreement", order.agreement)):
            if figure is not None:
                yield quantity_name(e, quantity, s.lang), figure
    for case in e.business:
        yield from _of_account(case, s)
    if e.risk is not None:
        yield from _of_risk(e.risk, s)
    if s.review is not None:
        yield from _of_people(s.review, s)
    for kpi in e.kpis:
        yield s.say("quantity.kpi", name=kpi_name(kpi, s)), kpi.figure


def _of_models(e: Evidence, s: Shown) -> Named:
    for model in e.models:
        for quantity in STYLES:
            if (figure := getattr(model.quality, quantity)) is not None:
                yield quantity_name(e, quantity, s.lang), figure
        for quantity, figure in model.quality.measures.items():
            yield quantity_name(e, quantity, s.lang), figure
        for row in model.quality.slices:
            yield quantity_name(e, "slice_score", s.lang), row.score
            yield quantity_name(e, "slice_drop", s.lang), row.drop
        for place in model.targets:
            for quantity in PLACE:
                if (figure := place_figure(place, quantity)) is not None:
                    yield quantity_name(e, quantity, s.lang), figure
            for timing in place.tried:
                yield quantity_name(e, "tried_ms", s.lang), timing.ms
                yield quantity_name(e, "tried_ratio", s.lang), timing.ratio


def _of_account(case: BusinessCase, s: Shown) -> Named:
    for line in case.monthly:
        yield from ((named("money", line.name, s.lang), figure) for figure in (line.today, line.new))
    for once in case.one_off:
        yield s.quote(named("one_off", once.name, s.lang), once, "name"), once.figure
    for name in BusinessCase.model_fields:
        if isinstance(figure := getattr(case, name), Figure):
            yield named("account", name, s.lang), figure


def risk_figures(risk: Risk, s: Shown) -> Named:
    """What was measured of the risk beside the ledger."""
    for part, prefix in ((risk, "risk"), (risk.explanations, "risk.explanations")):
        for name in () if part is None else type(part).model_fields:
            if isinstance(figure := getattr(part, name), Figure):
                yield named(prefix, name, s.lang), figure


def _of_risk(risk: Risk, s: Shown) -> Named:
    yield from risk_figures(risk, s)
    for row in risk.ledger:
        for name in ("figure", "effect"):
            if (figure := getattr(row, name)) is not None:
                yield named("ledger", name, s.lang), figure


def _of_people(review: Review, s: Shown) -> Named:
    for name in Opinion.model_fields:
        for opinion in (review.student, review.teacher, review.difference):
            yield s.say(f"people.{name}"), getattr(opinion, name)
    for name in ("preference", "agreement", "experience"):
        if (figure := getattr(review, name)) is not None:
            yield s.say(f"people.{name}"), figure


def _span(figures: Sequence[Figure], s: Shown) -> Markup:
    counted = sorted((figure for figure in figures if figure.n is not None), key=lambda figure: figure.n or 0)
    if not counted:
        return Markup("–")
    if counted[0].n == counted[-1].n:
        return s.n(counted[0])
    return Markup("{}–{}").format(s.n(counted[0]), s.n(counted[-1]))
