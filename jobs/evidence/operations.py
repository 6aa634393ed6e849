"""What a model takes on a target: latency, throughput, memory, size, machines and money, with where each comes from.

A target that this machine can be is measured; one with more threads is projected from the nearest that was, and its
figures say so.
"""

from __future__ import annotations

import os

from deshi.jobs.business import Business
from deshi.jobs.contender import Contender
from deshi.jobs.evidence.business import money
from deshi.jobs.evidence.felt.endpoint import Felt
from deshi.jobs.evidence.felt.latency import LatencyRow
from deshi.jobs.evidence.figure import Basis, Figure
from deshi.jobs.evidence.schema import LatencyParts, TargetRow, Timing
from deshi.jobs.recipe import Recipe
from deshi.jobs.stages.builds import size_mb
from deshi.jobs.stages.lesson import Lesson
from deshi.jobs.task import task_of
from deshi.serve.kpi import Target


def target_row(lesson: Lesson, each: Contender, target: Target) -> TargetRow:
    """One model on one target: measured here, or projected from the target of this machine that is nearest to it."""
    recipe, cores = lesson.recipe, os.cpu_count() or 1
    served = each.finalist.serving.targets[target.name]
    here = target.threads <= cores
    basis: Basis = "measured" if here else "projected"
    how = f"{min(target.threads, cores)} threads, interleaved with the teacher's {task_of(recipe).yardstick} build"
    if not here:
        how += f"; this machine has {cores} cores, {target.threads} threads are assumed to be no slower"
    task = task_of(recipe)
    build = served.builds[task.one_request]
    row = next(
        row for row in each.finalist.latency[target.name] if (row.engine, row.shape) == (build, task.one_request)
    )
    rate, latency = felt_at(recipe, each, target, here=here)
    felt = each.felt.get(target.name)

    def timed(row: LatencyRow, what: str) -> dict[str, Figure]:
        ratio, ends = row.ratio_to_reference, (row.ratio_low, row.ratio_high)
        return {
            "ms": Figure(
                value=row.median_ms, unit="ms", n=row.n, low=row.low, high=row.high, basis=basis, how=f"{what}, {how}"
            ),
            "ratio": Figure(value=ratio, unit="ratio", n=row.n, low=ends[0], high=ends[1], basis=basis, how=how),
        }

    one_request = timed(row, task.one_request_is)

    return TargetRow(
        target=target.name,
        build=build,
        builds=served.builds,
        tried=tuple(
            Timing(
                build=row.engine,
                shape=row.shape,
                taken=served.builds.get(row.shape) == row.engine,
                **timed(row, task.one_request_is if row.shape == task.one_request else row.shape),
            )
            for row in each.finalist.latency[target.name]
            if row.engine != "teacher"
        ),
        engine_ms=one_request["ms"],
        ratio_to_teacher=one_request["ratio"],
        latency=latency,
        throughput_rps=rate,
        memory_mb=felt.memory_mb if felt else None,
        startup_s=felt.startup_s if felt else None,
        energy_j=felt.energy_j if felt else None,
        size_mb=Figure(
            value=size_mb(each.finalist.folder.path, served.build_ids),
            unit="MB",
            how="engine builds, tokenizer, and the model where a build reads it",
        ),
        **(costs(recipe.business, target, rate.value, here=here) if rate and rate.value else {}),
    )


def felt_at(
    recipe: Recipe, each: Contender, target: Target, *, here: bool
) -> tuple[Figure | None, LatencyParts | None]:
    """Throughput and latency through the endpoint: measured on the target, else projected, else unknown."""
    if felt := each.felt.get(target.name):
        return felt.throughput_rps, felt.latency
    if here or not each.felt:
        return None, None
    threads = {target.name: target.threads for target in recipe.targets}
    nearest = max(each.felt, key=lambda name: threads[name])
    return projected(each.felt[nearest], nearest, target)


def costs(business: Business, target: Target, rps: float, *, here: bool) -> dict[str, Figure]:
    """Machines and money at a throughput, as fields of a `TargetRow`."""
    needed = money.machines(business.peak_rps, rps)

    def paid(value: float, how: str) -> Figure:
        return Figure(value=value, unit=business.currency, basis="computed" if here else "projected", how=how)

    return {
        "machines": Figure(value=needed, unit="machines", basis="computed", how="ceil(peak_rps / rate in the limit)"),
        "cost_per_1000": paid(
            money.cost_per_1000(needed, target.price_per_hour, business.requests_per_month),
            "machines x price_per_hour x 730 h / requests_per_month x 1,000",
        ),
        "cost_per_1000_full_use": paid(
            money.cost_per_1000_full_use(target.price_per_hour, rps), "lower bound: one machine that is never idle"
        ),
    }


def projected(felt: Felt, measured_on: str, target: Target) -> tuple[Figure, LatencyParts]:
    """Throughput and latency of a target that this machine cannot be: those of `measured_on`, with its own network."""

    def moved(figure: Figure, by: float) -> Figure:
        ends = [end if end is None else end + by for end in (figure.value, figure.low, figure.high)]
        how = f"as measured on {measured_on!r}, assuming that {target.threads} threads are no slower; {figure.how}"
        return figure.model_copy(
            update={"value": ends[0], "low": ends[1], "high": ends[2], "basis": "projected", "how": how}
        )

    parts = felt.latency
    first = parts.first_token_p95
    by = target.rtt_ms - (parts.network.value or 0.0)
    return moved(felt.throughput_rps, 0.0), LatencyParts(
        p50=moved(parts.p50, by),
        p95=moved(parts.p95, by),
        p99=parts.p99 and moved(parts.p99, by),
        engine_p95=moved(parts.engine_p95, 0.0),
        queue_p95=moved(parts.queue_p95, 0.0),
        http_p95=moved(parts.http_p95, 0.0),
        network=parts.network.model_copy(update={"value": target.rtt_ms}),
        first_token_p95=first and moved(first, by),
        per_token_p95=parts.per_token_p95 and moved(parts.per_token_p95, 0.0),
        tokens_per_second=parts.tokens_per_second and moved(parts.tokens_per_second, 0.0),
    )
