"""Distil: a student model folder and a lesson go in, a taught model folder comes out.

The same function fits the teacher (its own labels, no answers), distils and recovers students (the teacher's answers)
and trains the undistilled controls (labels only), so that all of them differ in what they are told and in nothing else.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from deshi.jobs.session import Machine
from deshi.jobs.stages import train
from deshi.jobs.stages.deepspeed_config import deepspeed_config
from deshi.jobs.stages.lesson import Lesson
from deshi.jobs.storage import Output

Told = Literal["answers", "labels"]


def fit(
    stage: str,
    lesson: Lesson,
    student: Output,
    machine: Machine,
    *,
    told: Told,
    steps: int,
    batch_size: int,
    learning_rate: float,
    splits_key: str | None = None,
) -> Output:
    """Trains `student` for `steps` steps on what it is told and publishes the result as `<stage>-<digest>`.

    `told="answers"` learns from train and unlabelled rows with the recipe's loss; `told="labels"` from the labelled
    rows alone with cross-entropy. A language model's rows all lie in train, and its labels are the text itself.
    `splits_key` replaces the lesson's rows (the teacher may have a file of its own).
    """
    recipe, resources = lesson.recipe, lesson.recipe.resources.train
    distil = recipe.distill
    by_answers = told == "answers"
    asks_online = by_answers and (distil.online_teacher or distil.hidden_weight > 0)
    use_gpu = machine.gpus > 0 if resources.use_gpu == "auto" else resources.use_gpu
    workers = distil.workers
    micro_batch = batch_size // (workers * resources.gradient_accumulation)
    if micro_batch < 1 or batch_size % (workers * resources.gradient_accumulation):
        raise ValueError(
            f"batch_size {batch_size} does not share evenly over {workers} workers x "
            f"{resources.gradient_accumulation} accumulation steps; take a multiple of "
            f"{workers * resources.gradient_accumulation}"
        )
    generates = recipe.task == "generate"
    told_what = {
        "task": recipe.task,
        "student": student.key,
        "splits": splits_key or lesson.splits_key,
        "learn_from": ("train", "unlabelled") if by_answers and not generates else ("train",),
        "rows": None if splits_key else lesson.rows,
        "packing": generates and recipe.data.packing,
        "answers": lesson.answers_key if by_answers and not distil.online_teacher else None,
        "teacher": lesson.teacher_key if asks_online else None,
        "max_length": recipe.data.max_length,
        "loss": distil.loss,
        "alpha": distil.alpha,
        "temperature": distil.temperature,
        "distil_weight": 1.0 if by_answers else 0.0,
        "label_weight": (distil.ce_weight if generates else distil.label_weight) if by_answers else 1.0,
        "hidden_weight": distil.hidden_weight if by_answers else 0.0,
        "steps": steps,
        "micro_batch": micro_batch,
        "accumulation": resources.gradient_accumulation,
        "gradient_checkpointing": resources.gradient_checkpointing,
        "precision": lesson.precision,
        "seed": recipe.seed,
        "use_gpu": use_gpu,
        "deepspeed": deepspeed_config(
            distil.deepspeed,
            micro_batch=micro_batch,
            accumulation=resources.gradient_accumulation,
            steps=steps,
            warmup_steps=round(distil.warmup * steps),
            learning_rate=learning_rate,
            weight_decay=distil.weight_decay,
            precision=lesson.precision,
        ),
    }
    inputs = {**told_what, "workers": workers}
    shares = machine.training_resources(workers, use_gpu=use_gpu, gpus_per_worker=resources.gpus_per_worker)

    def build(out: Path) -> None:
        key = lesson.storage.key(stage, inputs)
        job = train.TrainJob.model_validate(
            {
                **told_what,
                "storage": lesson.storage.uri,
                "work": f".work/{key}",
                "threads": max(1, int(shares["CPU"])),
                "checkpoint_every": distil.checkpoint_every,
            }
        )
        train.run(job, out, workers=workers, resources=shares, max_failures=distil.max_failures, name=key)

    return lesson.storage.stage(stage, inputs, build)
