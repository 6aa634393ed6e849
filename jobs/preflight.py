"""Before any work: everything in a recipe that can be refused is refused here, in one sentence each.

Then the rows are split, which is where bad data is refused, still before a worker is started or a model trained.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from deshi.jobs.data.model_folder import check_model_folder
from deshi.jobs.data.rows import read_bytes
from deshi.jobs.data.split import make_splits
from deshi.jobs.evidence.scores import SCORES
from deshi.jobs.recipe import Data, Recipe
from deshi.jobs.session import refuse_unreadable
from deshi.jobs.stages.architectures import ARCHITECTURES
from deshi.jobs.stages.builds import runnable
from deshi.jobs.stages.deepspeed_config import deepspeed_config
from deshi.jobs.stages.losses import LOSSES
from deshi.jobs.stages.orders import named
from deshi.jobs.storage import Output, Storage


def refuse(recipe: Recipe, storage: Storage) -> None:
    """Raises ValueError for what this recipe may not ask of this machine."""
    refuse_unreadable(recipe)
    for key, value, table in (
        ("distill.loss", recipe.distill.loss, LOSSES),
        ("kpi.quality.score", recipe.kpi.quality.score, SCORES),
    ):
        if value not in table:
            raise ValueError(f"{key} = {value!r} is no row of its table; use one of {', '.join(table)}")
    named(recipe.search.orders)
    runnable(recipe.search.engines)
    share = recipe.distill.workers * recipe.resources.train.gradient_accumulation
    for key, rows in (("distill", recipe.distill.batch_size), ("teacher", recipe.teacher.batch_size)):
        if rows % share:
            raise ValueError(
                f"{key}.batch_size = {rows} does not share evenly over {recipe.distill.workers} workers x "
                f"{recipe.resources.train.gradient_accumulation} accumulation steps; take a multiple of {share}"
            )
    deepspeed_config(
        recipe.distill.deepspeed,
        micro_batch=recipe.distill.batch_size // share,
        accumulation=recipe.resources.train.gradient_accumulation,
        steps=recipe.distill.steps,
        warmup_steps=0,
        learning_rate=recipe.distill.learning_rate,
        weight_decay=recipe.distill.weight_decay,
        precision="fp32",
    )
    if recipe.teacher.train is not None and recipe.data.validation is None:
        raise ValueError(
            "teacher.train is given and data.validation is not: the teacher's rows could hold validation rows; give "
            "data.validation a file of its own"
        )
    refuse_too_long(recipe, check_model_folder(recipe.teacher.model))
    if recipe.student.model is not None:
        check_model_folder(recipe.student.model)
    storage.refuse_unwritable()


def refuse_too_long(recipe: Recipe, model: Path) -> None:
    """Raises ValueError if texts may be longer than the teacher has positions, or its family cannot be pruned."""
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    if config["model_type"] not in ARCHITECTURES:
        raise ValueError(
            f"teacher.model has model_type {config['model_type']!r}, which has no row in the table of architectures; "
            f"use one of {', '.join(ARCHITECTURES)}"
        )
    row = ARCHITECTURES[config["model_type"]]
    positions = config.get("max_position_embeddings")
    if positions is None:
        return
    most = positions - (config.get("pad_token_id", 1) + 1 if row.positions_count_from_padding else 0)
    if recipe.data.max_length > most:
        raise ValueError(
            f"data.max_length = {recipe.data.max_length} is more than the {most} positions of the teacher; write {most}"
        )


def split(recipe: Recipe, storage: Storage, data: Data | None = None) -> Output:
    """The splits as a finished output; keyed by the files' bytes, not by their names."""
    data = data or recipe.data
    files = {
        key: hashlib.sha256(read_bytes(path)).hexdigest()
        for key in ("train", "validation", "test")
        if (path := getattr(data, key))
    }
    inputs = {
        "files": files,
        "columns": [data.text, data.label, *data.slices],
        "max_length": data.max_length,
        "seed": recipe.seed,
    }

    def build(out: Path) -> None:
        make_splits(data, seed=recipe.seed).write(out)

    return storage.stage("splits", inputs, build)


def teacher_rows(recipe: Recipe, storage: Storage) -> Output:
    """The rows the teacher is fine-tuned on: the run's own, or those of `teacher.train` split by the same rules."""
    if recipe.teacher.train is None:
        return split(recipe, storage)
    return split(recipe, storage, recipe.data.model_copy(update={"train": recipe.teacher.train}))
