"""The report's pictures beside the Pareto front: waterfall of the stages, interval plot of the drop, latency split.

Pure functions from the evidence to an inline `<svg>`, or to nothing where the evidence holds nothing to draw.
Colours are Okabe and Ito's (2008), which colour-blind readers tell apart, and no meaning hangs on a colour alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from matplotlib.axes import Axes

from deshi.jobs.evidence.numbers import PERCENT, POINTS, Style, digits, interval, style_of, written
from deshi.jobs.evidence.page.canvas import (
    INK,
    LINE,
    MUTED,
    beside,
    blank,
    inline_svg,
    rows,
    settings,
    width_of,
)
from deshi.jobs.evidence.schema import Evidence, LatencyParts, ModelRow
from deshi.serve.statistics import non_inferior
from deshi.serve.texts import Language, named, text

BLUE, SKY, ORANGE, VERMILLION, GREEN, AMBER = "#0072b2", "#56b4e9", "#e69f00", "#c14a00", "#007a5e", "#8a6100"
GREY, GHOST = "#b4bcc7", "#e3e7ec"
PART_COLOURS = {"engine": BLUE, "queue": ORANGE, "http": SKY, "network": "#98a2b0"}
STATUS = {"held": (GREEN, "o"), "worse": (VERMILLION, "s"), "unproven": (AMBER, "D")}
DASHES = (0, (4, 3))


def model_name(evidence: Evidence, row: ModelRow, lang: Language) -> str:
    """What a model is called; the chosen one is named after the verdict."""
    return (
        named("model.chosen", evidence.verdict.decision, lang) if row.role == "chosen" else named("model", row.id, lang)
    )


def margin_of(evidence: Evidence) -> float | None:
    """The largest drop that the recipe allows; of a language model, how many tokens may differ from the teacher's."""
    quality = evidence.recipe.get("kpi", {}).get("quality", {})
    if evidence.task == "classify":
        return quality.get("max_drop")
    same = quality.get("same_top")
    return None if same is None else 1 - same


def drop_status(low: float | None, high: float | None, margin: float | None) -> str:
    """`held` below the margin, `worse` above it, `unproven` where the interval straddles it or is missing."""
    if low is None or high is None or margin is None:
        return "unproven"
    return {"PASS": "held", "FAIL": "worse", "INCONCLUSIVE": "unproven"}[non_inferior(low, high, margin)]


def waterfall(evidence: Evidence, lang: Language) -> str:
    """Score, latency, size and cost after each stage of the winner: four panels over shared rows."""
    steps = evidence.waterfall
    if not steps:
        return ""
    money = text("unit.per_1000", lang, currency=evidence.currency)
    panels: tuple[tuple[str, Style, list[float | None]], ...] = (
        (named("score", evidence.score_name, lang), PERCENT, [step.score for step in steps]),
        (text("waterfall.latency", lang), style_of("ms"), [step.latency_ms for step in steps]),
        (text("waterfall.size", lang), style_of("MB"), [step.size_mb for step in steps]),
        (
            f"{text('waterfall.cost', lang)} ({evidence.currency})",
            style_of(money),
            [step.cost_per_1000 for step in steps],
        ),
    )
    names = [named("stage", step.stage, lang) for step in steps]
    left, height = max(width_of(name) for name in names) + 18, 40 + 34 * len(steps)
    span = (960 - left) / len(panels)
    with settings():
        canvas = blank(960, height)
        for column, (title, style, values) in enumerate(panels):
            start = left + column * span
            axes = rows(canvas, (start, 6, start + span - 92, height - 34), len(steps), scale=False)
            axes.text(0, 1.0, title, transform=axes.transAxes, va="bottom", weight="bold", color=INK)
            if column == 0:
                for y, name in enumerate(names):
                    beside(axes, name, y, end=0, across=-12, side="right")
            _stage_values(axes, values, style, lang, from_zero=column > 0)
        return inline_svg(canvas, f"{lang}-waterfall", text("waterfall.title", lang))


def _stage_values(axes: Axes, values: Sequence[float | None], style: Style, lang: Language, *, from_zero: bool) -> None:
    """One panel. A bar starts at zero; a score changes little, so it is a dot on a cut axis instead."""
    known = [value for value in values if value is not None]
    if not known:
        axes.text(0, 0.5, text("basis.not measured", lang), transform=axes.transAxes, color=MUTED)
        return
    low = 0.0 if from_zero else min(known) - 0.15 * max(max(known) - min(known), 0.01)
    axes.set_xlim(low, max(known) or 1.0)
    before: float | None = None
    for y, value in enumerate(values):
        if value is None:
            before = None
            continue
        if from_zero:
            axes.barh(y, value, height=0.52, color=BLUE)
            if before is not None and before > value:
                axes.barh(y, before - value, left=value, height=0.52, color=GHOST)
        else:
            axes.plot([low, value], [y, y], color=LINE, linewidth=1, zorder=1)
            axes.plot([value], [y], "o", color=BLUE, markersize=8, clip_on=False)
            if before is not None:
                axes.plot([before], [y], "o", color=GREY, markersize=5, zorder=1, clip_on=False)
        end = max(value, before or value)
        number = written(value, style, lang, unit=style.suffix in ("%", "ms", "MB"))
        axes.annotate(number, (end, y), (9, 0), textcoords="offset points", va="center_baseline", color=INK)
        before = value


def drops(evidence: Evidence, lang: Language) -> str:
    """Interval plot: the drop of each model from the teacher, in points, against the largest drop allowed."""
    found = [(row, row.quality.drop) for row in evidence.models if row.quality.drop is not None]
    if not found:
        return ""
    margin = margin_of(evidence)
    names = [model_name(evidence, row, lang) for row, _ in found]
    left, height = max(width_of(name) for name in names) * 1.06 + 24, 66 + 34 * len(found)
    ends = [0.0, margin or 0.0]
    for _, drop in found:
        ends += [end for end in (drop.low, drop.value, drop.high) if end is not None]
    pad = 0.06 * (max(ends) - min(ends) or 0.01)
    with settings():
        canvas = blank(960, height)
        axes = rows(canvas, (left, 34, 770, height - 28), len(found), scale=True)
        axes.set_xlim(min(ends) - pad, max(ends) + pad)
        axes.xaxis.set_major_formatter(lambda value, _: digits(value * 100, None if abs(value) < 0.095 else 0))
        axes.axvline(0, color=MUTED, linewidth=0.9)
        if margin:
            axes.axvline(margin, color=VERMILLION, linewidth=1.3, linestyle=DASHES)
            allowed = text("quality.margin", lang, value=written(margin, POINTS, lang))
            axes.annotate(allowed, (margin, -0.5), (0, 6), textcoords="offset points", ha="center", color=VERMILLION)
        for y, ((row, drop), name) in enumerate(zip(found, names, strict=True)):
            weight: Literal["bold", "normal"] = "bold" if row.role == "chosen" else "normal"
            colour, marker = STATUS[drop_status(drop.low, drop.high, margin)] if margin else (INK, "o")
            if drop.low is not None and drop.high is not None:
                axes.plot([drop.low, drop.high], [y, y], color=colour, linewidth=2.2, solid_capstyle="butt")
            if drop.value is not None:
                axes.plot([drop.value], [y], marker, color=colour, markersize=8, markeredgecolor="white")
            number = written(drop.value, POINTS, lang, unit=False)
            between = interval(drop, POINTS, lang)
            beside(axes, name, y, end=0, across=-12, side="right", weight=weight)
            beside(
                axes,
                f"{number} ({between})" if between else number,
                y,
                end=1,
                across=172,
                side="right",
                weight=weight,
            )
        return inline_svg(canvas, f"{lang}-drops", text("quality.drops", lang))


def latency_split(evidence: Evidence, lang: Language) -> str:
    """Engine, queue, HTTP and network stacked, ms at p95, for the chosen model and the teacher on each target."""
    bars: list[tuple[str, str, LatencyParts]] = []
    for target in dict.fromkeys(place.target for row in evidence.models for place in row.targets):
        for row in evidence.models:
            latency = next((place.latency for place in row.targets if place.target == target), None)
            if latency is not None and row.role != "control":
                bars.append((target, model_name(evidence, row, lang), latency))
    if not bars:
        return ""
    limits: dict[str, float] = evidence.recipe.get("kpi", {}).get("latency_ms_p95", {})
    stacks = [_parts(latency) for _, _, latency in bars]
    totals = [max(sum(stack), latency.p95.value or 0.0) for stack, (_, _, latency) in zip(stacks, bars, strict=True)]
    # A limit far beyond every bar would squeeze the bars; the KPI table has its number.
    longest = max(
        [
            *totals,
            *(limits.get(target, 0.0) for target, _, _ in bars if limits.get(target, 0.0) < 3 * max(totals)),
        ]
    )
    shelf = max(width_of(target) for target, _, _ in bars) * 1.1
    left, height = max(width_of(name) for _, name, _ in bars) + shelf + 36, 34 * len(bars) + 44
    with settings():
        canvas = blank(960, height)
        axes = rows(canvas, (left, 36, 770, height - 6), len(bars), scale=True)
        axes.set_xlim(0, 1.04 * longest or 1.0)
        axes.xaxis.set_major_formatter(lambda value, _: digits(value))
        axes.set_xlabel("ms", color=MUTED, labelpad=2)
        for y, ((target, name, latency), stack) in enumerate(zip(bars, stacks, strict=True)):
            measured, start = latency.p95.basis == "measured", 0.0
            for colour, value in zip(PART_COLOURS.values(), stack, strict=True):
                hatch = None if measured else "////"
                axes.barh(
                    y,
                    value,
                    left=start,
                    height=0.52,
                    color=colour,
                    hatch=hatch,
                    edgecolor="white",
                    linewidth=0.6,
                )
                start += value
            if latency.p95.value is not None:
                axes.plot([latency.p95.value] * 2, [y - 0.36, y + 0.36], color=INK, linewidth=2.2)
            if 0 < (limit := limits.get(target, 0.0)) <= longest:
                axes.plot([limit] * 2, [y - 0.5, y + 0.5], color=VERMILLION, linewidth=1.4, linestyle=DASHES)
            note = written(latency.p95.value, style_of("ms"), lang)
            if not measured and latency.p95.value is not None:
                note += f" ({text(f'basis.{latency.p95.basis}', lang)})"
            beside(axes, note, y, end=1, across=12, side="left")
            beside(axes, name, y, end=0, across=-12, side="right")
            if y == 0 or bars[y - 1][0] != target:
                beside(axes, target, y, end=0, across=4 - left, side="left", weight="bold")
        return inline_svg(canvas, f"{lang}-latency", text("targets.figure", lang))


def _parts(latency: LatencyParts) -> list[float]:
    """In the order of PART_COLOURS."""
    parts = (latency.engine_p95, latency.queue_p95, latency.http_p95, latency.network)
    return [part.value or 0.0 for part in parts]
