"""A candidate's chain, stage by stage: model folders in, a model folder out, each step a cached output.

The student starts as some layers of its parent (the teacher, the pretrained encoder, or a model of its own); `distill`
and `recover` train it, `prune` cuts FFN and vocabulary and refits the head, `quantize` marks where the integers come:
the engine's exporter makes them from the last full-precision folder. Chains that share a beginning share its output.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from deshi.jobs.data.model_folder import describe
from deshi.jobs.session import Machine
from deshi.jobs.stages import distill, teach
from deshi.jobs.stages.candidate import Candidate
from deshi.jobs.stages.lesson import Lesson
from deshi.jobs.stages.orders import training_steps
from deshi.jobs.storage import Output


def make(candidate: Candidate, lesson: Lesson, machine: Machine) -> Output:
    """The candidate's model folder, before any engine's integers."""
    return steps_of(candidate, lesson, machine)[-1][1]


def steps_of(candidate: Candidate, lesson: Lesson, machine: Machine) -> list[tuple[str, Output]]:
    """Every stage of the chain with its output, the start first."""
    if candidate.family == "static":
        return [("static", static_student(lesson, told=candidate.told))]
    budget = training_steps(candidate.chain, candidate.steps) if candidate.steps else {}
    current = parent(candidate, lesson)
    made = [("parent", current)]
    if shallower := candidate.layers < describe(current.path / "model").layers:
        current = cut_depth(current, candidate, lesson)
        made.append(("depth", current))
    quantized: Output | None = None
    for place, stage in enumerate(candidate.chain):
        if stage in ("distill", "recover") and place in budget:
            current = distill.fit(
                "distil" if stage == "distill" else "recover",
                lesson,
                current,
                machine,
                told=candidate.told,
                steps=budget[place],
                batch_size=lesson.recipe.distill.batch_size,
                learning_rate=lesson.recipe.distill.learning_rate,
            )
        elif stage == "prune" and (candidate.is_pruned or shallower):
            refit = shallower or candidate.ffn < 1
            current = cut_width(current, candidate, lesson, judged_by=quantized, refit=refit)
        elif stage == "quantize" and "prune" in candidate.chain[place:]:
            quantized = fake_quantized(current, lesson)
        made.append((stage, current))
    return made


def parent(candidate: Candidate, lesson: Lesson) -> Output:
    """What the student's layers are taken from."""
    if candidate.start == "teacher":
        return Output(key=lesson.teacher_key, storage=lesson.storage)
    model = lesson.recipe.student.model if candidate.start == "student-model" else lesson.recipe.teacher.model
    assert model is not None, "the search draws student-model candidates only where the recipe names one"
    return teach.with_head(lesson, model)


def kept_layers(candidate: Candidate, lesson: Lesson) -> tuple[int, ...]:
    """The parent's layers that the candidate starts with, counted from 0."""
    source = parent(candidate, lesson)
    depth = describe(source.path / "model").layers
    if candidate.layers >= depth:
        return tuple(range(depth))
    kept = (cut_depth(source, candidate, lesson).path / "kept.txt").read_text(encoding="utf-8")
    return tuple(int(layer) for layer in kept.split())


def cut_depth(source: Output, candidate: Candidate, lesson: Lesson) -> Output:
    """The parent's kept layers; by block influence on calibration rows, or evenly spaced."""
    inputs = {"source": source.key, "layers": candidate.layers, "by": candidate.depth_by, "splits": lesson.splits_key}

    def build(out: Path) -> None:
        from transformers import AutoTokenizer

        from deshi.jobs.stages import prune

        folder = source.path / "model"
        model = prune.load_classifier(folder)
        depth = prune.architecture_of(model.config).depth(model.config)
        judged: Any = candidate.depth_by
        if judged == "influence":
            texts = lesson.splits.table("calibration")["text"].to_pylist()
            batches = prune.calibration_batches(
                AutoTokenizer.from_pretrained(folder), texts, max_length=lesson.recipe.data.max_length
            )
            judged = prune.block_influence(model, batches)
        kept = prune.keep_layers(candidate.layers, depth, judged)
        if prune.architecture_of(model.config).first_layer_stays and kept[0] != 0:
            kept = (0, *kept[1:])
        prune.write_model(prune.prune_depth(model, kept), out / "model")
        prune.copy_tokenizer(folder, out / "model")
        (out / "kept.txt").write_text(" ".join(map(str, kept)), encoding="utf-8")

    return lesson.storage.stage("depth", inputs, build)


def cut_width(source: Output, candidate: Candidate, lesson: Lesson, *, judged_by: Output | None, refit: bool) -> Output:
    """FFN and vocabulary cut, the head refitted in closed form where anything but the vocabulary is gone."""
    inputs = {
        "source": source.key,
        "ffn": candidate.ffn,
        "vocabulary": candidate.vocabulary,
        "refit": refit,
        "judged_by": judged_by.key if judged_by else None,
        "told": candidate.told,
        "answers": lesson.answers_key,
        "splits": lesson.splits_key,
    }

    def build(out: Path) -> None:
        from transformers import AutoConfig

        from deshi.jobs.stages import prune, vocabulary

        splits, folder = lesson.splits, source.path / "model"
        judge = judged_by.path / "model" if judged_by else None
        scratch = Path(tempfile.mkdtemp(dir=out))
        if candidate.vocabulary == "seen":
            seen = [text for name in ("train", "unlabelled") for text in splits.table(name)["text"].to_pylist()]
            vocabulary.prune_vocabulary(folder, scratch / "own", seen)
            folder = scratch / "own"
            if judge is not None:  # the judge reads the same token ids
                vocabulary.prune_vocabulary(judge, scratch / "judge", seen)
                judge = scratch / "judge"
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        row = prune.architecture_of(config)
        width = max(prune.FFN_MULTIPLE, int(row.ffn(config) * candidate.ffn) // prune.FFN_MULTIPLE * prune.FFN_MULTIPLE)
        texts, logits = refit_rows(lesson, told=candidate.told)
        prune.prune(
            folder,
            out / "model",
            layers=range(row.depth(config)),
            ffn=width,
            calibration=texts,
            teacher_logits=logits,
            max_length=lesson.recipe.data.max_length,
            importance_folder=judge,
            refit=refit,
        )
        shutil.rmtree(scratch)

    return lesson.storage.stage("prune", inputs, build)


def fake_quantized(source: Output, lesson: Lesson) -> Output:
    """The folder with its weights through int8 and back: what a prune after quantize judges importance by."""

    def build(out: Path) -> None:
        from deshi.jobs.stages import quantize

        quantize.fake_quantize(source.path / "model", out / "model")

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


def refit_rows(lesson: Lesson, *, told: str, limit: int = 1024) -> tuple[list[str], np.ndarray]:
    """Texts and targets [rows, labels] that the head is refitted on: the teacher's log-probabilities of the first rows
    of train, then unlabelled; for a control, which may not know them, the labels of train alone, one-hot."""
    if told == "labels":
        train, labels = lesson.splits.table("train").slice(0, limit), lesson.splits.labels
        index = {label: number for number, label in enumerate(labels)}
        return train["text"].to_pylist(), np.eye(len(labels))[[index[label] for label in train["label"].to_pylist()]]
    texts: list[str] = []
    answers = []
    for name in ("train", "unlabelled"):
        room = limit - len(texts)
        texts += lesson.splits.table(name)["text"].slice(0, room).to_pylist()
        answers.append(lesson.log_probabilities(name)[:room])
    return texts, np.concatenate(answers)
