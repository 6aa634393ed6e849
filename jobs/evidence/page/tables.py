"""What the tables of the report hold: rows picked from the evidence, worded in a language.

Pure functions of the evidence, which a `Shown` carries together with the language and the places of its numbers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from markupsafe import Markup, escape

from deshi.jobs.evidence.figure import Figure
from deshi.jobs.evidence.numbers import FINE_PERCENT, PERCENT, POINTS, Style, style_of
from deshi.jobs.evidence.page.shown import Shown
from deshi.jobs.evidence.schema import Evidence, KpiRow, LatencyParts, ModelRow, Reason, SliceRow, TargetRow, Timing
from deshi.serve.texts import TEXTS, Language, named, text

SMALL_SLICE = 20  # rows; below, not even a perfect slice proves a drop of less than five points
STYLES = {
    "score": PERCENT,
    "drop": POINTS,
    "agreement": PERCENT,
    "kl": style_of("nats"),
    "calibration_error": PERCENT,
    "unknown_token_rate": FINE_PERCENT,
}
PLACE = ("engine_ms", "ratio_to_teacher", *LatencyParts.model_fields, "throughput_rps", "startup_s", "memory_mb",
         "size_mb", "energy_j", "machines", "cost_per_1000", "cost_per_1000_full_use")  # fmt: skip


def place_of(row: ModelRow | None, target: str) -> TargetRow | None:
    """A model's row on a target."""
    return next((place for place in row.targets if place.target == target), None) if row else None


def place_figure(place: TargetRow, quantity: str) -> Figure | None:
    """One of PLACE; those of the latency lie one level deeper."""
    if quantity in LatencyParts.model_fields:
        return getattr(place.latency, quantity, None)
    return getattr(place, quantity)


def place_figures(place: TargetRow) -> list[Figure]:
    """Those of PLACE that there are."""
    return [figure for quantity in PLACE if (figure := place_figure(place, quantity)) is not None]


def is_projected(place: TargetRow) -> bool:
    """Whether any figure of the target was not measured on it."""
    return "projected" in {figure.basis for figure in place_figures(place)}


def chain(stages: Sequence[str], s: Shown) -> Markup:
    """`distil -> prune -> quantize`; `stages` are a tuple of the evidence's own."""
    names = [s.quote(named("stage", stage, s.lang), stages, i) for i, stage in enumerate(stages)]
    return escape(text("list.arrow", s.lang)).join(names)


def kpi_name(row: KpiRow, s: Shown) -> Markup:
    """`latency_ms_p95.onprem` as words; a name that has none stays as it is."""
    if f"kpi.{row.name}" in TEXTS:
        return s.say(f"kpi.{row.name}")
    found = re.fullmatch(r"(\w+)[.:/\[( ]+([\w-]+)[\])]?", row.name)
    if found is None or f"kpi.{found[1]}" not in TEXTS:
        return s.quote(row.name, row, "name")
    return s.say("kpi.on", name=s.say(f"kpi.{found[1]}"), target=s.quote(found[2], row, "name"))


def kpi_style(row: KpiRow) -> Style:
    """By unit, but a drop of a share is read in points."""
    style = style_of(row.figure.unit)
    return POINTS if style == PERCENT and row.name.startswith(("drop", "max_drop", "worst_slice")) else style


def reason(reason: Reason, lang: Language) -> str:
    """A reason of the verdict by its code, or as it was recorded where the code is not known."""
    key = f"reason.{reason.code}"
    return text(key, lang, **reason.values) if key in TEXTS else reason.text


def builds(place: TargetRow | None, s: Shown) -> list[Markup]:
    """The builds that answer on a target, each once."""
    if place is None:
        return [Markup("–")]
    named_by = {build: s.quote(build, place, "builds", shape) for shape, build in reversed(place.builds.items())}
    return [named_by[build] for build in dict.fromkeys(place.builds.values())] or [s.quote(place.build, place, "build")]


def notices(chosen: ModelRow | None, s: Shown) -> list[Markup]:
    """What a reader of the verdict must know about the winner's kind."""
    if chosen is None:
        return [s.say("notice.no_candidate")]
    if chosen.asked is not None:
        told = {name: s.quote(getattr(chosen.asked, name), chosen.asked, name) for name in ("url", "model")}
        return [s.say("notice.vendor", **told)]
    if "static" in (chosen.id, chosen.scheme, *chosen.chain) or chosen.layers == 0:
        return [s.say("notice.static")]
    if "distill" not in chosen.chain:
        return [s.say("notice.not_distilled", chain=chain(chosen.chain, s))]
    return []


def slices(e: Evidence, chosen: ModelRow | None) -> dict[str, Any]:
    """The chosen model's slices, worst first, the small ones apart; and every model's by slice."""
    every: dict[tuple[str, str, int], dict[str, SliceRow]] = {}
    for model in e.models:
        for row in model.quality.slices:
            every.setdefault((row.column, row.value, row.n), {})[model.id] = row
    mine = sorted(
        chosen.quality.slices if chosen else (),
        key=lambda row: (not row.harmed, -(row.drop.value or 0.0), row.column, row.value),
    )
    return {
        "every": list(every.values()),
        "models": [model for model in e.models if model.quality.slices],
        "large": [row for row in mine if row.n >= SMALL_SLICE],
        "small": sorted((row for row in mine if row.n < SMALL_SLICE), key=lambda row: (row.column, row.value)),
    }


def slice_name(row: SliceRow, s: Shown) -> Markup:
    """`column = value`."""
    return Markup("{} = {}").format(s.quote(row.column, row, "column"), s.quote(row.value, row, "value"))


def targets(e: Evidence, s: Shown) -> Iterator[dict[str, Any]]:
    """One table a target: quantities down, models across; quantities that no model has are left out."""
    stated = {target.get("name"): target for target in e.recipe.get("targets", ())}
    for name in dict.fromkeys(place.target for model in e.models for place in model.targets):
        columns = [(model, place_of(model, name)) for model in e.models]
        rows = []
        for quantity in PLACE:
            cells = [(model, place_figure(place, quantity) if place else None) for model, place in columns]
            units = [figure.unit for _, figure in cells if figure is not None]
            if units:
                rows.append((quantity_name(e, quantity, s.lang), style_of(units[0]), cells))
        first = next(place for _, place in columns if place is not None)
        chosen = place_of(e.model_row("chosen"), name)
        shapes = list(dict.fromkeys(row.shape for row in (chosen.tried if chosen else ())))
        yield {
            "name": s.quote(name, first, "target"),
            "columns": columns,
            "rows": rows,
            "projected": any(place is not None and is_projected(place) for _, place in columns),
            "facts": _target_facts(stated[name], e.currency, s) if name in stated else "",
            "tried_at": [named("shape", shape, s.lang) for shape in shapes],
            "tried": _tried(chosen, shapes, s),
            "shapes": [
                (named("shape", shape, s.lang), s.quote(build, chosen, "builds", shape))
                for shape, build in (chosen.builds if chosen else {}).items()
            ],
        }


def _tried(place: TargetRow | None, shapes: Sequence[str], s: Shown) -> list[tuple[Markup, list[Timing | None]]]:
    """A row a build that was timed, in the order they were tried: its name, and its timing at each of the shapes."""
    found: dict[str, dict[str, Timing]] = {}
    for row in place.tried if place else ():
        found.setdefault(row.build, {})[row.shape] = row
    return [
        (s.quote(build, next(iter(at.values())), "build"), [at.get(shape) for shape in shapes])
        for build, at in found.items()
    ]


def _target_facts(target: dict[str, Any], currency: str, s: Shown) -> Markup:
    facts = s.say(
        "targets.facts",
        threads=s.number(target, "threads"),
        rtt=s.number(target, "rtt_ms"),
        price=s.number(target, "price_per_hour"),
        currency=currency,
    )
    if not target.get("memory_mb"):
        return facts
    return s.join([facts, s.say("targets.memory", memory=s.number(target, "memory_mb"))])


def quantity_name(e: Evidence, quantity: str, lang: Language) -> str:
    """A quantity in words; some name the task's score."""
    return text(f"quantity.{quantity}", lang, score=named("score", e.score_name, lang))


def measures(e: Evidence, lang: Language) -> list[tuple[str, list[tuple[ModelRow, Figure | None]]]]:
    """What was measured of a language model's text: a quantity in words, and every model's figure."""
    names = dict.fromkeys(name for model in e.models for name in model.quality.measures)
    return [
        (quantity_name(e, name, lang), [(model, model.quality.measures.get(name)) for model in e.models])
        for name in names
    ]
