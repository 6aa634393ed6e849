"""Teach, for language models: the recipe's model is the teacher as it is, or is fine-tuned on the text first.

In: a checked model folder. Out: a model folder in fp32, with the tokenizer, its chat template and the generation
config. Fine-tuning is the training loop with cross-entropy on the text alone.
"""

from __future__ import annotations

import math
from pathlib import Path

from deshi.jobs.data.model_folder import check_model_folder, model_digest
from deshi.jobs.session import Machine
from deshi.jobs.stages import distill
from deshi.jobs.stages.lesson import Lesson
from deshi.jobs.stages.sequence_batches import packed_rows
from deshi.jobs.storage import Output


def pretrained(lesson: Lesson, model: str) -> Output:
    """A causal language model, every weight as it came, in fp32."""
    return _taken(lesson, model, "pretrained")


def fit(lesson: Lesson, machine: Machine, splits_key: str) -> Output:
    """The teacher. `splits_key` holds the rows that it is fine-tuned on, if it is."""
    recipe = lesson.recipe
    if not recipe.teacher.finetune:
        return _taken(lesson, recipe.teacher.model, "teacher")
    start = pretrained(lesson, recipe.teacher.model)
    steps = recipe.teacher.steps
    if steps is None:
        most = recipe.data.max_length
        sequences = lesson.sequence_splits.sequences("train", start.path / "model", max_length=most)
        rows = len(packed_rows(sequences, max_length=most, packing=recipe.data.packing, seed=recipe.seed))
        steps = math.ceil((recipe.teacher.epochs or 1) * rows / recipe.teacher.batch_size)
    return distill.fit(
        "teacher",
        lesson,
        start,
        machine,
        told="labels",
        steps=steps,
        batch_size=recipe.teacher.batch_size,
        learning_rate=recipe.teacher.learning_rate,
        splits_key=splits_key,
    )


def _taken(lesson: Lesson, model: str, stage: str) -> Output:
    source = check_model_folder(model)

    def build(out: Path) -> None:
        from deshi.jobs.stages.prune import copy_tokenizer, write_model
        from deshi.jobs.stages.prune_lm import copy_generation_config, load_language_model

        write_model(load_language_model(source), out / "model")
        copy_tokenizer(source, out / "model")
        copy_generation_config(source, out / "model")

    return lesson.storage.stage(stage, {"model": model_digest(source)}, build)
