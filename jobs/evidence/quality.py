"""A classifier's quality on the rows of a split: score, paired drop, flips, agreement, KL, calibration, slices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from deshi.jobs import finalist as building
from deshi.jobs.contender import Contender
from deshi.jobs.data.tokens import truncated_share
from deshi.jobs.evidence import measure
from deshi.jobs.evidence.answered import Answered
from deshi.jobs.evidence.figure import Figure, figure_of
from deshi.jobs.evidence.measure import Answers
from deshi.jobs.evidence.schema import DataFacts, Quality, SliceRow
from deshi.jobs.evidence.scores import SCORES
from deshi.jobs.stages.lesson import Lesson
from deshi.serve import statistics
from deshi.serve.statistics import PairedDrop, paired_score_drop


def answered(lesson: Lesson, contenders: Sequence[Contender], split: str) -> dict[str, Answered]:
    """Each contender's answers to a split, and its quality, paired with the teacher's, row by row."""
    told = {each.id: asked(lesson, each, split) for each in contenders}

    def one(each: Contender) -> Answered:
        taught = None if each.id == "teacher" else told["teacher"]
        return Answered(
            quality=quality(lesson, each, told[each.id], taught, split), rows=rows(lesson, told[each.id], taught)
        )

    return {each.id: one(each) for each in contenders}


def rows(lesson: Lesson, told: Answers, taught: Answers | None) -> pa.Table:
    """The answers row by row, as `Answered` keeps them."""
    labels = (*lesson.splits.labels, None)  # -1 is a row without a label
    return pa.table(
        {
            "row": np.arange(len(told.labels)),
            "label": pa.array([labels[label] for label in told.labels], pa.string()),
            "answer": pa.array([labels[answer] for answer in told.predictions], pa.string()),
            "confidence": np.exp(told.log_probs.max(axis=1)),
            "kl": pa.nulls(len(told.labels), pa.float64())
            if taught is None
            else pa.array(statistics.kl_rows(taught.log_probs, told.log_probs)),
        }
    )


def quality(lesson: Lesson, each: Contender, told: Answers, taught: Answers | None, split: str) -> Quality:
    """Score, paired drop, flips, agreement, KL, calibration and slices."""
    recipe = lesson.recipe
    confidence, seed = recipe.kpi.quality.confidence, recipe.seed
    n = len(told.labels)
    ece = statistics.expected_calibration_error(np.exp(told.log_probs), told.labels, confidence=confidence, seed=seed)
    common: dict[str, Any] = {
        "score": scorefigure_of(lesson, told),
        "calibration_error": figure_of(ece, "share", "expected calibration error, 15 bins, after temperature"),
        "unknown_token_rate": unknown_tokens(lesson, each, split),
    }
    if taught is None:
        return Quality(**common)
    paired = drop_between(lesson, told, taught)
    kl = statistics.mean_interval(
        statistics.kl_rows(taught.log_probs, told.log_probs), confidence=confidence, seed=seed
    )
    same = int(np.sum(told.predictions == taught.predictions))
    return Quality(
        **common,
        drop=figure_of(paired.drop, "share", "paired bootstrap over test rows, teacher minus this model"),
        mcnemar_p=paired.mcnemar_p,
        flips_to_wrong=paired.flips_to_wrong,
        flips_to_right=paired.flips_to_right,
        agreement=figure_of(
            statistics.proportion_interval(same, n, confidence=confidence), "share", "same class as the teacher, Wilson"
        ),
        kl=figure_of(kl, "nats", "mean KL(teacher || model) a test row"),
        slices=slices(lesson, told, taught, split),
    )


def scorefigure_of(lesson: Lesson, told: Answers) -> Figure:
    """The task's score with a bootstrap interval over rows."""
    recipe, classes = lesson.recipe, len(lesson.splits.labels)
    name = recipe.kpi.quality.score
    found = statistics.score_interval(
        lambda labels, predictions: SCORES[name](labels, predictions, classes),
        told.labels,
        told.predictions,
        confidence=recipe.kpi.quality.confidence,
        seed=recipe.seed,
    )
    return figure_of(found, "share", f"{name} on the test rows, bootstrap over rows")


def slices(lesson: Lesson, told: Answers, taught: Answers, split: str) -> tuple[SliceRow, ...]:
    """Each value of each slice column: paired accuracy on its rows."""
    table, recipe = lesson.splits.table(split), lesson.recipe
    right, taught_right = told.predictions == told.labels, taught.predictions == taught.labels
    found = []
    for column in recipe.data.slices:
        values = np.array([value or "" for value in table[column].to_pylist()])
        for value in sorted(set(values.tolist())):
            here = values == value
            paired = statistics.paired_drop(
                taught_right[here], right[here], confidence=recipe.kpi.quality.confidence, seed=recipe.seed
            )
            share = statistics.proportion_interval(
                int(right[here].sum()), int(here.sum()), confidence=recipe.kpi.quality.confidence
            )
            found.append(
                SliceRow(
                    column=column,
                    value=value,
                    n=int(here.sum()),
                    score=figure_of(share, "share", "accuracy on the slice's test rows, Wilson"),
                    teacher_score=float(taught_right[here].mean()),
                    drop=figure_of(paired.drop, "share", "paired bootstrap over the slice's test rows"),
                )
            )
    return tuple(found)


def unknown_tokens(lesson: Lesson, each: Contender, split: str) -> Figure:
    """Share of a split's tokens that the model's tokenizer does not know."""
    from deshi.jobs.stages.vocabulary import unknown_token_rate

    texts = lesson.splits.table(split)["text"].to_pylist()
    unknown, total = unknown_token_rate(each.finalist.model.path / "model" / "tokenizer.json", texts)
    found = statistics.proportion_interval(unknown, max(total, 1), confidence=lesson.recipe.kpi.quality.confidence)
    return figure_of(found, "share", "tokens of the test rows that are unknown to the tokenizer")


def drop_between(lesson: Lesson, told: measure.Answers, taught: measure.Answers) -> PairedDrop:
    """The drop of the task's score from `taught` to `told`, the same rows row by row."""
    recipe, classes = lesson.recipe, len(lesson.splits.labels)
    score = SCORES[recipe.kpi.quality.score]
    return paired_score_drop(
        lambda labels, predictions: score(labels, predictions, classes),
        told.labels,
        taught.predictions,
        told.predictions,
        confidence=recipe.kpi.quality.confidence,
        seed=recipe.seed,
    )


def asked(lesson: Lesson, each: Contender, split: str) -> measure.Answers:
    """A contender's answers to a split, through the builds of the first target, with its temperature."""
    serving = each.finalist.serving
    target = serving.targets[lesson.recipe.targets[0].name]
    threads = building.local_threads(lesson.recipe.targets[0])
    model = measure.classifier(each.finalist.folder.path, lesson, target.builds, threads=threads)
    return measure.answers(model, lesson.splits.table(split), lesson.splits.labels, temperature=serving.temperature)


def facts(lesson: Lesson) -> DataFacts:
    """What the rows were; the share of rows cut at max_length, by split, as the teacher's tokenizer counts."""
    cut = {
        split: truncated_share(
            lesson.teacher, lesson.splits.table(split)["text"].to_pylist(), max_length=lesson.recipe.data.max_length
        )
        for split in ("train", "unlabelled", "validation", "test")
    }
    return lesson.splits.facts(truncated=cut)
