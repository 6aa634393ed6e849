"""Choosing the winner, on validation rows only.

All finished trials are ranked by what the search knows (engine latency, size, the drop on validation); the best few
become finalists, are built for every target and measured through the running endpoint, and `decide.choose` picks one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from scipy.stats import norm

from deshi.jobs.contender import Contender, contender, teacher_contender
from deshi.jobs.evidence import decide
from deshi.jobs.evidence.figure import Figure
from deshi.jobs.evidence.kpis import MEASURES
from deshi.jobs.evidence.schema import Quality
from deshi.jobs.ladder import Line, Plan
from deshi.jobs.progress import Progress, describe
from deshi.jobs.stages.builds import size_mb
from deshi.jobs.stages.candidate import Candidate
from deshi.jobs.stages.lesson import Lesson
from deshi.jobs.storage import Output
from deshi.jobs.task import task_of
from deshi.jobs.trial import Bench
from deshi.serve.statistics import Interval


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """The winner, the teacher beside it, and whether every KPI holds on validation.

    `distilled` is the best distilled student where the winner is none: what distillation would have given.
    """

    winner: Contender
    teacher: Contender
    distilled: Contender | None
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
        finalists = [*finalists[: max(1, most - 1)], *shortlist(lesson, bench, trained, most=1)]
    contenders = [measured(line) for line in finalists]
    teacher = teacher_contender(lesson, bench)
    told = task_of(lesson.recipe).answered(lesson, [*contenders, teacher], "validation")
    measured_all = [_for_choice(lesson, each, told[each.id].quality) for each in contenders]
    business = lesson.recipe.business
    choice = decide.choose(
        measured_all,
        lesson.recipe.kpi,
        lesson.recipe.targets,
        margin=lesson.recipe.margin,
        peak_rps=business.peak_rps,
        requests_per_month=business.requests_per_month,
    )
    winner = next(each for each in contenders if each.id == choice.finalist.digest)
    distilled = next((each for each in contenders if each.candidate.steps), None)
    return Chosen(
        winner=winner,
        teacher=teacher,
        distilled=None if distilled is None or winner.candidate.steps else replace(distilled, id="distilled"),
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
                measures={name: _exactly(value) for name, value in line.get("measures", {}).items()},
            )
            for line in left
        ]
        choice = decide.choose(
            quick,
            recipe.kpi,
            recipe.targets,
            margin=recipe.margin,
            peak_rps=recipe.business.peak_rps,
            requests_per_month=recipe.business.requests_per_month,
        )
        best = next(line for line in left if line["id"] == choice.finalist.digest)
        taken.append(best)
        left.remove(best)
    return taken


def _for_choice(lesson: Lesson, each: Contender, quality: Quality) -> decide.Finalist:
    recipe = lesson.recipe
    targets = []
    for target in recipe.targets:
        measured = each.felt.get(target.name) or next(iter(each.felt.values()))
        p95 = measured.latency.p95.value
        first = measured.latency.first_token_p95.value if measured.latency.first_token_p95 else None
        token = measured.latency.per_token_p95.value if measured.latency.per_token_p95 else None
        if target.name not in each.felt:  # projected: as here, with that target's network
            further = target.rtt_ms - (measured.latency.network.value or 0.0)
            p95 = None if p95 is None else p95 + further
            first = None if first is None else first + further
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
                first_token_ms_p95=first,
                per_token_ms_p95=token,
            )
        )
    assert quality.drop is not None
    return decide.Finalist(
        digest=each.id,
        drop=_interval(quality.drop),
        targets=tuple(targets),
        measures={name: _interval(figure) for name, figure in quality.measures.items() if name in MEASURES},
    )


def _interval(figure: Figure) -> Interval:
    assert figure.value is not None and figure.n is not None
    low, high = (
        end if end is not None else infinite for end, infinite in ((figure.low, -math.inf), (figure.high, math.inf))
    )
    return Interval(value=figure.value, low=low, high=high, n=figure.n)


def teacher_score(lesson: Lesson, yardstick: Output, bench: Bench) -> float:
    """The teacher's score on the validation rows."""
    task = task_of(lesson.recipe)
    return float(task.judge(lesson, yardstick.path, task.yardstick, bench.threads)["score"])


def _noise(lesson: Lesson, line: Line) -> float:
    """Half width of the drop's interval when only the score is known: each disagreement moves it by one row at most."""
    n = max(lesson.splits.table("validation").num_rows, 1)
    z = float(norm.ppf((1 + lesson.recipe.kpi.quality.confidence) / 2))
    return z * math.sqrt(max(1 - line["agreement"], 0.01) / n)


def _exactly(value: float) -> Interval:
    return Interval(value=value, low=value, high=value, n=1)
