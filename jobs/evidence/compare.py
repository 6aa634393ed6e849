"""The comparison that the verdict is spoken on: winner, teacher and controls on the test rows, opened here, once.

Everything the report shows is put together here as `Evidence`; nothing is measured twice and nothing is rounded.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version

import pyarrow as pa

from deshi.jobs.choose import Chosen
from deshi.jobs.contender import Contender
from deshi.jobs.controls import Controls
from deshi.jobs.data.model_folder import describe
from deshi.jobs.evidence import story
from deshi.jobs.evidence.answered import together
from deshi.jobs.evidence.kpis import kpi_rows
from deshi.jobs.evidence.operations import target_row
from deshi.jobs.evidence.schema import Evidence, ModelRow, Quality, Role
from deshi.jobs.evidence.verdict import verdict
from deshi.jobs.ladder import Line, Plan
from deshi.jobs.session import Machine, commit, describe_machine
from deshi.jobs.stages.lesson import Lesson
from deshi.jobs.task import task_of
from deshi.jobs.trial import Bench

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
    "gguf",
    "xllamacpp",
)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The evidence, and the answers of every model to the test rows that it was told from."""

    evidence: Evidence
    answers: pa.Table


def compare(
    lesson: Lesson,
    machine: Machine,
    bench: Bench,
    plan: Plan,
    chosen: Chosen,
    controls: Controls,
    lines: Sequence[Line],
    *,
    seconds: dict[str, float],
) -> Comparison:
    """Opens the test split for all models together and speaks the verdict."""
    recipe, task = lesson.recipe, task_of(lesson.recipe)
    beside = [] if chosen.distilled is None else [chosen.distilled]
    contenders = [chosen.winner, chosen.teacher, *beside, *controls.made]
    told = task.answered(lesson, contenders, "test")
    rows = [model_row(lesson, each, told[each.id].quality, chosen=each is chosen.winner) for each in contenders]
    kpis = kpi_rows(rows[0], recipe.kpi, recipe.targets, margin=recipe.margin, currency=recipe.business.currency)
    found = Evidence(
        name=recipe.name,
        task=recipe.task,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        commit=commit(),
        versions={name: version(name) for name in PACKAGES},
        machine=describe_machine() | {"nodes": machine.nodes},
        recipe=recipe.model_dump(mode="json"),
        currency=recipe.business.currency,
        score_name=task.score_name(recipe),
        data=task.facts(lesson),
        models=tuple(rows),
        left_out=controls.left_out,
        front=story.front(lines, chosen.winner.id),
        waterfall=story.waterfall(lesson, machine, bench, chosen),
        orders=story.orders(lesson, plan, lines),
        kpis=kpis,
        verdict=verdict(kpis, confidence=recipe.kpi.quality.confidence),
        removed=story.removed(lesson, chosen),
        licences={"teacher": recipe.teacher.licence, "data": recipe.data.licence},
        how=dict(task.how),
        seconds=seconds,
    )
    return Comparison(evidence=found, answers=together(told))


def model_row(lesson: Lesson, each: Contender, quality: Quality, *, chosen: bool) -> ModelRow:
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
        quality=quality,
        targets=tuple(target_row(lesson, each, target) for target in lesson.recipe.targets),
    )
