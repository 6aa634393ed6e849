"""A classifier's quality on the rows of a split: score, paired drop, flips, agreement, KL, calibration, slices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from deshi.jobs import finalist as building
from deshi.jobs.contender import Contender
from deshi.jobs.data.tokens import truncated_share
from deshi.jobs.evidence import measure
from deshi.jobs.evidence.answered import Answered
from deshi.jobs.evidence.figure import Figure, figure_of
from deshi.jobs.evidence.measure import Answers
from deshi.jobs.evidence.risk.slice_harm import flip_harms, members
from deshi.jobs.evidence.schema import DataFacts, Quality, SliceRow
from deshi.jobs.evidence.scores import SCORES
from deshi.jobs.stages.lesson import Lesson
from deshi.serve import statistics
from deshi.serve.paired_statistics import PairedDrop, paired_drop, paired_score_drop


class Told(Protocol):
    """What any judgement of a classifier needs: class numbers [n] of the answers and of the labels."""

    @property
    def predictions(self) -> NDArray[np.int64]:
        """The class of each answer; the number of classes where it is none of them."""
        ...

    @property
    def labels(self) -> NDArray[np.int64]:
        """The class that is right."""
        ...


@dataclass(frozen=True, kw_only=True)
class Picks:
    """Answers without probabilities."""

    predictions: NDArray[np.int64]
    labels: NDArray[np.int64]


def picked(rows: pa.Table, labels: Sequence[str]) -> Picks:
    """The class numbers of rows as `Answered` keeps them."""
    number: dict[str | None, int] = {label: number for number, label in enumerate(labels)} | {None: len(labels)}
    predictions, truth = (np.array([number[each] for each in rows[name].to_pylist()]) for name in ("answer", "label"))
    return Picks(predictions=predictions, labels=truth)


def answered(lesson: Lesson, contenders: Sequence[Contender], split: str) -> dict[str, Answered]:
    """Each contender's answers to a split, and its quality, paired with the teacher's, row by row."""
    told = {each.id: asked(lesson, each, split) for each in contenders}

    def one(each: Contender) -> Answered:
        taught = None if each.id == "teacher" else told["teacher"]
        mine = told[each.id]
        return Answered(quality=quality(lesson, each, mine, taught, split), rows=rows(lesson, mine, taught), told=mine)

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
    ece = statistics.expected_calibration_error(np.exp(told.log_probs), told.labels, confidence=confidence, seed=seed)
    common: dict[str, Any] = {
        "score": scorefigure_of(lesson, told),
        "calibration_error": figure_of(ece, "share", "expected calibration error, 15 bins, after temperature"),
        "unknown_token_rate": unknown_tokens(lesson, each, split),
    }
    if taught is None:
        return Quality(**common)
    kl = statistics.mean_interval(
        statistics.kl_rows(taught.log_probs, told.log_probs), confidence=confidence, seed=seed
    )
    return Quality(
        **common,
        kl=figure_of(kl, "nats", "mean KL(teacher || model) a test row"),
        **beside(lesson, told, taught, split),
    )


def beside(lesson: Lesson, told: Told, taught: Told, split: str) -> dict[str, Any]:
    """What answers alone tell beside the teacher's, as fields of `Quality`: drop, flips, agreement, slices."""
    paired = drop_between(lesson, told, taught)
    same = statistics.proportion_interval(
        int(np.sum(told.predictions == taught.predictions)),
        len(told.labels),
        confidence=lesson.recipe.kpi.quality.confidence,
    )
    return {
        "drop": figure_of(paired.drop, "share", "paired bootstrap over test rows, teacher minus this model"),
        "mcnemar_p": paired.mcnemar_p,
        "flips_to_wrong": paired.flips_to_wrong,
        "flips_to_right": paired.flips_to_right,
        "agreement": figure_of(same, "share", "same class as the teacher, Wilson"),
        "slices": slices(lesson, told, taught, split),
    }


def scorefigure_of(lesson: Lesson, told: Told) -> Figure:
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


def slices(lesson: Lesson, told: Told, taught: Told, split: str) -> tuple[SliceRow, ...]:
    """Each value of each slice column of the recipe."""
    recipe, table = lesson.recipe, lesson.splits.table(split)
    return slice_rows(
        told.predictions == told.labels,
        taught.predictions == taught.labels,
        {column: table[column].to_pylist() for column in recipe.data.slices},
        margin=recipe.margin,
        confidence=recipe.kpi.quality.confidence,
        seed=recipe.seed,
    )


def slice_rows(
    right: NDArray[np.bool_],
    taught_right: NDArray[np.bool_],
    columns: Mapping[str, Sequence[str | None]],
    *,
    margin: float | None,
    confidence: float,
    seed: int,
) -> tuple[SliceRow, ...]:
    """Paired accuracy of each value of each column, and whether it is harmed, from who was right [rows]."""
    found = []
    parts = members(columns)
    harms = flip_harms(taught_right.astype(int) - right, list(parts.values()), margin) if parts else []
    for ((column, value), here), harm in zip(parts.items(), harms, strict=True):
        paired = paired_drop(taught_right[here], right[here], confidence=confidence, seed=seed)
        share = statistics.proportion_interval(int(right[here].sum()), int(here.sum()), confidence=confidence)
        found.append(
            SliceRow(
                column=column,
                value=value,
                n=int(here.sum()),
                score=figure_of(share, "share", "accuracy on the slice's test rows, Wilson"),
                teacher_score=float(taught_right[here].mean()),
                drop=figure_of(paired.drop, "share", "paired bootstrap over the slice's test rows"),
                harm_p=harm.p,
                harmed=harm.harmed,
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


def drop_between(lesson: Lesson, told: Told, taught: Told) -> PairedDrop:
    """The drop of the task's score from `taught` to `told`, the same rows row by row."""
    recipe, classes = lesson.recipe, len(lesson.splits.labels)
    sure: dict[str, Any] = {"confidence": recipe.kpi.quality.confidence, "seed": recipe.seed}
    if recipe.kpi.quality.score == "accuracy":
        # A mean over rows needs no second scoring: the way whose error rates `make bench-evidence` simulates.
        return paired_drop(taught.predictions == taught.labels, told.predictions == told.labels, **sure)
    score = SCORES[recipe.kpi.quality.score]
    return paired_score_drop(
        lambda labels, predictions: score(labels, predictions, classes),
        told.labels,
        taught.predictions,
        told.predictions,
        **sure,
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
