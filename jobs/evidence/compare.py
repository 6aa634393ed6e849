"""The comparison that the verdict is spoken on: winner, teacher and controls on the test rows, opened here, once.

Everything the report shows is put together here as `Evidence`; nothing is measured twice and nothing is rounded.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version

import pyarrow as pa

from deshi.jobs.contender import Contender
from deshi.jobs.data.model_folder import describe
from deshi.jobs.evidence.answered import Answered, together, written_together
from deshi.jobs.evidence.business.business_case import cases
from deshi.jobs.evidence.kpis import kpi_rows
from deshi.jobs.evidence.migration.replacement import replacement
from deshi.jobs.evidence.operations import target_row
from deshi.jobs.evidence.risk.risk import Compared
from deshi.jobs.evidence.risk.risk_schema import Risk
from deshi.jobs.evidence.schema import DataFacts, Evidence, LeftOut, ModelRow, Quality, Role
from deshi.jobs.evidence.story import Story
from deshi.jobs.evidence.verdict import verdict
from deshi.jobs.session import Machine, commit, describe_machine
from deshi.jobs.stages.lesson import Lesson
from deshi.jobs.task import task_of

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
    "captum",
    "gguf",
    "xllamacpp",
)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The evidence, the answers of every model to the test rows that it was told from, and what the models wrote."""

    evidence: Evidence
    answers: pa.Table
    written: pa.Table | None = None


def compare(
    lesson: Lesson,
    machine: Machine,
    *,
    winner: Contender,
    teacher: Contender,
    beside: Sequence[Contender],
    left_out: Sequence[LeftOut],
    story: Story,
    seconds: dict[str, float],
    against: str | None = None,
) -> Comparison:
    """Opens the test split for all models together and speaks the verdict.

    `beside` stand in the same table: the best distilled student where another model won, and the controls. `against` is
    the live run, whose release is the one called "live" there.
    """
    task = task_of(lesson.recipe)
    contenders = [winner, teacher, *beside]
    asked = task.answered(lesson, contenders, "test")
    told = {"chosen" if each is winner else each.id: asked[each.id] for each in contenders}
    rows = [model_row(lesson, each, told[name].quality, id=name) for each, name in zip(contenders, told, strict=True)]
    facts = task.facts(lesson)
    compared = Compared(winner=winner, teacher=teacher, told=told, rows=rows, facts=facts, removed=story.removed)
    return spoken_on(
        lesson,
        machine,
        told=told,
        rows=rows,
        facts=facts,
        risk=task.risk(lesson, machine, compared),
        left_out=left_out,
        story=story,
        seconds=seconds,
        against=against,
    )


def spoken_on(
    lesson: Lesson,
    machine: Machine,
    *,
    told: Mapping[str, Answered],
    rows: Sequence[ModelRow],
    facts: DataFacts,
    risk: Risk,
    left_out: Sequence[LeftOut],
    story: Story,
    seconds: dict[str, float],
    against: str | None,
    how: Mapping[str, str] | None = None,
) -> Comparison:
    """The verdict on what the models answered, and the evidence around it; `rows` begin with the chosen model's.

    `how` is put over what the task says of itself, topic by topic.
    """
    recipe, task = lesson.recipe, task_of(lesson.recipe)
    kpis = kpi_rows(rows[0], recipe.kpi, recipe.targets, margin=recipe.margin, currency=recipe.business.currency)
    spoken = verdict(kpis, slices=rows[0].quality.slices, confidence=recipe.kpi.quality.confidence)
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
        data=facts,
        models=tuple(rows),
        left_out=tuple(left_out),
        front=story.front,
        waterfall=story.waterfall,
        orders=story.orders,
        kpis=kpis,
        verdict=spoken,
        replacement=None
        if against is None
        else replacement(
            recipe,
            live=against,
            rows={row.id: row for row in rows},
            answers={name: each.rows for name, each in told.items()},
            decision=spoken.decision,
        ),
        removed=story.removed,
        risk=risk,
        business=cases(recipe, rows, risk),
        licences={"teacher": recipe.teacher.licence, "data": recipe.data.licence},
        how={**task.how, **(how or {})},
        seconds=seconds,
    )
    return Comparison(evidence=found, answers=together(told), written=written_together(told))


def model_row(lesson: Lesson, each: Contender, quality: Quality, *, id: str) -> ModelRow:
    """One model's row: quality against the teacher, operations by target."""
    facts = describe(each.finalist.model.path / "model")
    roles: dict[str, Role] = {"chosen": "chosen", "teacher": "teacher", "distilled": "distilled"}
    return ModelRow(
        id=id,
        role=roles.get(id, "control"),
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
