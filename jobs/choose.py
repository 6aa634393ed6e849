"""Choosing the winner, on validation rows only, and making the controls that it must be compared with.

All finished trials are ranked by what the search knows (engine latency, size, the drop on validation); the best few
become finalists, are built for every target and measured through the running endpoint, and `decide.choose` picks one.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from scipy.stats import norm

from deshi.jobs import finalist as building
from deshi.jobs.evidence import decide, measure
from deshi.jobs.evidence.endpoint import Felt, felt
from deshi.jobs.evidence.schema import LeftOut
from deshi.jobs.evidence.scores import SCORES
from deshi.jobs.finalist import Finalist
from deshi.jobs.ladder import Line, Plan, in_order, promising
from deshi.jobs.progress import Progress, describe
from deshi.jobs.session import Machine
from deshi.jobs.stages import chain
from deshi.jobs.stages.candidate import Candidate, Start
from deshi.jobs.stages.lesson import Lesson
from deshi.jobs.storage import Output
from deshi.jobs.trial import Bench
from deshi.serve.statistics import Interval, PairedDrop, paired_score_drop


@dataclass(frozen=True, kw_only=True)
class Contender:
    """A model in the final comparison: who it is, its folder, and what was felt through its endpoint by target."""

    id: str
    candidate: Candidate
    finalist: Finalist
    felt: dict[str, Felt]


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """The winner, the teacher beside it, and whether every KPI holds on validation.

    `distilled` is the best distilled student where the winner is none: what distillation would have given.
    """

    winner: Contender
    teacher: Contender
    distilled: Contender | None
    yardstick_key: str
    feasible: bool
    violations: dict[str, float]


def choose(lesson: Lesson, bench: Bench, plan: Plan, lines: Sequence[Line], *, most: int, said: Progress) -> Chosen:
    """Measures the finalists and the teacher as a user feels them, and chooses.

    Raises:
        ValueError: if no trial succeeded.
    """
    good = [line for line in lines if line["error"] is None]
    if not good:
        reason = lines[0]["error"] if lines else "none was run"
        raise ValueError(f"none of {len(lines)} trials succeeded ({reason}); mend that and run the recipe again")

    def measured(line: Line) -> Contender:
        candidate = Candidate(**line["candidate"])
        said.note(f"finalist: {describe(candidate)}")
        model = Output(key=line["model"], storage=lesson.storage)
        return contender(line["id"], candidate, lesson, bench, model, measured=True)

    finalists = shortlist(lesson, bench, good, most=most)
    trained = [line for line in good if line["rung"] == 1]
    if trained and not any(line["rung"] == 1 for line in finalists):  # one place is the best distilled student's
        finalists[1:] = [*finalists[1:-1], *shortlist(lesson, bench, trained, most=1)]
    contenders = [measured(line) for line in finalists]
    teacher = teacher_contender(lesson, bench, plan)
    told = [_for_choice(lesson, each, teacher) for each in contenders]
    business = lesson.recipe.business
    choice = decide.choose(
        told,
        lesson.recipe.kpi,
        lesson.recipe.targets,
        peak_rps=business.peak_rps,
        requests_per_month=business.requests_per_month,
    )
    winner = next(each for each in contenders if each.id == choice.finalist.digest)
    distilled = next((each for each in contenders if each.candidate.steps), None)
    return Chosen(
        winner=winner,
        teacher=teacher,
        distilled=None if distilled is None or winner.candidate.steps else replace(distilled, id="distilled"),
        yardstick_key=bench.yardstick_key,
        feasible=choice.feasible,
        violations=dict(choice.violations),
    )


def shortlist(lesson: Lesson, bench: Bench, good: Sequence[Line], *, most: int) -> list[Line]:
    """The lines that `decide.choose` would take one after the other, by what the search knows of them."""
    recipe, left = lesson.recipe, list(good)
    taken: list[Line] = []
    teacher = teacher_score(lesson, Output(key=bench.yardstick_key, storage=lesson.storage), bench)
    while left and len(taken) < most:
        quick = [
            decide.Finalist(
                digest=line["id"],
                drop=Interval(
                    value=teacher - line["score"],
                    low=teacher - line["score"] - _noise(lesson, line),
                    high=teacher - line["score"] + _noise(lesson, line),
                    n=lesson.splits.table("validation").num_rows,
                ),
                targets=tuple(
                    decide.FinalistTarget(
                        target=target.name,
                        latency_ms_p95=line["latency_ms"] + target.rtt_ms,
                        size_mb=line["size_mb"],
                        memory_mb=0.0,
                        rps=_exactly(1e3 / line["latency_ms"]),
                    )
                    for target in recipe.targets
                ),
            )
            for line in left
        ]
        choice = decide.choose(
            quick,
            recipe.kpi,
            recipe.targets,
            peak_rps=recipe.business.peak_rps,
            requests_per_month=recipe.business.requests_per_month,
        )
        best = next(line for line in left if line["id"] == choice.finalist.digest)
        taken.append(best)
        left.remove(best)
    return taken


def contender(
    id: str, candidate: Candidate, lesson: Lesson, bench: Bench, model: Output, *, measured: bool
) -> Contender:
    """Builds a model for every target; `measured` runs its endpoint on the targets that this machine can be."""
    recipe, cores = lesson.recipe, os.cpu_count() or 1
    names = ("static-fp32",) if candidate.family == "static" else bench.builds[candidate.scheme]
    yardstick = Output(key=bench.yardstick_key, storage=lesson.storage)
    made = building.finalist(id, lesson, model, names, yardstick, cores=cores)
    felt_at = {}
    for target in recipe.targets if measured else ():
        if target.threads <= cores:
            felt_at[target.name] = _felt(lesson, made, target.name)
    return Contender(id=id, candidate=candidate, finalist=made, felt=felt_at)


def _felt(lesson: Lesson, made: Finalist, name: str) -> Felt:
    """Measured once per folder and target; kept like every other finished output."""
    from deshi.jobs.session import describe_machine

    recipe = lesson.recipe
    target = next(target for target in recipe.targets if target.name == name)
    inputs = {
        "folder": made.folder.key,
        "target": target.model_dump(),
        "peak_rps": recipe.business.peak_rps,
        "limit": recipe.kpi.latency_ms_p95.get(name),
        "seconds": recipe.resources.load_seconds,
        "cpu": describe_machine()["cpu"],
    }

    def build(out: Path) -> None:
        texts = lesson.splits.table("validation")["text"].to_pylist()
        build = made.serving.targets[name].builds["1x16"]
        engine_ms = next(row.median_ms for row in made.latency[name] if (row.engine, row.shape) == (build, "1x16"))
        result = felt(
            made.folder.path,
            target,
            texts,
            peak_rps=recipe.business.peak_rps,
            limit_ms=recipe.kpi.latency_ms_p95.get(name),
            confidence=recipe.kpi.quality.confidence,
            engine_ms=engine_ms,
            seconds=recipe.resources.load_seconds,
            seed=recipe.seed,
        )
        (out / "felt.json").write_text(result.model_dump_json(), encoding="utf-8")

    return Felt.model_validate_json((lesson.storage.stage("felt", inputs, build).path / "felt.json").read_text())


def teacher_contender(lesson: Lesson, bench: Bench, plan: Plan) -> Contender:
    """The teacher in full precision on its best engine: what the company would run without Deshi's work."""
    scheme = "fp32" if "fp32" in bench.builds else next(iter(bench.builds))
    candidate = Candidate(order="quantize-only", layers=plan.teacher_depth, scheme=scheme)
    model = Output(key=lesson.teacher_key, storage=lesson.storage)
    return contender("teacher", candidate, lesson, bench, model, measured=True)


@dataclass(frozen=True, kw_only=True)
class Controls:
    """The controls that could be made, and those that could not, each with the reason."""

    made: tuple[Contender, ...]
    left_out: tuple[LeftOut, ...]


def controls(
    lesson: Lesson, machine: Machine, bench: Bench, plan: Plan, chosen: Chosen, lines: Sequence[Line]
) -> Controls:
    """What the winner must beat, at the same shape and the same number of steps.

    Quantize-only teacher; the same student from pretrained layers and from the teacher's layers, told the labels and
    not the answers; a static student told the labels. One that this teacher does not allow is left out with the reason.
    """
    scheme = next((scheme for scheme in bench.builds if scheme != "fp32"), "fp32")
    wanted = {
        "quantize-only": Candidate(order="quantize-only", layers=plan.teacher_depth, scheme=scheme),
        "static": Candidate(family="static", told="labels", order="static", scheme="fp32"),
    }
    shape = controlled_shape(chosen.winner.candidate, plan, lines)
    if shape is not None:
        start: Start = "student-model" if plan.start == "student-model" else "pretrained"
        wanted["undistilled-pretrained"] = shape.model_copy(update={"start": start, "told": "labels"})
        if plan.start == "teacher":
            wanted["undistilled-teacher"] = shape.model_copy(update={"told": "labels"})
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


def _for_choice(lesson: Lesson, each: Contender, teacher: Contender) -> decide.Finalist:
    from deshi.jobs.stages.builds import size_mb

    recipe = lesson.recipe
    drop = paired(lesson, each, teacher).drop
    targets = []
    for target in recipe.targets:
        measured = each.felt.get(target.name) or next(iter(each.felt.values()))
        p95 = measured.latency.p95.value
        if target.name not in each.felt and p95 is not None:  # projected: as here, with that target's network
            p95 += target.rtt_ms - (measured.latency.network.value or 0.0)
        builds = each.finalist.serving.targets[target.name].build_ids
        rate = measured.throughput_rps
        targets.append(
            decide.FinalistTarget(
                target=target.name,
                latency_ms_p95=p95,
                size_mb=size_mb(each.finalist.folder.path, builds),
                memory_mb=measured.memory_mb.value if target.name in each.felt else None,
                rps=Interval(value=rate.value, low=rate.low or rate.value, high=rate.high or rate.value, n=1)
                if rate.value
                else None,
            )
        )
    return decide.Finalist(digest=each.id, drop=drop, targets=tuple(targets))


def paired(lesson: Lesson, each: Contender, teacher: Contender) -> PairedDrop:
    """The drop of the task's score against the teacher on the validation rows."""
    return drop_between(lesson, asked(lesson, each, "validation"), asked(lesson, teacher, "validation"))


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
    threads = building.local_threads(lesson.recipe.targets[0], os.cpu_count() or 1)
    model = measure.classifier(each.finalist.folder.path, lesson, target.builds, threads=threads)
    return measure.answers(model, lesson.splits.table(split), lesson.splits.labels, temperature=serving.temperature)


def teacher_score(lesson: Lesson, yardstick: Output, bench: Bench) -> float:
    """The teacher's score on the validation rows."""
    model = measure.classifier(yardstick.path, lesson, measure.everywhere(measure.YARDSTICK), threads=bench.threads)
    rows = measure.answers(model, lesson.splits.table("validation"), lesson.splits.labels)
    return SCORES[lesson.recipe.kpi.quality.score](rows.labels, rows.predictions, len(lesson.splits.labels))


def _noise(lesson: Lesson, line: Line) -> float:
    """Half width of the drop's interval when only the score is known: each disagreement moves it by one row at most."""
    n = max(lesson.splits.table("validation").num_rows, 1)
    z = float(norm.ppf((1 + lesson.recipe.kpi.quality.confidence) / 2))
    return z * math.sqrt(max(1 - line["agreement"], 0.01) / n)


def _exactly(value: float) -> Interval:
    return Interval(value=value, low=value, high=value, n=1)
