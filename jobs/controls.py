"""The controls: what the winner must be better than, made from the same rows at the same shape and budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from deshi.jobs.choose import Chosen
from deshi.jobs.contender import Contender, contender
from deshi.jobs.evidence.schema import LeftOut
from deshi.jobs.ladder import Line, Plan, in_order, promising
from deshi.jobs.session import Machine
from deshi.jobs.stages import chain
from deshi.jobs.stages.candidate import Candidate, Start
from deshi.jobs.stages.lesson import Lesson
from deshi.jobs.task import task_of
from deshi.jobs.trial import Bench


@dataclass(frozen=True, kw_only=True)
class Controls:
    """The controls that could be made, and those that could not, each with the reason."""

    made: tuple[Contender, ...]
    left_out: tuple[LeftOut, ...]


def controls(
    lesson: Lesson, machine: Machine, bench: Bench, plan: Plan, chosen: Chosen, lines: Sequence[Line]
) -> Controls:
    """What the winner must beat, at the same shape and the same number of steps.

    Those of the task (the teacher only quantized, a static student); the same student from pretrained layers and from
    the teacher's layers, told the labels or the text itself and not the answers; and, of a language model, the same
    student cut and not trained. One that this teacher does not allow is left out with the reason.
    """
    task = task_of(lesson.recipe)
    won = next((line for line in lines if line["id"] == chosen.winner.id), None)
    wanted = task.controls(lines, won, plan.teacher_depth)
    shape = controlled_shape(chosen.winner.candidate, plan, lines)
    if shape is not None:
        start: Start = "student-model" if plan.start == "student-model" else "pretrained"
        if task.fresh_start:
            wanted["undistilled-pretrained"] = shape.model_copy(update={"start": start, "told": "labels"})
        if plan.start == "teacher":
            wanted["undistilled-teacher"] = shape.model_copy(update={"told": "labels"})
        if task.untrained_speaks:
            wanted["unrecovered"] = shape.model_copy(update={"order": "prune-quantize", "steps": 0})
    made, left_out = [], []
    for id, candidate in wanted.items():
        if candidate.id == chosen.winner.id:
            continue
        try:
            model = chain.make(candidate, lesson, machine)
            made.append(contender(id, candidate, lesson, bench, model, measured=False))
        except ValueError as error:
            left_out.append(LeftOut(id=id, reason=" ".join(str(error).split())[:500]))
    return Controls(made=tuple(made), left_out=tuple(left_out))


def controlled_shape(winner: Candidate, plan: Plan, lines: Sequence[Line]) -> Candidate | None:
    """The trained student whose undistilled twins are made: the winner, else the best that was trained, else the
    shape most worth training; None where no shape can be trained."""
    if winner.family == "transformer" and winner.steps:
        return winner
    trained = [line for line in lines if line["error"] is None and line["rung"] == 1]
    if trained:
        return Candidate(**max(trained, key=lambda line: (line["quality"], line["id"]))["candidate"])
    shapes = promising([line for line in lines if line["rung"] == 0], plan)
    orders = plan.training_orders
    return in_order(shapes[0], orders[0], plan) if shapes and orders else None
