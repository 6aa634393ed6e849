"""What this evidence does not prove, one sentence each, drawn from the rows that the tables show.

A target that was projected, a slice too small to settle, a KPI without a target: each becomes a sentence of its own.
"""

from __future__ import annotations

from markupsafe import Markup

from deshi.jobs.evidence.numbers import FINE_PERCENT
from deshi.jobs.evidence.page.figures import drop_status, margin_of
from deshi.jobs.evidence.page.shown import Shown
from deshi.jobs.evidence.page.tables import is_projected, kpi_name
from deshi.jobs.evidence.schema import ModelRow
from deshi.serve.texts import named


def limits(chosen: ModelRow | None, s: Shown) -> list[Markup]:
    """The sentences, the widest first."""
    e = s.evidence
    places = chosen.targets if chosen else ()
    projected = [s.quote(place.target, place, "target") for place in places if is_projected(place)]
    unfelt = [
        s.quote(place.target, place, "target")
        for place in places
        if not is_projected(place) and (place.latency is None or place.latency.p95.value is None)
    ]
    rows = chosen.quality.slices if chosen else ()
    unproven = [row for row in rows if drop_status(row.drop.low, row.drop.high, margin_of(e)) == "unproven"]
    open_kpis = [kpi_name(row, s) for row in e.kpis if row.verdict == "INCONCLUSIVE"]
    free_kpis = [kpi_name(row, s) for row in e.kpis if row.verdict == "NO TARGET"]
    unknown = [named("origin.licences", what, s.lang) for what, name in e.licences.items() if name in ("", "unknown")]
    cut = s.number(e.data, "truncated", "test", style=FINE_PERCENT)
    found = [
        s.say("limits.scope", n=s.count(e.data, "rows", "test")),
        s.say("limits.projected", targets=s.join(projected)) if projected else None,
        s.say("limits.latency", targets=s.join(unfelt)) if unfelt else None,
        s.say("limits.kpis", names=s.join(open_kpis)) if open_kpis else None,
        s.say("limits.no_target", names=s.join(free_kpis)) if free_kpis else None,
        s.say("limits.slices", n=s.size(unproven), total=s.size(rows)) if unproven else None,
        s.say("limits.near_twins", n=s.count(e.data, "near_twins")) if e.data.near_twins else None,
        s.say("limits.truncated", share=cut) if e.data.truncated.get("test") else None,
        s.say("limits.seed", seed=s.number(e.recipe, "seed")) if "seed" in e.recipe else None,
        s.say("limits.domain"),
        s.say("limits.cost") if not e.business else s.say("limits.account"),
        s.say("limits.people") if s.review is None else None,
        s.say("limits.licence", names=s.join(unknown)) if unknown else None,
    ]
    return [sentence for sentence in found if sentence is not None]
