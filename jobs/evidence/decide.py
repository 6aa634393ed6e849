"""Which finalist is chosen, by validation alone: feasible by the recipe's KPIs, then cheapest.

Choosing goes by point estimates, since validation may be spent freely; the verdict on the chosen one (`verdict.py`)
goes by intervals on the test rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from deshi.jobs.evidence.business import money
from deshi.jobs.evidence.kpis import MEASURES, memory_limit
from deshi.serve.kpi import Kpi, Target
from deshi.serve.statistics import Interval


@dataclass(frozen=True, kw_only=True)
class FinalistTarget:
    """One finalist on one target. None is not measured; for `rps`, that no rate keeps the latency limit.

    A throughput of unknown noise has equal ends.
    """

    target: str
    latency_ms_p95: float | None
    size_mb: float
    memory_mb: float | None
    rps: Interval | None
    first_token_ms_p95: float | None = None
    per_token_ms_p95: float | None = None


@dataclass(frozen=True, kw_only=True)
class Finalist:
    """What choosing needs: the drop on the validation rows, and what was measured on each target.

    `measures` are other figures of quality that the KPIs may bound, by their names there.
    `latency_ms_p95` is as felt (engine, queue, HTTP and network), `rps` what one machine answers within the
    limit.
    """

    digest: str
    drop: Interval
    targets: tuple[FinalistTarget, ...]
    measures: Mapping[str, Interval] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The chosen finalist; not `feasible` means that it is only the nearest one, with what it violates."""

    finalist: Finalist
    feasible: bool
    violations: Mapping[str, float]
    tied: tuple[str, ...]


def choose(
    finalists: Sequence[Finalist],
    kpi: Kpi,
    targets: Sequence[Target],
    *,
    margin: float | None,
    peak_rps: float,
    requests_per_month: float,
) -> Choice:
    """The cheapest finalist that meets every KPI by its point estimates; if none does, the nearest.

    Cost is the price of an hour of all machines that the peak needs, whole ones, summed over the targets. A
    finalist ties with the cheapest if the noise of its throughput allows it to cost no more: its cost at the
    upper end of `rps` is at most the cheapest one's cost at the lower end of its. Ties go, in this order, to
    those whose quality validation already proves (interval below the limit; if it proves none, to the one
    nearest to it), to the smaller model, to the lower digest, so that the same figures always give the same
    choice. `margin` is the most that the score may drop, None where that has no limit.

    The nearest has the fewest figures missing, then the least sum of violations, each as a share of its limit
    and rounded to three digits, then the lower digest.
    """
    if not finalists:
        raise ValueError("there are 0 finalists to choose from; let the search run longer or try more trials")
    broken = {
        finalist.digest: violations(
            finalist, kpi, targets, margin=margin, peak_rps=peak_rps, requests_per_month=requests_per_month
        )
        for finalist in finalists
    }
    feasible = [finalist for finalist in finalists if not broken[finalist.digest]]
    if not feasible:
        nearest = min(finalists, key=lambda finalist: _distance(finalist.digest, broken[finalist.digest]))
        return Choice(finalist=nearest, feasible=False, violations=broken[nearest.digest], tied=())

    def cost(finalist: Finalist, end: Callable[[Interval], float]) -> float:
        return cost_per_hour(finalist, targets, peak_rps=peak_rps, end=end)

    cheapest = min(feasible, key=lambda finalist: (cost(finalist, lambda rps: rps.value), finalist.digest))
    limit = cost(cheapest, lambda rps: rps.low)
    tied = [finalist for finalist in feasible if cost(finalist, lambda rps: rps.high) <= limit]
    proven = [
        finalist
        for finalist in tied
        if (margin is None or finalist.drop.high < margin)
        and all(bounded.high <= limit for bounded, limit in _bounded(finalist, kpi))
    ]
    best = (
        min(proven, key=lambda finalist: (_size_mb(finalist), finalist.digest))
        if proven
        else min(tied, key=lambda finalist: (finalist.drop.high, _size_mb(finalist), finalist.digest))
    )
    others = tuple(sorted(finalist.digest for finalist in tied if finalist.digest != best.digest))
    return Choice(finalist=best, feasible=True, violations={}, tied=others)


def cost_per_hour(
    finalist: Finalist,
    targets: Sequence[Target],
    *,
    peak_rps: float,
    end: Callable[[Interval], float] = lambda rps: rps.value,
) -> float:
    """Price of an hour of all machines that the peak needs; infinite where no rate keeps the latency limit.

    `end` picks the value, the lower or the upper end of the throughput.
    """
    total = 0.0
    for target in targets:
        rps = _on(finalist, target.name).rps
        if rps is None or end(rps) <= 0:
            return math.inf
        one = end(rps)
        total += target.price_per_hour * (1 if math.isinf(one) else money.machines(peak_rps, one))
    return total


def violations(
    finalist: Finalist,
    kpi: Kpi,
    targets: Sequence[Target],
    *,
    margin: float | None,
    peak_rps: float,
    requests_per_month: float,
) -> dict[str, float]:
    """Each missed KPI -> by which share of its limit; infinite where its figure is missing."""
    found: dict[str, tuple[float | None, float | None]] = {
        "drop": (finalist.drop.value, margin),
        "size_mb": (_size_mb(finalist), kpi.size_mb),
    }
    for name in MEASURES:
        measured = finalist.measures.get(name)
        found[name] = (None if measured is None else measured.value, getattr(kpi.quality, name))
    for target in targets:
        here = _on(finalist, target.name)
        found[f"latency_ms_p95.{target.name}"] = (here.latency_ms_p95, kpi.latency_ms_p95.get(target.name))
        found[f"first_token_p95.{target.name}"] = (here.first_token_ms_p95, kpi.latency_ms.first_token_p95)
        found[f"per_token_p95.{target.name}"] = (here.per_token_ms_p95, kpi.latency_ms.per_token_p95)
        found[f"memory_mb.{target.name}"] = (here.memory_mb, memory_limit(kpi, target))
        cost = None
        if here.rps is not None and here.rps.value > 0:
            needed = money.machines(peak_rps, here.rps.value)
            cost = money.cost_per_1000(needed, target.price_per_hour, requests_per_month)
        found[f"cost_per_1000.{target.name}"] = (cost, kpi.cost_per_1000.get(target.name))
    missed = {
        name: math.inf if value is None else value / limit - 1
        for name, (value, limit) in found.items()
        if limit is not None
    }
    return {name: by for name, by in missed.items() if by > 0}


def _distance(digest: str, missed: Mapping[str, float]) -> tuple[int, float, str]:
    finite = [by for by in missed.values() if math.isfinite(by)]
    return len(missed) - len(finite), round(sum(finite), 3), digest


def _bounded(finalist: Finalist, kpi: Kpi) -> list[tuple[Interval, float]]:
    """The other figures of quality that have a limit, each with it."""
    limits = {name: getattr(kpi.quality, name) for name in finalist.measures}
    return [(finalist.measures[name], limit) for name, limit in limits.items() if limit is not None]


def _size_mb(finalist: Finalist) -> float:
    return max(place.size_mb for place in finalist.targets)


def _on(finalist: Finalist, target: str) -> FinalistTarget:
    place = next((place for place in finalist.targets if place.target == target), None)
    if place is None:
        raise ValueError(f"finalist {finalist.digest} has no figures for target {target!r}; measure it there first")
    return place
