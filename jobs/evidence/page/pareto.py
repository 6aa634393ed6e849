"""The Pareto picture: every trial's validation score over its engine latency or its size.

Teacher and controls stand beside them, hollow, by the test rows. A pointer that rests on a mark tells its numbers; in
print the picture stands as it is.
"""

from __future__ import annotations

import itertools
from typing import Literal

from matplotlib.axes import Axes

from deshi.jobs.evidence.numbers import PERCENT, style_of, written
from deshi.jobs.evidence.page.canvas import INK, MUTED, blank, box_of, inline_svg, label, log_ticks, plane, settings
from deshi.jobs.evidence.page.figures import BLUE, GREY, SKY, VERMILLION, model_name
from deshi.jobs.evidence.schema import Evidence, ModelRow, TrialPoint
from deshi.serve.texts import Language, named, text

Across = Literal["latency_ms", "size_mb"]


def pareto(evidence: Evidence, lang: Language, x: Across) -> str:
    """The picture as `<svg>`, or nothing where the evidence holds no trial."""
    if not evidence.front:
        return ""
    trials = [(getattr(trial, x), trial.score, trial) for trial in evidence.front]
    front = sorted((place, score) for place, score, trial in trials if trial.on_front)
    chosen = [(place, score, trial) for place, score, trial in trials if trial.chosen]
    references = _references(evidence, x)
    marks = [*front, *((place, score) for place, score, _ in chosen), *((at, score) for _, at, score in references)]
    scores = [score for _, score in marks] or [score for _, score, _ in trials]
    pad = 0.12 * max(max(scores) - min(scores), 0.02)
    # Untrained trials can score like chance; they would squeeze the front, so they stand on the floor as triangles.
    floor, ceiling = min(scores) - pad, max([*scores, *(score for _, score, _ in trials)]) + pad
    places = [place for place, _, _ in trials] + [place for _, place, _ in references]
    ends = (min(places) / 1.5, max(places) * 1.8)
    with settings():
        canvas = blank(500, 350)
        axes = plane(canvas, (58, 48, 482, 336))
        axes.set_xscale("log")
        axes.set(xlim=ends, ylim=(floor, ceiling))
        axes.set_xticks(ticks := log_ticks(*ends), [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
        axes.yaxis.set_major_formatter(lambda value, _: written(value, PERCENT, lang))
        axes.set_xlabel(text(f"pareto.x.{x}", lang), color=MUTED, labelpad=8)
        for place, score, trial in trials:
            if not trial.on_front:
                marker, up = ("o", score) if score >= floor else ("v", floor + pad / 4)
                axes.plot([place], [up], marker, color=GREY, markersize=5, gid=_gid(trial))
        best = [here for i, here in enumerate(front) if all(score < here[1] for _, score in front[:i])]
        axes.plot(
            [place for place, _ in best],
            [score for _, score in best],
            drawstyle="steps-post",
            color=SKY,
            linewidth=1.5,
        )
        for place, score, trial in trials:
            if trial.on_front:
                axes.plot(
                    [place],
                    [score],
                    "o",
                    color=BLUE,
                    markersize=7,
                    markeredgecolor="white",
                    markeredgewidth=0.8,
                    gid=_gid(trial),
                )
        taken = [box_of(axes, place, score, 6) for place, score in marks]
        taken += [box_of(axes, place, score, 3) for place, score, _ in trials]
        for (x0, y0), (x1, y1) in itertools.pairwise(best):
            (left, floor_px, _, _), (right, roof_px, _, _) = box_of(axes, x0, y0, 0), box_of(axes, x1, y1, 0)
            taken += [(left, floor_px - 2, right, floor_px + 2), (right - 2, floor_px, right + 2, roof_px)]
        for place, score, trial in chosen:
            axes.plot(
                [place],
                [score],
                "*",
                color=BLUE,
                markersize=18,
                markeredgecolor="white",
                gid=f"{_gid(trial)}-chosen",
            )
            name = named("model.chosen", evidence.verdict.decision, lang)
            label(axes, place, score, name, taken, colour=BLUE, weight="bold")
        _draw_references(axes, evidence, references, taken, lang)
        score_name = named("score", evidence.score_name, lang)
        hints = {gid: _hint(trial, lang) for *_, trial in trials for gid in (_gid(trial), f"{_gid(trial)}-chosen")}
        return inline_svg(canvas, f"{lang}-pareto-{x}", text("pareto.y", lang, score=score_name), hints)


def _draw_references(
    axes: Axes,
    evidence: Evidence,
    references: list[tuple[ModelRow, float, float]],
    taken: list[tuple[float, float, float, float]],
    lang: Language,
) -> None:
    for row, place, score in references:
        marker, colour = ("s", INK) if row.role == "teacher" else ("D", VERMILLION)
        axes.plot(
            [place],
            [score],
            marker,
            color=colour,
            markersize=7,
            markerfacecolor="white",
            markeredgewidth=1.6,
        )
        label(axes, place, score, model_name(evidence, row, lang), taken, colour=colour, weight="normal")


def _references(evidence: Evidence, x: str) -> list[tuple[ModelRow, float, float]]:
    """The teacher and the controls: row, place on the horizontal axis (first target), score on the test rows."""
    found = []
    for row in evidence.models:
        if row.role == "chosen" or not row.targets or row.quality.score.value is None:
            continue
        place = (row.targets[0].engine_ms if x == "latency_ms" else row.targets[0].size_mb).value
        if place:
            found.append((row, place, row.quality.score.value))
    return found


def _gid(trial: TrialPoint) -> str:
    return f"trial-{trial.number}"


def _hint(trial: TrialPoint, lang: Language) -> str:
    stages = text("list.arrow", lang).join(named("stage", stage, lang) for stage in trial.chain)
    numbers = (
        written(trial.score, PERCENT, lang),
        written(trial.latency_ms, style_of("ms"), lang),
        written(trial.size_mb, style_of("MB"), lang),
    )
    return text("list.comma", lang).join((stages, *numbers))
