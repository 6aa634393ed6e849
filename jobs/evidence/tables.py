"""What the tables and lists of the report hold: rows picked from the evidence, worded in a language.

Pure functions of the evidence. The list of limits is drawn from the same rows: a target that was projected, a slice
too small to settle, a KPI without a target, each becomes a sentence of its own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import yaml

from deshi.jobs.evidence.figure import Figure
from deshi.jobs.evidence.figures import drop_status, margin_of
from deshi.jobs.evidence.numbers import FINE_PERCENT, PERCENT, POINTS, Style, digits, style_of, written
from deshi.jobs.evidence.schema import Evidence, KpiRow, LatencyParts, ModelRow, Reason, SliceRow, TargetRow
from deshi.serve.texts import TEXTS, Language, named, recorded, text

Facts = list[tuple[str, str]]
SMALL_SLICE = 20  # rows; below, not even a perfect slice proves a drop of less than five points
STYLES = {
    "score": PERCENT,
    "drop": POINTS,
    "agreement": PERCENT,
    "kl": style_of("nats"),
    "calibration_error": PERCENT,
    "unknown_token_rate": FINE_PERCENT,
}
PLACE = ("engine_ms", "ratio_to_teacher", *LatencyParts.model_fields, "throughput_rps", "memory_mb", "size_mb",
         "machines", "cost_per_1000", "cost_per_1000_full_use")  # fmt: skip


def of_role(e: Evidence, role: Literal["chosen", "teacher"]) -> ModelRow | None:
    """The first model of a role."""
    return next((row for row in e.models if row.role == role), None)


def place_of(row: ModelRow | None, target: str) -> TargetRow | None:
    """A model's row on a target."""
    return next((place for place in row.targets if place.target == target), None) if row else None


def place_figure(place: TargetRow, quantity: str) -> Figure | None:
    """One of PLACE; those of the latency lie one level deeper."""
    if quantity in LatencyParts.model_fields:
        return getattr(place.latency, quantity, None)
    return getattr(place, quantity)


def chain(stages: Sequence[str], lang: Language) -> str:
    """`distil -> prune -> quantize`."""
    return text("list.arrow", lang).join(named("stage", stage, lang) for stage in stages)


def kpi_name(row: KpiRow, lang: Language) -> str:
    """`latency_ms_p95.onprem` as words; a name that has none stays as it is."""
    if f"kpi.{row.name}" in TEXTS:
        return text(f"kpi.{row.name}", lang)
    found = re.fullmatch(r"(\w+)[.:/\[( ]+([\w-]+)[\])]?", row.name)
    if found is None or f"kpi.{found[1]}" not in TEXTS:
        return row.name
    return text("kpi.on", lang, name=text(f"kpi.{found[1]}", lang), target=found[2])


def kpi_style(row: KpiRow) -> Style:
    """By unit, but a drop of a share is read in points."""
    style = style_of(row.figure.unit)
    return POINTS if style == PERCENT and row.name.startswith(("drop", "max_drop", "worst_slice")) else style


def reason(reason: Reason, lang: Language) -> str:
    """A reason of the verdict by its code, or as it was recorded where the code is not known."""
    key = f"reason.{reason.code}"
    return text(key, lang, **reason.values) if key in TEXTS else reason.text


def builds(place: TargetRow | None) -> list[str]:
    """The builds that answer on a target, each once."""
    return list(dict.fromkeys(place.builds.values())) or [place.build] if place else ["–"]


def notices(chosen: ModelRow | None, lang: Language) -> list[str]:
    """What a reader of the verdict must know about the winner's kind."""
    if chosen is None:
        return [text("notice.no_candidate", lang)]
    if "static" in (chosen.id, chosen.scheme, *chosen.chain) or chosen.layers == 0:
        return [text("notice.static", lang)]
    if "distill" not in chosen.chain:
        return [text("notice.not_distilled", lang, chain=chain(chosen.chain, lang))]
    return []


def slices(e: Evidence, chosen: ModelRow | None) -> dict[str, Any]:
    """The chosen model's slices, worst first, the small ones apart; and every model's by slice."""
    every: dict[tuple[str, str, int], dict[str, SliceRow]] = {}
    for model in e.models:
        for row in model.quality.slices:
            every.setdefault((row.column, row.value, row.n), {})[model.id] = row
    mine = sorted(
        chosen.quality.slices if chosen else (),
        key=lambda row: (-(row.drop.value or 0.0), row.column, row.value),
    )
    return {
        "every": list(every.items()),
        "models": [model for model in e.models if model.quality.slices],
        "large": [row for row in mine if row.n >= SMALL_SLICE],
        "small": sorted((row for row in mine if row.n < SMALL_SLICE), key=lambda row: (row.column, row.value)),
        "least": SMALL_SLICE,
    }


def targets(e: Evidence, lang: Language) -> list[dict[str, Any]]:
    """One table a target: quantities down, models across; quantities that no model has are left out."""
    stated = {target.get("name"): target for target in e.recipe.get("targets", ())}
    tables = []
    for name in dict.fromkeys(place.target for model in e.models for place in model.targets):
        columns = [(model, place_of(model, name)) for model in e.models]
        rows = []
        for quantity in PLACE:
            cells = [(model, place_figure(place, quantity) if place else None) for model, place in columns]
            units = [figure.unit for _, figure in cells if figure is not None]
            if units:
                rows.append((quantity_name(e, quantity, lang), style_of(units[0]), cells))
        figures = [figure for _, _, cells in rows for _, figure in cells if figure is not None]
        projected = any(figure.basis == "projected" for figure in figures)
        chosen = place_of(of_role(e, "chosen"), name)
        shapes = [(named("shape", shape, lang), build) for shape, build in chosen.builds.items()] if chosen else []
        facts = _target_facts(stated[name], e.currency, lang) if name in stated else ""
        tables.append(
            {
                "name": name,
                "columns": columns,
                "rows": rows,
                "projected": projected,
                "facts": facts,
                "shapes": shapes,
            }
        )
    return tables


def _target_facts(target: dict[str, Any], currency: str, lang: Language) -> str:
    numbers = {key: digits(target.get(key) or 0) for key in ("threads", "rtt_ms", "price_per_hour", "memory_mb")}
    facts = text("targets.facts", lang, threads=numbers["threads"], rtt=numbers["rtt_ms"],
                 price=numbers["price_per_hour"], currency=currency)  # fmt: skip
    if target.get("memory_mb"):
        facts += text("list.comma", lang) + text("targets.memory", lang, memory=numbers["memory_mb"])
    return facts


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


def every_figure(e: Evidence, lang: Language) -> Iterator[tuple[str, Figure]]:
    """All figures of the evidence, each with what it measures."""
    for model in e.models:
        for quantity in STYLES:
            if (figure := getattr(model.quality, quantity)) is not None:
                yield quantity_name(e, quantity, lang), figure
        for quantity, figure in model.quality.measures.items():
            yield quantity_name(e, quantity, lang), figure
        for row in model.quality.slices:
            yield quantity_name(e, "slice_score", lang), row.score
            yield quantity_name(e, "slice_drop", lang), row.drop
        for place in model.targets:
            for quantity in PLACE:
                if (figure := place_figure(place, quantity)) is not None:
                    yield quantity_name(e, quantity, lang), figure
    for order in e.orders:
        if order.score is not None:
            yield quantity_name(e, "order_score", lang), order.score
        if order.agreement is not None:
            yield quantity_name(e, "order_agreement", lang), order.agreement
    for kpi in e.kpis:
        yield text("quantity.kpi", lang, name=kpi_name(kpi, lang)), kpi.figure


def methods(e: Evidence, lang: Language) -> list[tuple[str, str, str, str, int]]:
    """What was measured, how, on which basis, over how many observations, and how many figures came so."""
    found: dict[tuple[str, str, str], list[Figure]] = {}
    for name, figure in every_figure(e, lang):
        found.setdefault((name, figure.how, figure.basis), []).append(figure)
    return [(*key, _span([f.n for f in figures if f.n is not None]), len(figures)) for key, figures in found.items()]


def _span(counts: Sequence[int]) -> str:
    if not counts:
        return "–"
    low, high = f"{min(counts):,}", f"{max(counts):,}"
    return low if low == high else f"{low}–{high}"


def removed(e: Evidence, lang: Language) -> Facts:
    """What the winner no longer has."""
    gone = e.removed
    return [
        (text("removed.layers", lang), ", ".join(map(str, gone.layers)) or text("none", lang)),
        (text("removed.ffn", lang), written(gone.ffn_share, PERCENT, lang)),
        (text("removed.vocabulary", lang), f"{gone.vocabulary:,}"),
        (text("removed.parameters", lang), written(gone.parameters_share, PERCENT, lang)),
        (text("removed.bits", lang), recorded(gone.bits, lang) or "–"),
    ]


def data(e: Evidence, chosen: ModelRow | None, lang: Language) -> list[tuple[str, Facts]]:
    """Rows, labels, truncation, unknown tokens, duplicates and near-twins."""
    unknown = chosen.quality.unknown_token_rate if chosen else None
    cut = [
        (named("data.rows", split, lang), written(share, FINE_PERCENT, lang))
        for split, share in e.data.truncated.items()
    ]
    cautions = [
        (text("data.duplicates", lang), f"{e.data.duplicates_dropped:,}"),
        (text("data.near_twins", lang), f"{e.data.near_twins:,}"),
    ]
    if unknown is not None:
        cautions.append((text("data.unknown", lang), written(unknown.value, FINE_PERCENT, lang)))
    return [
        (
            text("data.labels", lang),
            [(named("data.labels", use, lang), f"{n:,}") for use, n in e.data.labels.items()],
        ),
        (
            text("data.rows", lang),
            [(named("data.rows", split, lang), f"{n:,}") for split, n in e.data.rows.items()],
        ),
        (text("data.truncated", lang), cut),
        (text("data.quality", lang), cautions),
    ]


def origin(e: Evidence, lang: Language) -> list[tuple[str, Facts]]:
    """Machine, versions, licences, wall time."""
    machine = [
        (
            named("origin.machine", key, lang),
            text("none", lang) if value in (None, "", False) else _plain(value),
        )
        for key, value in e.machine.items()
    ]
    return [
        (text("origin.machine", lang), machine),
        (text("origin.versions", lang), list(e.versions.items())),
        (
            text("origin.licences", lang),
            [(named("origin.licences", what, lang), name) for what, name in e.licences.items()],
        ),
        (
            text("origin.seconds", lang),
            [(named("stage", stage, lang), digits(s)) for stage, s in e.seconds.items()],
        ),
    ]


def recipe(e: Evidence) -> str:
    """The recipe as YAML, in its own order."""
    return yaml.safe_dump(json.loads(json.dumps(e.recipe)), allow_unicode=True, sort_keys=False)


def limits(e: Evidence, chosen: ModelRow | None, lang: Language) -> list[str]:
    """What this evidence does not prove, one sentence each."""
    comma = text("list.comma", lang)
    places = chosen.targets if chosen else ()
    projected = [place.target for place in places if "projected" in {f.basis for f in _place_figures(place)}]
    unfelt = [
        place.target
        for place in places
        if place.target not in projected and (place.latency is None or place.latency.p95.value is None)
    ]
    rows = chosen.quality.slices if chosen else ()
    unproven = [row for row in rows if drop_status(row.drop.low, row.drop.high, margin_of(e)) == "unproven"]
    open_kpis = [kpi_name(row, lang) for row in e.kpis if row.verdict == "INCONCLUSIVE"]
    free_kpis = [kpi_name(row, lang) for row in e.kpis if row.verdict == "NO TARGET"]
    cut = e.data.truncated.get("test", 0.0)
    unknown = [named("origin.licences", what, lang) for what, name in e.licences.items() if name in ("", "unknown")]
    found = [
        text("limits.scope", lang, n=f"{e.data.rows.get('test', 0):,}"),
        text("limits.projected", lang, targets=comma.join(projected)) if projected else "",
        text("limits.latency", lang, targets=comma.join(unfelt)) if unfelt else "",
        text("limits.kpis", lang, names=comma.join(open_kpis)) if open_kpis else "",
        text("limits.no_target", lang, names=comma.join(free_kpis)) if free_kpis else "",
        text("limits.slices", lang, n=len(unproven), total=len(rows)) if unproven else "",
        text("limits.near_twins", lang, n=f"{e.data.near_twins:,}") if e.data.near_twins else "",
        text("limits.truncated", lang, share=written(cut, FINE_PERCENT, lang)) if cut else "",
        text("limits.seed", lang, seed=e.recipe.get("seed", "–")),
        text("limits.cost", lang),
        text("limits.people", lang),
        text("limits.licence", lang, names=comma.join(unknown)) if unknown else "",
    ]
    return [sentence for sentence in found if sentence]


def _place_figures(place: TargetRow) -> list[Figure]:
    return [figure for quantity in PLACE if (figure := place_figure(place, quantity)) is not None]


def _plain(value: Any) -> str:
    return digits(value) if isinstance(value, int | float) else str(value)
