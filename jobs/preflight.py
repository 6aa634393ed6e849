"""Before any work: everything in a recipe that can be refused is refused here, in one sentence each.

Then the rows are split, which is where bad data is refused, still before a worker is started or a model trained.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from deshi.jobs.data.rows import read_bytes
from deshi.jobs.data.split import Splits
from deshi.jobs.evidence.risk import error_cost
from deshi.jobs.recipe import Data, Recipe
from deshi.jobs.session import refuse_unreadable
from deshi.jobs.stages.deepspeed_config import deepspeed_config
from deshi.jobs.stages.losses import LOSSES
from deshi.jobs.stages.orders import named
from deshi.jobs.storage import Output, Storage
from deshi.jobs.task import task_of


def refuse(recipe: Recipe, storage: Storage) -> None:
    """Raises ValueError for what this recipe may not ask of this machine."""
    refuse_unreadable(recipe)
    refuse_unknown("distill.loss", recipe.distill.loss, LOSSES)
    named(recipe.search.orders)
    task_of(recipe).runnable(recipe)
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
    task_of(recipe).refuse(recipe)
    storage.refuse_unwritable()


def refuse_unknown(key: str, value: str, table: Iterable[str]) -> None:
    """Raises ValueError if a name in the recipe is no row of its table."""
    if value not in table:
        raise ValueError(f"{key} = {value!r} is no row of its table; use one of {', '.join(table)}")


def split(recipe: Recipe, storage: Storage, data: Data | None = None) -> Output:
    """The splits as a finished output; keyed by the files' bytes, not by their names."""
    data = data or recipe.data
    files = {
        key: hashlib.sha256(read_bytes(path)).hexdigest()
        for key in ("train", "validation", "test", "forget")
        if (path := getattr(data, key))
    }
    inputs = {
        "files": files,
        "reads": data.model_dump(include={"text", "label", "slices", "max_length", "format", "column"}),
        "loss_on": data.learned,
        "seed": recipe.seed,
    }

    def build(out: Path) -> None:
        task_of(recipe).make_splits(data, recipe.seed).write(out)

    return storage.stage("splits", inputs, build)


def refuse_unpriced(recipe: Recipe, rows: Output) -> None:
    """Raises ValueError if `business.error_cost` does not price every error that the rows' labels allow."""
    if isinstance(recipe.business.error_cost, dict):
        error_cost.refuse_unpriced(recipe.business.error_cost, Splits.read(rows.path).labels)


def teacher_rows(recipe: Recipe, storage: Storage) -> Output:
    """The rows the teacher is fine-tuned on: the run's own, or those of `teacher.train` split by the same rules."""
    if recipe.teacher.train is None:
        return split(recipe, storage)
    return split(recipe, storage, recipe.data.model_copy(update={"train": recipe.teacher.train}))
