"""Teach: the recipe's pretrained model becomes the teacher, fine-tuned on the labelled rows or taken as it is.

In: a checked model folder and the rows. Out: a model folder with the run's labels, in sorted order, in its config.
"""

from __future__ import annotations

import math
from pathlib import Path

from deshi.jobs.data.model_folder import check_model_folder, model_digest
from deshi.jobs.session import Machine
from deshi.jobs.stages import distill
from deshi.jobs.stages.lesson import Lesson
from deshi.jobs.stages.prune import copy_tokenizer, load_classifier, write_model
from deshi.jobs.storage import Output


def with_head(lesson: Lesson, model: str, *, layers: tuple[int, ...] | None = None) -> Output:
    """A pretrained model as a classifier of the run's labels; its head is fresh, drawn from the recipe's seed.

    `layers` keeps only those of the pretrained layers (the undistilled control).
    """
    source = check_model_folder(model)
    labels = lesson.splits.labels
    inputs = {"model": model_digest(source), "labels": labels, "seed": lesson.recipe.seed, "layers": layers}

    def build(out: Path) -> None:
        import torch
        from transformers import AutoModelForSequenceClassification

        from deshi.jobs.stages.prune import prune_depth

        torch.manual_seed(lesson.recipe.seed)
        classifier = AutoModelForSequenceClassification.from_pretrained(
            source,
            num_labels=len(labels),
            id2label=dict(enumerate(labels)),
            label2id={label: number for number, label in enumerate(labels)},
            dtype=torch.float32,
            ignore_mismatched_sizes=True,
            use_safetensors=True,
            trust_remote_code=False,
        )
        write_model(prune_depth(classifier, layers) if layers else classifier, out / "model")
        copy_tokenizer(source, out / "model")

    return lesson.storage.stage("pretrained", inputs, build)


def fit(lesson: Lesson, machine: Machine, *, splits_key: str) -> Output:
    """The teacher. `splits_key` holds the labelled rows that it is fine-tuned on."""
    recipe = lesson.recipe
    if not recipe.teacher.finetune:
        return as_it_is(lesson)
    rows = lesson.splits.table("train").num_rows
    batch = recipe.teacher.batch_size
    steps = recipe.teacher.steps or math.ceil((recipe.teacher.epochs or 3) * rows / batch)
    return distill.fit(
        "teacher",
        lesson,
        with_head(lesson, recipe.teacher.model),
        machine,
        told="labels",
        steps=steps,
        batch_size=batch,
        learning_rate=recipe.teacher.learning_rate,
        splits_key=splits_key,
    )


def as_it_is(lesson: Lesson) -> Output:
    """A finished classifier as teacher.

    Raises:
        ValueError: if its labels are not those of the rows.
    """
    return finished("teacher", lesson, lesson.recipe.teacher.model)


def finished(stage: str, lesson: Lesson, model: str) -> Output:
    """A classifier of the run's labels that others made, read whole and written by us.

    Raises:
        ValueError: if its labels are not those of the rows.
    """
    source = check_model_folder(model)
    labels = lesson.splits.labels

    def build(out: Path) -> None:
        classifier = load_classifier(source)
        own = tuple(classifier.config.id2label[number] for number in range(classifier.config.num_labels))
        if own != labels:
            way_out = "set teacher.finetune: true or " if stage == "teacher" else ""
            raise ValueError(
                f"the labels {own[:5]} of {model} are not the rows' labels {labels[:5]}; {way_out}"
                f"name the labels in its config.json (id2label) as the rows do, sorted"
            )
        write_model(classifier, out / "model")
        copy_tokenizer(source, out / "model")

    return lesson.storage.stage(stage, {"model": model_digest(source), "labels": labels}, build)
