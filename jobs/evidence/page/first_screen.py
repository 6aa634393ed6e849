"""The first screen: what a manager asks, each answered by one sentence and one figure of the evidence.

What inference costs less, what the loss of quality does to the business, which places were measured, how the work comes
in-house; then what may go wrong, and what to do next. Nothing is computed here: where the evidence has no figure for a
question, the answer says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from deshi.jobs.evidence.business import account_shown
from deshi.jobs.evidence.business.business_schema import BusinessCase
from deshi.jobs.evidence.business.business_words import payback_key
from deshi.jobs.evidence.numbers import PERCENT, POINTS, Style, style_of
from deshi.jobs.evidence.page.figures import margin_of
from deshi.jobs.evidence.page.shown import Shown
from deshi.jobs.evidence.page.tables import is_projected, kpi_name, kpi_style, place_of
from deshi.jobs.evidence.risk.risk_schema import RiskRow
from deshi.jobs.evidence.schema import ModelRow
from deshi.serve.texts import TEXTS

LEVELS = ("high", "medium", "unknown", "low")
TOP_RISKS = 3
DROPS = ("worst_slice",)  # risks whose figure is a difference of shares
ROADMAP = ("first", "second", "third")


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One question: its heading, the figure, the sentence, and lines of detail under it."""

    question: Markup
    figure: Markup
    sentence: Markup
    details: tuple[Markup, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Step:
    """What to do next: a sentence and the command that does it."""

    sentence: Markup
    command: Markup


def answers(s: Shown) -> tuple[Answer, ...]:
    """The four answers; none where there is no chosen model to speak of."""
    chosen = s.evidence.model_row("chosen")
    if chosen is None:
        return ()
    return (cost(chosen, s), quality(chosen, s), places(chosen, s), roadmap(s))


def cost(chosen: ModelRow, s: Shown) -> Answer:
    """What inference costs less on each target, the first one large."""
    question, cases = s.say("answer.cost"), s.evidence.business
    if not cases:
        teacher, place = s.evidence.model_row("teacher"), chosen.targets[0] if chosen.targets else None
        before = place_of(teacher, place.target) if place else None
        if place is None or before is None or place.cost_per_1000 is None or before.cost_per_1000 is None:
            return Answer(
                question=question, figure=s.say("basis.not measured"), sentence=s.say("answer.cost.unmeasured")
            )
        money = style_of(s.evidence.currency)
        return Answer(
            question=question,
            figure=s.in_a_line(place.cost_per_1000, money),
            sentence=s.say(
                "answer.cost.no_account",
                target=s.quote(place.target, place, "target"),
                before=s.value(before.cost_per_1000, money),
            ),
        )
    return Answer(
        question=question,
        figure=s.in_a_line(cases[0].inference_saving_share, PERCENT),
        sentence=_cost_sentence(cases[0], s),
        details=tuple(
            s.say("answer.cost.other", target=_target(case, s), share=_in_a_line(case.inference_saving_share, s))
            for case in cases[1:]
        ),
    )


def _cost_sentence(case: BusinessCase, s: Shown) -> Markup:
    money = style_of(s.evidence.currency)
    line = next((line for line in case.monthly if line.name == "inference"), None)
    if line is None or line.today.value is None or line.new.value is None:
        return s.say("answer.cost.unmeasured")
    return s.say(
        "answer.cost.dearer" if line.new.value > line.today.value else "answer.cost.sentence",
        target=_target(case, s),
        today=s.value(line.today, money),
        new=s.value(line.new, money),
        payback=account_shown.sentence(payback_key(case), case.payback_months, case, s),
    )


def quality(chosen: ModelRow, s: Shown) -> Answer:
    """The first figure of quality that gates, with its interval; how many answers turned, and what the errors cost."""
    e, drop = s.evidence, chosen.quality.drop
    gate = next((row for row in e.kpis if row.axis == "quality" and row.limit is not None), None)
    if gate is None:
        figure, sentence = s.in_a_line(drop, POINTS), s.say("answer.quality.no_limit")
    else:
        figure = s.in_a_line(gate.figure, kpi_style(gate))
        limit = s.number(gate, "limit", style=kpi_style(gate))
        sentence = s.say(f"answer.quality.{gate.verdict}", name=kpi_name(gate, s), limit=limit)
    details = []
    if e.task == "classify" and drop is not None:
        details.append(
            s.say(
                "answer.quality.flips",
                n=s.n(chosen.quality.score),
                worse=s.count(chosen.quality, "flips_to_wrong"),
                better=s.count(chosen.quality, "flips_to_right"),
            )
        )
    if e.risk is not None and e.risk.error_cost_per_1000 and e.risk.teacher_error_cost_per_1000:
        money = style_of(e.currency)
        details.append(
            s.say(
                "answer.quality.errors",
                before=s.value(e.risk.teacher_error_cost_per_1000, money),
                after=s.value(e.risk.error_cost_per_1000, money),
            )
        )
    return Answer(question=s.say("answer.quality"), figure=figure, sentence=sentence, details=tuple(details))


def places(chosen: ModelRow, s: Shown) -> Answer:
    """Which targets were measured on this machine, which are projected, and what comes next."""
    projected = [place for place in chosen.targets if is_projected(place)]
    measured = [place for place in chosen.targets if place not in projected]
    names = {
        "measured": s.join([s.quote(place.target, place, "target") for place in measured]),
        "projected": s.join([s.quote(place.target, place, "target") for place in projected]),
    }
    kind = "vendor" if chosen.asked is not None else "some" if measured and projected else "all" if measured else "none"
    details = []
    for place in chosen.targets:
        felt = place.latency.p95 if place.latency is not None else None
        details.append(
            s.say(
                "answer.places.line",
                target=s.quote(place.target, place, "target"),
                latency=_in_a_line(felt, s),
                cost=_in_a_line(place.cost_per_1000, s),
                basis=s.say("basis.short" if place in projected else "basis.measured"),
            )
        )
    return Answer(
        question=s.say("answer.places"),
        figure=s.say("answer.places.figure", measured=s.size(measured), all=s.size(chosen.targets)),
        sentence=s.say(f"answer.places.{kind}", **names),
        details=tuple(details),
    )


def roadmap(s: Shown) -> Answer:
    """The hand-over of docs/operate.md: three steps in six months."""
    return Answer(
        question=s.say("answer.roadmap"),
        figure=s.say("answer.roadmap.figure"),
        sentence=s.say("answer.roadmap.sentence"),
        details=tuple(s.say(f"answer.roadmap.{step}") for step in ROADMAP),
    )


def top_risks(s: Shown) -> list[RiskRow]:
    """The lines of the ledger that come first: by level, then as they stand."""
    ledger = s.evidence.risk.ledger if s.evidence.risk is not None else ()
    return sorted(ledger, key=lambda row: LEVELS.index(row.level))[:TOP_RISKS]


def risk_words(row: RiskRow, part: str, s: Shown) -> Markup:
    """`title`, `sign` or `counter` of a line of the ledger; a code without words of its own stands for itself."""
    key = f"risk.{row.code}.{part}"
    if key not in TEXTS:
        return s.quote(row.code, row, "code") if part == "title" else Markup("–")
    return s.say(key, **{name: s.quote(value, row, "values", name) for name, value in row.values.items()})


def risk_style(row: RiskRow) -> Style:
    """By unit, but a drop of a share is read in points. Asked only of a row with a figure."""
    unit = row.figure.unit if row.figure is not None else ""
    return POINTS if row.code in DROPS and style_of(unit) == PERCENT else style_of(unit)


def next_steps(s: Shown) -> tuple[Step, ...]:
    """By the verdict: serve it; measure more; move the margin or give the search more room. Then: check the record."""
    e = s.evidence
    run = run_of(s)
    again = Markup("deshi poc recipe.yaml")
    steps: list[Step] = []
    chosen = e.model_row("chosen")
    if chosen is not None and chosen.asked is not None:
        place = (s.quote(getattr(chosen.asked, name), chosen.asked, name) for name in ("url", "model"))
        again = Markup("deshi judge {} recipe.yaml --model {}").format(*place)
    if e.verdict.decision == "ACCEPT" and chosen is not None and chosen.asked is not None:
        steps.append(Step(sentence=s.say("next.vendor"), command=again))
    elif e.verdict.decision == "ACCEPT":
        target = next((place for row in e.models if row.role == "chosen" for place in row.targets), None)
        where = Markup(" --target {}").format(s.quote(target.target, target, "target")) if target else ""
        steps.append(Step(sentence=s.say("next.serve"), command=Markup("deshi serve {}{}").format(run, where)))
    elif e.verdict.decision == "INCONCLUSIVE" and e.verdict.rows_needed is not None:
        steps.append(Step(sentence=s.say("next.rows", rows=s.count(e.verdict, "rows_needed")), command=again))
    elif e.verdict.decision == "INCONCLUSIVE":
        steps.append(Step(sentence=s.say("next.longer"), command=again))
    else:
        limit = margin_of(e)
        steps.append(Step(sentence=s.say("next.margin" if limit is not None else "next.limits"), command=again))
    steps.append(Step(sentence=s.say("next.verify"), command=Markup("deshi verify {}").format(run)))
    return tuple(steps)


def run_of(s: Shown) -> Markup:
    """The run's folder as a command takes it."""
    e = s.evidence
    storage = s.quote(e.recipe["storage"].rstrip("/"), e.recipe, "storage") if "storage" in e.recipe else "<storage>"
    return Markup("{}/{}").format(storage, s.quote(e.name, e, "name"))


def _in_a_line(figure: Any, s: Shown) -> Markup:
    return s.say("basis.not measured") if figure is None else s.value(figure, style_of(figure.unit))


def _target(case: BusinessCase, s: Shown) -> Markup:
    return s.quote(case.target, case, "target")
