"""Cutting a classifier: layers of its parent, then feed-forward width and vocabulary, the head refitted in closed form.

Each cut is a finished output. A language model's are in `cut_language_model.py`.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from deshi.jobs.stages.candidate import Candidate
from deshi.jobs.stages.lesson import Lesson
from deshi.jobs.storage import Output


def cut_depth(source: Output, candidate: Candidate, lesson: Lesson) -> Output:
    """The parent's kept layers; by block influence on calibration rows, or evenly spaced."""
    inputs = {"source": source.key, "layers": candidate.layers, "by": candidate.depth_by, "splits": lesson.splits_key}

    def build(out: Path) -> None:
        from transformers import AutoTokenizer

        from deshi.jobs.stages import importance, prune

        folder = source.path / "model"
        model = prune.load_classifier(folder)
        depth = prune.architecture_of(model.config).depth(model.config)
        judged: Any = candidate.depth_by
        if judged == "influence":
            texts = lesson.splits.table("calibration")["text"].to_pylist()
            batches = importance.calibration_batches(
                AutoTokenizer.from_pretrained(folder), texts, max_length=lesson.recipe.data.max_length
            )
            judged = importance.block_influence(model, batches)
        kept = prune.keep_layers(candidate.layers, depth, judged)
        if prune.architecture_of(model.config).first_layer_stays and kept[0] != 0:
            kept = (0, *kept[1:])
        prune.write_model(prune.prune_depth(model, kept), out / "model")
        prune.copy_tokenizer(folder, out / "model")
        (out / "kept.txt").write_text(" ".join(map(str, kept)), encoding="utf-8")

    return lesson.storage.stage("depth", inputs, build)


def cut_width(
    source: Output, candidate: Candidate, lesson: Lesson, judged_by: Output | None, shallower: bool
) -> Output:
    """FFN and vocabulary cut, the head refitted in closed form where anything but the vocabulary is gone.

    `judged_by` is the rounded model where the chain quantizes first: importance is that of its neurons. `shallower`
    says that layers have gone before.
    """
    refit = shallower or candidate.ffn < 1
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
