"""A model in the final comparison: built for every target and felt through its endpoint."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from deshi.jobs import finalist as building
from deshi.jobs.data.model_folder import describe
from deshi.jobs.evidence.felt.endpoint import Felt
from deshi.jobs.evidence.kpis import memory_limit
from deshi.jobs.finalist import Finalist
from deshi.jobs.recipe import Recipe
from deshi.jobs.session import describe_machine
from deshi.jobs.stages.candidate import Candidate
from deshi.jobs.stages.lesson import Lesson
from deshi.jobs.storage import Output
from deshi.jobs.task import task_of
from deshi.jobs.trial import Bench
from deshi.serve.kpi import Target


@dataclass(frozen=True, kw_only=True)
class Contender:
    """A model in the final comparison: who it is, its folder, and what was felt through its endpoint by target."""

    id: str
    candidate: Candidate
    finalist: Finalist
    felt: dict[str, Felt]


def contender(
    id: str,
    candidate: Candidate,
    lesson: Lesson,
    bench: Bench,
    model: Output,
    *,
    measured: bool,
    builds: Sequence[str] | None = None,
) -> Contender:
    """Builds a model for every target; `measured` runs its endpoint on the targets that this machine can be.

    `builds` are tried where they are given, else those that the bench has for the candidate's scheme.
    """
    recipe, cores = lesson.recipe, os.cpu_count() or 1
    names = tuple(builds or bench.builds_of(candidate))
    yardstick = Output(key=bench.yardstick_key, storage=lesson.storage)
    made = building.finalist(id, lesson, model, names, yardstick)
    here = [target for target in recipe.targets if target.threads <= cores] if measured else []
    felt_at = {target.name: _felt(lesson, made, target) for target in here}
    # The fastest build may be too large for a target where another one fits.
    large = {
        target.name: frozenset(made.serving.targets[target.name].build_ids)
        for target in here
        if not _fits(recipe, target, felt_at[target.name])
    }
    large = {name: builds for name, builds in large.items() if builds < set(names)}
    if large:
        other = building.finalist(id, lesson, model, names, yardstick, without=large)
        again = felt_at | {target.name: _felt(lesson, other, target) for target in here if target.name in large}
        if all(_fits(recipe, target, again[target.name]) for target in here if target.name in large):
            made, felt_at = other, again
    return Contender(id=id, candidate=candidate, finalist=made, felt=felt_at)


def _fits(recipe: Recipe, target: Target, felt: Felt) -> bool:
    limit = memory_limit(recipe.kpi, target)
    return limit is None or felt.memory_mb.value is None or felt.memory_mb.value <= limit


def _felt(lesson: Lesson, made: Finalist, target: Target) -> Felt:
    """Measured once per folder and target; kept like every other finished output."""
    recipe = lesson.recipe
    inputs = {
        "folder": made.folder.key,
        "target": target.model_dump(),
        "peak_rps": recipe.business.peak_rps,
        "limits": [recipe.kpi.latency_ms_p95.get(target.name), recipe.kpi.latency_ms.model_dump()],
        "seconds": recipe.resources.load_seconds,
        "cpu": describe_machine()["cpu"],
    }

    def build(out: Path) -> None:
        result = task_of(recipe).felt(lesson, made, target)
        (out / "felt.json").write_text(result.model_dump_json(), encoding="utf-8")

    return Felt.model_validate_json((lesson.storage.stage("felt", inputs, build).path / "felt.json").read_text())


def teacher_contender(lesson: Lesson, bench: Bench) -> Contender:
    """The teacher in full precision on its best engine: what the company would run without Deshi's work."""
    candidate = Candidate(order="quantize-only", layers=describe(lesson.teacher).layers, scheme=bench.finest)
    model = Output(key=lesson.teacher_key, storage=lesson.storage)
    return contender("teacher", candidate, lesson, bench, model, measured=True)
