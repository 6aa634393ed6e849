"""A model in the final comparison: built for every target and felt through its endpoint."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from deshi.jobs import finalist as building
from deshi.jobs.data.model_folder import describe
from deshi.jobs.evidence.felt.endpoint import Felt
from deshi.jobs.finalist import Finalist
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
    felt_at = {}
    for target in recipe.targets if measured else ():
        if target.threads <= cores:
            felt_at[target.name] = _felt(lesson, made, target)
    return Contender(id=id, candidate=candidate, finalist=made, felt=felt_at)


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
