"""Finalists: from a line of the ledger to a folder that could be released, with its engine chosen per target and shape.

Every build that has a chance is timed at all shape classes and at the threads of each target, interleaved with the
teacher. The fewest builds within 2% of the best are kept, and only those are in the folder. Time chooses; whether a
build fits a target's memory is seen when it serves there, and one that does not is left out (`contender.py`).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from deshi.jobs.evidence.felt.latency import LatencyRow, choose_builds
from deshi.jobs.stages import builds
from deshi.jobs.stages.lesson import Lesson
from deshi.jobs.storage import Output
from deshi.jobs.task import task_of
from deshi.serve.kpi import Target
from deshi.serve.serving import SERVING_FILE, ServedTarget, Serving


@dataclass(frozen=True, kw_only=True)
class Finalist:
    """A served folder (`folder.path` holds serving.json too) and the latency rows of each target."""

    id: str
    model: Output
    folder: Output
    latency: dict[str, list[LatencyRow]]

    @property
    def serving(self) -> Serving:
        """What the ingress will answer with."""
        return Serving.read(self.folder.path)


def local_threads(target: Target) -> int:
    """Threads this target gets here; a target with more than this machine has is projected from all of it."""
    return min(target.threads, os.cpu_count() or 1)


def finalist(
    id: str,
    lesson: Lesson,
    model: Output,
    names: tuple[str, ...],
    yardstick: Output,
    *,
    without: Mapping[str, Set[str]] = MappingProxyType({}),
) -> Finalist:
    """Chooses engines per target and lays out the folder; `without` names builds that a target may not have."""
    tried, task = builds.export(lesson, model, names), task_of(lesson.recipe)
    latency = {
        target.name: task.latency(lesson, tried, yardstick, builds=names, threads=local_threads(target))
        for target in lesson.recipe.targets
    }
    targets = {
        target.name: ServedTarget(
            threads=target.threads,
            slots=target.slots,
            builds=choose_builds(
                [row for row in latency[target.name] if row.engine in set(names) - without.get(target.name, set())]
            ),
        )
        for target in lesson.recipe.targets
    }
    kept = sorted({build for target in targets.values() for build in target.build_ids})
    inputs = {
        "served": tried.key,
        "targets": {name: target.model_dump() for name, target in targets.items()},
        "name": lesson.recipe.name,
    }

    def build(out: Path) -> None:
        shutil.copytree(tried.path / "model", out / "model", copy_function=builds.link_or_copy)
        for name in kept:
            shutil.copytree(tried.path / "engines" / name, out / "engines" / name, copy_function=builds.link_or_copy)
        task.serving(lesson, out, targets).write(out)

    folder = lesson.storage.stage("finalist", inputs, build)
    assert (folder.path / SERVING_FILE).is_file()
    return Finalist(id=id, model=model, folder=folder, latency=latency)
