"""Builds: a model folder goes in; the folder that can be served comes out, with one engine build a scheme and engine.

The output has the layout of a release (`model/`, `engines/<build>/`), so that what is measured is what will be served.
Files of finished outputs never change, so on a local disk the model is linked, not copied.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from deshi.jobs.exporters import table
from deshi.jobs.stages.lesson import Lesson
from deshi.jobs.storage import Output
from deshi.serve.engines.engine import EngineKind
from deshi.serve.engines.generation import GenerationKind
from deshi.serve.serving import ENGINES_FOLDER, MODEL_FOLDER


def export(lesson: Lesson, model: Output, builds: Sequence[str]) -> Output:
    """`model/` and the engine builds of these ids."""
    inputs = {"model": model.key, "builds": sorted(builds), "splits": lesson.splits_key}

    def build(out: Path) -> None:
        calibration = lesson.splits.table("calibration")["text"].to_pylist()
        shutil.copytree(model.path / MODEL_FOLDER, out / MODEL_FOLDER, copy_function=link_or_copy)
        for name in sorted(builds):
            table.export(name, out, calibration=calibration, max_length=lesson.recipe.data.max_length)

    return lesson.storage.stage("served", inputs, build)


def runnable(
    engines: Literal["auto"] | Sequence[str], kinds: Mapping[str, EngineKind] | Mapping[str, GenerationKind]
) -> tuple[str, ...]:
    """Builds that can be exported and run here, of the engines that the recipe allows; `kinds` are the task's.

    Raises:
        ValueError: if an engine is unknown, or none can run here.
    """
    found = table.exportable(engines, kinds=kinds)
    if not found:
        missing = {name: kind.missing() for name, kind in kinds.items() if engines == "auto" or name in engines}
        reasons = "; ".join(f"{name}: {why or 'no build of it can be made'}" for name, why in missing.items())
        raise ValueError(f"no engine of search.engines runs on this machine ({reasons}); see `deshi platforms`")
    return found


def size_mb(folder: Path, builds: Sequence[str]) -> float:
    """Megabytes (10^6 bytes) a target must hold: builds, tokenizer, and the model where a build reads it."""
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
