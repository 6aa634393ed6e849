"""The KPI table: each target of the recipe beside the figure measured on the test rows, and its verdict.

A verdict goes by the interval where there is one: all of it within the limit is PASS, all of it beyond is
FAIL, and an interval that straddles the limit is INCONCLUSIVE, as is a figure that was never taken. Without
an interval (a size in bytes) the value decides. What has no limit is shown as NO TARGET.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from deshi.jobs.evidence.figure import Figure
from deshi.jobs.evidence.schema import KpiRow, KpiVerdict, ModelRow, SliceRow, TargetRow
from deshi.serve.kpi import Kpi, Target
from deshi.serve.statistics import non_inferior

HARMED = "counts those that drop more than the other rows (score test, Holm, 5%) and by more than the margin"
MEASURES = {"kl_mean": "nats", "perplexity_ratio": "ratio"}  # figures of quality beside the drop -> unit


def kpi_rows(
    row: ModelRow, kpi: Kpi, targets: Sequence[Target], *, margin: float | None, currency: str
) -> tuple[KpiRow, ...]:
    """One row for each KPI on each target, from a model's test figures; without a limit it is NO TARGET.

    `margin` is the most that the score may drop. Latency is the p95 that a user feels, network included. A figure of a
    target that could only be projected keeps the basis "projected" beside its verdict. A model behind a URL takes no
    disk and no memory of a target, so limits of those do not gate it.
    """
    if row.asked is not None:
        kpi = kpi.model_copy(update={"size_mb": None, "memory_mb": {}})
        targets = [target.model_copy(update={"memory_mb": None}) for target in targets]
    quality = row.quality
    drop = quality.drop or _not_measured("share")
    rows = [
        KpiRow(
            axis="quality",
            name="drop",
            limit=margin,
            limit_is="at most",
            figure=drop,
            verdict="NO TARGET" if margin is None else _quality_verdict(drop, margin),
        )
    ]
    for name, unit in MEASURES.items():
        rows += _bound("quality", name, quality.measures.get(name), getattr(kpi.quality, name), unit=unit)
    places = {place.target: place for place in row.targets}
    for target in targets:
        place = places.get(target.name)
        latency = place.latency.p95 if place is not None and place.latency is not None else None
        rows += _operations(f"latency_ms_p95.{target.name}", latency, kpi.latency_ms_p95.get(target.name), unit="ms")
        for name in ("first_token_p95", "per_token_p95"):
            felt = None if place is None else getattr(place.latency, name, None)
            rows += _operations(f"{name}.{target.name}", felt, getattr(kpi.latency_ms, name), unit="ms")
    rows += _operations("size_mb", _largest(row.targets), kpi.size_mb, unit="MB")
    for target in targets:
        place = places.get(target.name)
        memory, cost = (place.memory_mb, place.cost_per_1000) if place is not None else (None, None)
        rows += _operations(f"memory_mb.{target.name}", memory, memory_limit(kpi, target), unit="MB")
        rows += _operations(f"cost_per_1000.{target.name}", cost, kpi.cost_per_1000.get(target.name), unit=currency)
    rows += _risk("worst_slice", _worst_slice(row))
    rows += _slice_least(row.quality.slices, kpi.quality.slice_least)
    rows += _harmed_slices(row, margin)
    rows += _risk("calibration_error", quality.calibration_error)
    return tuple(rows)


def memory_limit(kpi: Kpi, target: Target) -> float | None:
    """The KPI's limit or what the target has, MB, whichever is less."""
    limits = (kpi.memory_mb.get(target.name), target.memory_mb)
    return min((limit for limit in limits if limit is not None), default=None)


def _quality_verdict(drop: Figure, margin: float) -> KpiVerdict:
    if drop.low is None or drop.high is None:
        return "INCONCLUSIVE"
    return non_inferior(drop.low, drop.high, margin)


def _at_most(figure: Figure, limit: float | None) -> KpiVerdict:
    """By the interval where there is one, else by the value."""
    if limit is None:
        return "NO TARGET"
    if figure.value is None:
        return "INCONCLUSIVE"
    if figure.low is None and figure.high is None:
        return "PASS" if figure.value <= limit else "FAIL"
    if figure.high is not None and figure.high <= limit:
        return "PASS"
    return "FAIL" if figure.low is not None and figure.low > limit else "INCONCLUSIVE"


def _operations(name: str, figure: Figure | None, limit: float | None, *, unit: str) -> list[KpiRow]:
    return _bound("operations", name, figure, limit, unit=unit)


def _bound(
    axis: Literal["quality", "operations"], name: str, figure: Figure | None, limit: float | None, *, unit: str
) -> list[KpiRow]:
    """The row, or none where there is neither a limit nor a figure."""
    if figure is None and limit is None:
        return []
    shown = figure or _not_measured(unit)
    return [
        KpiRow(
            axis=axis,
            name=name,
            limit=limit,
            limit_is="at most",
            figure=shown,
            verdict=_at_most(shown, limit),
        )
    ]


def _risk(name: str, figure: Figure | None) -> list[KpiRow]:
    if figure is None:
        return []
    return [KpiRow(axis="risk", name=name, limit=None, limit_is="at most", figure=figure, verdict="NO TARGET")]


def _worst_slice(row: ModelRow) -> Figure | None:
    worst = worst_slice(row.quality.slices)
    if worst is None:
        return None
    where = f"{worst.column} = {worst.value}"
    return worst.drop.model_copy(update={"how": f"{where}; {worst.drop.how}" if worst.drop.how else where})


def worst_slice(slices: Sequence[SliceRow]) -> SliceRow | None:
    """Of the slices that are proven harmed, else of all, the one whose drop has the highest lower end: a slice of three
    rows does not win by luck."""

    def surest(drop: Figure) -> float:
        return next((end for end in (drop.low, drop.value) if end is not None), -math.inf)

    harmed = [part for part in slices if part.harmed]
    return max(harmed or slices, key=lambda part: surest(part.drop), default=None)


def weakest_slice(slices: Sequence[SliceRow]) -> SliceRow | None:
    """The slice whose score is surest to be low, of those large enough to be judged."""
    judged = [part for part in slices if part.harm_p is not None and part.score.high is not None]
    return min(judged, key=lambda part: part.score.high or 0.0, default=None)


def _slice_least(slices: Sequence[SliceRow], least: float | None) -> list[KpiRow]:
    """The weakest slice against the score that each must reach; beside a weak teacher nothing else sees it.

    FAIL where its whole interval lies below, PASS where the interval of every judged slice lies above.
    """
    if least is None:
        return []
    weakest = weakest_slice(slices)
    found: KpiVerdict = "INCONCLUSIVE"
    if weakest is not None and (weakest.score.high or 0.0) < least:
        found = "FAIL"
    elif weakest is not None and all((part.score.low or 0.0) >= least for part in slices if part.harm_p is not None):
        found = "PASS"
    figure = _not_measured("share") if weakest is None else weakest.score
    return [KpiRow(axis="risk", name="slice_least", limit=least, limit_is="at least", figure=figure, verdict=found)]


def _harmed_slices(row: ModelRow, margin: float | None) -> list[KpiRow]:
    """How many slices are harmed; no target where there is no margin, nor where every slice is too small to judge."""
    slices = row.quality.slices
    if not slices:
        return []
    judged = sum(part.harm_p is not None for part in slices)
    harmed = sum(part.harmed for part in slices)
    gates = margin is not None and judged > 0
    return [
        KpiRow(
            axis="risk",
            name="harmed_slices",
            limit=0 if gates else None,
            limit_is="at most",
            figure=Figure(
                value=harmed if judged else None,
                unit="",
                n=judged,
                basis="computed" if judged else "not measured",
                how=f"of {len(slices)} slices, {judged} large enough to be judged; {HARMED}",
            ),
            verdict=("FAIL" if harmed else "PASS") if gates else "NO TARGET",
        )
    ]


def _largest(places: Sequence[TargetRow]) -> Figure | None:
    sizes = [place.size_mb for place in places if place.size_mb.value is not None]
    return max(sizes, key=lambda figure: figure.value or 0.0, default=None)


def _not_measured(unit: str) -> Figure:
    return Figure(value=None, unit=unit, basis="not measured")
