"""The comparison that the verdict is spoken on: winner, teacher and controls on the test rows, opened here, once.

Everything the report shows is put together here as `Evidence`; nothing is measured twice and nothing is rounded.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import numpy as np

from deshi.jobs.choose import Chosen
from deshi.jobs.contender import Contender, asked, drop_between
from deshi.jobs.controls import Controls
from deshi.jobs.data.model_folder import describe
from deshi.jobs.data.tokens import truncated_share
from deshi.jobs.evidence import decide, story
from deshi.jobs.evidence.measure import Answers
from deshi.jobs.evidence.operations import target_row
from deshi.jobs.evidence.schema import Evidence, Figure, ModelRow, Quality, Role, SliceRow
from deshi.jobs.evidence.scores import SCORES
from deshi.jobs.ladder import Line, Plan
from deshi.jobs.session import Machine, commit, describe_machine
from deshi.jobs.stages.lesson import Lesson
from deshi.jobs.trial import Bench
from deshi.serve import statistics
from deshi.serve.statistics import Interval

PACKAGES = (
    "deshi",
    "torch",
    "ray",
    "deepspeed",
    "transformers",
    "onnxruntime",
    "openvino",
    "nncf",
    "optuna",
    "model2vec",
)


def evidence(
    lesson: Lesson,
    machine: Machine,
    bench: Bench,
    plan: Plan,
    chosen: Chosen,
    controls: Controls,
    lines: Sequence[Line],
    *,
    seconds: dict[str, float],
) -> Evidence:
    """Opens the test split for all models together and speaks the verdict."""
    recipe, splits = lesson.recipe, lesson.splits
    beside = [] if chosen.distilled is None else [chosen.distilled]
    contenders = [chosen.winner, chosen.teacher, *beside, *controls.made]
    test = {each.id: asked(lesson, each, "test") for each in contenders}
    rows = [
        model_row(lesson, each, test[each.id], test[chosen.teacher.id], chosen=each is chosen.winner)
        for each in contenders
    ]
    won = rows[0]
    kpis = decide.kpi_rows(won, recipe.kpi, recipe.targets, currency=recipe.business.currency)
    drop = drop_between(lesson, test[chosen.winner.id], test[chosen.teacher.id]).drop
    return Evidence(
        name=recipe.name,
        task=recipe.task,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        commit=commit(),
        versions={name: version(name) for name in PACKAGES},
        machine=describe_machine() | {"nodes": machine.nodes},
        recipe=recipe.model_dump(mode="json"),
        currency=recipe.business.currency,
        score_name=recipe.kpi.quality.score,
        data=splits.facts(truncated=truncated(lesson)),
        models=tuple(rows),
        left_out=controls.left_out,
        front=story.front(lines, chosen.winner.id),
        waterfall=story.waterfall(lesson, machine, bench, chosen),
        orders=story.orders(lesson, plan, lines),
        kpis=kpis,
        verdict=decide.verdict(drop, kpis, confidence=recipe.kpi.quality.confidence),
        removed=story.removed(lesson, chosen),
        licences={"teacher": recipe.teacher.licence, "data": recipe.data.licence},
        how=story.HOW,
        seconds=seconds,
    )


def model_row(lesson: Lesson, each: Contender, told: Answers, taught: Answers, *, chosen: bool) -> ModelRow:
    """One model's row: quality against the teacher, operations by target."""
    facts = describe(each.finalist.model.path / "model")
    is_teacher = each.id == "teacher"
    role: Role = (
        "chosen" if chosen else "teacher" if is_teacher else "distilled" if each.id == "distilled" else "control"
    )
    return ModelRow(
        id="chosen" if chosen else each.id,
        role=role,
        digest=each.finalist.folder.digest,
        chain=each.candidate.chain,
        parameters=facts.parameters,
        layers=facts.layers,
        ffn=facts.ffn or 0,
        vocabulary=facts.vocabulary,
        scheme=each.candidate.scheme,
        training_steps=each.candidate.steps,
        quality=quality(lesson, each, told, None if is_teacher else taught),
        targets=tuple(target_row(lesson, each, target) for target in lesson.recipe.targets),
    )


def quality(lesson: Lesson, each: Contender, told: Answers, taught: Answers | None) -> Quality:
    """Score, paired drop, flips, agreement, KL, calibration and slices on the test rows."""
    recipe = lesson.recipe
    confidence, seed = recipe.kpi.quality.confidence, recipe.seed
    n = len(told.labels)
    ece = statistics.expected_calibration_error(np.exp(told.log_probs), told.labels, confidence=confidence, seed=seed)
    common: dict[str, Any] = {
        "score": score_figure(lesson, told),
        "calibration_error": _figure(ece, "share", "expected calibration error, 15 bins, after temperature"),
        "unknown_token_rate": unknown_tokens(lesson, each),
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
        drop=_figure(paired.drop, "share", "paired bootstrap over test rows, teacher minus this model"),
        mcnemar_p=paired.mcnemar_p,
        flips_to_wrong=paired.flips_to_wrong,
        flips_to_right=paired.flips_to_right,
        agreement=_figure(
            statistics.proportion_interval(same, n, confidence=confidence), "share", "same class as the teacher, Wilson"
        ),
        kl=_figure(kl, "nats", "mean KL(teacher || model) a test row"),
        slices=slices(lesson, told, taught),
    )


def score_figure(lesson: Lesson, told: Answers) -> Figure:
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
    return _figure(found, "share", f"{name} on the test rows, bootstrap over rows")


def slices(lesson: Lesson, told: Answers, taught: Answers) -> tuple[SliceRow, ...]:
    """Each value of each slice column: paired accuracy on its rows."""
    table, recipe = lesson.splits.table("test"), lesson.recipe
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
                    score=_figure(share, "share", "accuracy on the slice's test rows, Wilson"),
                    teacher_score=float(taught_right[here].mean()),
                    drop=_figure(paired.drop, "share", "paired bootstrap over the slice's test rows"),
                )
            )
    return tuple(found)


def unknown_tokens(lesson: Lesson, each: Contender) -> Figure:
    """Share of test tokens that the model's tokenizer does not know."""
    from deshi.jobs.stages.vocabulary import unknown_token_rate

    texts = lesson.splits.table("test")["text"].to_pylist()
    unknown, total = unknown_token_rate(each.finalist.model.path / "model" / "tokenizer.json", texts)
    found = statistics.proportion_interval(unknown, max(total, 1), confidence=lesson.recipe.kpi.quality.confidence)
    return _figure(found, "share", "tokens of the test rows that are unknown to the tokenizer")


def truncated(lesson: Lesson) -> dict[str, float]:
    """Share of rows that are cut at max_length, by split, as the teacher's tokenizer counts."""
    return {
        split: truncated_share(
            lesson.teacher, lesson.splits.table(split)["text"].to_pylist(), max_length=lesson.recipe.data.max_length
        )
        for split in ("train", "unlabelled", "validation", "test")
    }


def _figure(interval: Interval, unit: str, how: str) -> Figure:
    ends = [end if np.isfinite(end) else None for end in (interval.low, interval.high)]
    return Figure(value=interval.value, unit=unit, n=interval.n, low=ends[0], high=ends[1], how=how)
