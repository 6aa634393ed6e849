"""A candidate's chain, stage by stage: model folders in, a model folder out, each step a cached output.

The student starts as some layers of its parent (the teacher, the pretrained encoder, or a model of its own); `distill`
and `recover` train it, `prune` cuts its width, `quantize` marks where the integers come: the engine's exporter makes
them from the last full-precision folder. Chains that share a beginning share its output. How layers and width are cut
is the task's: `cut_classifier.py`, `cut_language_model.py`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from deshi.jobs.data.model_folder import describe
from deshi.jobs.session import Machine
from deshi.jobs.stages import distill
from deshi.jobs.stages.candidate import Candidate
from deshi.jobs.stages.lesson import Lesson
from deshi.jobs.stages.orders import training_steps
from deshi.jobs.storage import Output
from deshi.jobs.task import task_of


def make(candidate: Candidate, lesson: Lesson, machine: Machine) -> Output:
    """The candidate's model folder, before any engine's integers."""
    return steps_of(candidate, lesson, machine)[-1][1]


def steps_of(candidate: Candidate, lesson: Lesson, machine: Machine) -> list[tuple[str, Output]]:
    """Every stage of the chain with its output, the start first."""
    if candidate.family == "static":
        return [("static", static_student(lesson, told=candidate.told))]
    budget = training_steps(candidate.chain, candidate.steps) if candidate.steps else {}
    current, task = parent(candidate, lesson), task_of(lesson.recipe)
    made = [("parent", current)]
    stops = task.on_the_way(candidate, lesson) if budget else ()
    if stops:  # what is cut by more than half at once does not come back
        first = min(budget)
        share = budget[first] // (len(stops) + 1)
        budget[first] -= share * len(stops)
        for stop in stops:
            current = _trained("recover", candidate, lesson, task.cut_to(current, stop, lesson), machine, share)
            made.append(("recover", current))
    if shallower := candidate.layers < describe(current.path / "model").layers:
        current = task.cut_depth(current, candidate, lesson)
        made.append(("depth", current))
    quantized: Output | None = None
    for place, stage in enumerate(candidate.chain):
        if stage in ("distill", "recover") and place in budget:
            name = "distil" if stage == "distill" else "recover"
            current = _trained(name, candidate, lesson, current, machine, budget[place])
        elif stage == "prune" and (candidate.is_pruned or shallower):
            current = task.cut_width(current, candidate, lesson, quantized, shallower)
        elif stage == "quantize" and "prune" in candidate.chain[place:]:
            quantized = fake_quantized(current, lesson)
        made.append((stage, current))
    return made


def _trained(name: str, candidate: Candidate, lesson: Lesson, student: Output, machine: Machine, steps: int) -> Output:
    distil = lesson.recipe.distill
    return distill.fit(
        name,
        lesson,
        student,
        machine,
        told=candidate.told,
        steps=steps,
        batch_size=distil.batch_size,
        learning_rate=distil.learning_rate,
    )


def parent(candidate: Candidate, lesson: Lesson) -> Output:
    """What the student's layers are taken from."""
    if candidate.start == "teacher":
        return Output(key=lesson.teacher_key, storage=lesson.storage)
    model = lesson.recipe.student.model if candidate.start == "student-model" else lesson.recipe.teacher.model
    assert model is not None, "the search draws student-model candidates only where the recipe names one"
    return task_of(lesson.recipe).pretrained(lesson, model)


def kept_layers(candidate: Candidate, lesson: Lesson) -> tuple[int, ...]:
    """The parent's layers that the candidate starts with, counted from 0."""
    source = parent(candidate, lesson)
    depth = describe(source.path / "model").layers
    if candidate.layers >= depth:
        return tuple(range(depth))
    kept = (task_of(lesson.recipe).cut_depth(source, candidate, lesson).path / "kept.txt").read_text(encoding="utf-8")
    return tuple(int(layer) for layer in kept.split())


def fake_quantized(source: Output, lesson: Lesson) -> Output:
    """The folder with its weights through int8 and back: what a prune after quantize judges importance by."""

    def build(out: Path) -> None:
        from deshi.jobs.stages import quantize

        quantize.fake_quantize(source.path / "model", out / "model", load=task_of(lesson.recipe).load)

    return lesson.storage.stage("rounded", {"source": source.key}, build)


def static_student(lesson: Lesson, *, told: str) -> Output:
    """A model2vec student of the teacher, its head fitted on the teacher's answers or on the labels alone."""
    inputs = {"teacher": lesson.teacher_key, "answers": lesson.answers_key, "told": told, "splits": lesson.splits_key}

    def build(out: Path) -> None:
        from deshi.jobs.stages import static

        splits, recipe = lesson.splits, lesson.recipe
        train, unlabelled = splits.table("train"), splits.table("unlabelled")
        texts = train["text"].to_pylist()
        everything = texts + unlabelled["text"].to_pylist()
        static.distill_static(
            lesson.teacher, out / "model", dimensions=None, texts_for_vocabulary=everything, seed=recipe.seed
        )
        if told == "labels":
            index = {label: number for number, label in enumerate(splits.labels)}
            targets = np.array([index[label] for label in train["label"].to_pylist()])
            static.fit_head(out / "model", texts, targets, seed=recipe.seed)
            return
        answers = [lesson.log_probabilities(name) for name in ("train", "unlabelled")]
        static.fit_head(out / "model", everything, np.exp(np.concatenate(answers)), seed=recipe.seed)

    return lesson.storage.stage("static", inputs, build)
