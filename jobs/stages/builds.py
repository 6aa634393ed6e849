"""Builds: a model folder goes in; the folder that can be served comes out, with one engine build a scheme and engine.

The output has the layout of a release (`model/`, `engines/<build>/`), so that what is measured is what will be served.
Files of finished outputs never change, so on a local disk the model is linked, not copied.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from deshi.jobs.exporters.table import EXPORTERS
from deshi.jobs.stages.lesson import Lesson
from deshi.jobs.storage import Output
from deshi.serve.engines.engine import engine_of
from deshi.serve.engines.table import ENGINES
from deshi.serve.serving import ENGINES_FOLDER, MODEL_FOLDER


def export(lesson: Lesson, model: Output, builds: Sequence[str]) -> Output:
    """`model/` and the engine builds of these ids."""
    inputs = {"model": model.key, "builds": sorted(builds), "splits": lesson.splits_key}

    def build(out: Path) -> None:
        calibration = lesson.splits.table("calibration")["text"].to_pylist()
        shutil.copytree(model.path / MODEL_FOLDER, out / MODEL_FOLDER, copy_function=link_or_copy)
        for name in sorted(builds):
            EXPORTERS[name](
                out / MODEL_FOLDER, out / ENGINES_FOLDER / name, calibration, max_length=lesson.recipe.data.max_length
            )

    return lesson.storage.stage("served", inputs, build)


def runnable(engines: Sequence[str] | str) -> tuple[str, ...]:
    """Builds that can be exported and run here, of the engines that the recipe allows.

    Raises:
        ValueError: if an engine is unknown, or none can run here.
    """
    allowed = tuple(ENGINES) if engines == "auto" or isinstance(engines, str) else tuple(engines)
    for name in allowed:
        if name not in ENGINES:
            raise ValueError(f"search.engines names {name!r}, which is no engine; use {', '.join(ENGINES)}")
    missing = {name: ENGINES[name].missing() for name in allowed}
    builds = tuple(build for build in EXPORTERS if engine_of(build) in allowed and missing[engine_of(build)] is None)
    if not builds:
        reasons = "; ".join(f"{name}: {why}" for name, why in missing.items())
        raise ValueError(f"no engine of search.engines runs on this cluster ({reasons}); see `deshi platforms`")
    return builds


def size_mb(folder: Path, builds: Sequence[str]) -> float:
    """Megabytes (10^6 bytes) that a target must hold: the builds, the tokenizer, and the model where a build reads it."""
    files = {path for build in builds for path in (folder / ENGINES_FOLDER / build).rglob("*") if path.is_file()}
    reads_model = any(not any((folder / ENGINES_FOLDER / build).glob("model.*")) for build in builds)
    files |= set((folder / MODEL_FOLDER).iterdir()) if reads_model else {folder / MODEL_FOLDER / "tokenizer.json"}
    return sum(path.stat().st_size for path in files) / 1e6


def link_or_copy(source: str, target: str) -> str:
    """A hard link where the disk allows it, else a copy."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
    return target
