"""How the winner came to be, as rows of the evidence: the front, the waterfall of its stages, the orders compared, and
what was removed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from deshi.jobs.choose import Chosen
from deshi.jobs.contender import Contender
from deshi.jobs.data.model_folder import describe
from deshi.jobs.evidence.business import money
from deshi.jobs.evidence.figure import Figure
from deshi.jobs.evidence.schema import OrderRow, Removed, TrialPoint, WaterfallStep
from deshi.jobs.ladder import Line, Plan, dominates, promising
from deshi.jobs.session import Machine
from deshi.jobs.stages import builds, chain
from deshi.jobs.stages.candidate import Candidate
from deshi.jobs.stages.lesson import Lesson
from deshi.jobs.stages.orders import legal
from deshi.jobs.storage import Output
from deshi.jobs.task import task_of
from deshi.jobs.trial import Bench
from deshi.serve.statistics import proportion_interval

BITS = {
    "fp32": "32-bit floating point",
    "w8a8": "8-bit weights and activations",
    "w8a16": "8-bit weights",
    "f16": "16-bit floating point",
    "q8_0": "8-bit weights in blocks of 32",
    "q4_0": "4-bit weights in blocks of 32",
}


@dataclass(frozen=True, kw_only=True)
class Story:
    """The four parts. What no search made has no front, no stages and no orders."""

    front: tuple[TrialPoint, ...] = ()
    waterfall: tuple[WaterfallStep, ...] = ()
    orders: tuple[OrderRow, ...] = ()
    removed: Removed


def of_search(
    lesson: Lesson, machine: Machine, bench: Bench, plan: Plan, chosen: Chosen, lines: Sequence[Line]
) -> Story:
    """The story of a winner that the search found."""
    return Story(
        front=front(lines, chosen.winner.id),
        waterfall=waterfall(lesson, machine, bench, chosen),
        orders=orders(lesson, plan, lines),
        removed=removed(lesson, chosen.winner),
    )


def front(lines: Sequence[Line], chosen_id: str) -> tuple[TrialPoint, ...]:
    """Every trial that succeeded, and whether it is on the front of quality, latency and size."""
    good = [line for line in lines if line["error"] is None]
    points = []
    for number, line in enumerate(good):
        candidate = Candidate(**line["candidate"])
        points.append(
            TrialPoint(
                number=number,
                family=candidate.family,
                chain=candidate.chain,
                rung=line["rung"],
                score=line["score"],
                agreement=line["agreement"],
                latency_ms=line["latency_ms"],
                size_mb=line["size_mb"],
                on_front=not any(dominates(other, line) for other in good),
                chosen=line["id"] == chosen_id,
            )
        )
    return tuple(points)


def waterfall(lesson: Lesson, machine: Machine, bench: Bench, chosen: Chosen) -> tuple[WaterfallStep, ...]:
    """The winner after each stage that changed it, on validation rows and the first target."""
    candidate, task = chosen.winner.candidate, task_of(lesson.recipe)
    steps: list[WaterfallStep] = []
    seen: set[str] = set()
    yardstick = Output(key=bench.yardstick_key, storage=lesson.storage)
    made = chain.steps_of(candidate, lesson, machine)
    if made[0][1].key != lesson.teacher_key:
        made.insert(0, ("teacher", Output(key=lesson.teacher_key, storage=lesson.storage)))
    for stage, model in made:
        is_last = stage in ("quantize", "static")
        build = task.yardstick
        if is_last:
            build = next(iter(chosen.winner.finalist.serving.targets.values())).builds[task.one_request]
        if stage == "static" or f"{model.key}/{build}" not in seen:
            name = "teacher" if model.key == lesson.teacher_key and not is_last else stage
            steps.append(_after(name, model, build, lesson, bench, yardstick))
        seen.add(f"{model.key}/{build}")
    return tuple(steps)


def _after(stage: str, model: Output, build: str, lesson: Lesson, bench: Bench, yardstick: Output) -> WaterfallStep:
    task, target = task_of(lesson.recipe), lesson.recipe.targets[0]
    served = builds.export(lesson, model, [build])
    rows = task.latency(lesson, served, yardstick, builds=[build], threads=bench.threads, shapes=bench.shape)
    ms = next(row.median_ms for row in rows if row.engine == build)
    return WaterfallStep(
        stage=stage,
        score=task.judge(lesson, served.path, build, bench.threads)["score"],
        latency_ms=ms,
        size_mb=builds.size_mb(served.path, [build]),
        cost_per_1000=money.cost_per_1000_full_use(target.price_per_hour, 1e3 / ms),
    )


def orders(lesson: Lesson, plan: Plan, lines: Sequence[Line]) -> tuple[OrderRow, ...]:
    """Each stage order on one shape at one budget; the illegal ones with the reason."""
    bottom, task = [line for line in lines if line["rung"] == 0], task_of(lesson.recipe)
    shapes = promising(bottom, plan)
    found = []
    for order in plan.orders:
        why_not = legal(order.chain, parent_kept=True)
        if why_not is not None:
            found.append(OrderRow(name=order.name, chain=order.chain, article=order.article, illegal=why_not))
            continue
        line = next((line for line in lines if line["error"] is None and _is(line, order.name, shapes)), None)
        if line is None:
            continue
        n, beside = task.ranked_on(lesson)
        share = proportion_interval(round(line["score"] * n), n, confidence=lesson.recipe.kpi.quality.confidence)
        found.append(
            OrderRow(
                name=order.name,
                chain=order.chain,
                article=order.article,
                score=Figure(
                    value=line["score"],
                    unit="share",
                    n=n,
                    low=share.low,
                    high=share.high,
                    how=task.score_how,
                ),
                agreement=Figure(
                    value=line["agreement"],
                    unit="share",
                    n=beside,
                    how=task.agreement_how,
                ),
                size_mb=line["size_mb"],
                training_steps=line["candidate"]["steps"],
            )
        )
    return tuple(found)


def _is(line: Line, name: str, shapes: Sequence[Candidate]) -> bool:
    candidate = Candidate(**line["candidate"])
    if candidate.order != name:
        return False
    if not candidate.steps or "prune" not in candidate.chain:
        return True
    return bool(shapes) and candidate.shape == shapes[0].shape


def removed(lesson: Lesson, winner: Contender) -> Removed:
    """What the winner no longer has, against the teacher."""
    candidate = winner.candidate
    mine, full = describe(winner.finalist.model.path / "model"), describe(lesson.teacher)
    share = 1 - mine.parameters / full.parameters
    if candidate.family == "static":
        return Removed(
            layers=tuple(range(full.layers)),
            ffn_share=1.0,
            vocabulary=full.vocabulary - mine.vocabulary,
            parameters_share=share,
            bits=BITS[candidate.scheme],
        )
    layers: tuple[int, ...] = ()
    if candidate.family != "given" and candidate.start != "student-model":
        kept = chain.kept_layers(candidate, lesson)
        layers = tuple(layer for layer in range(full.layers) if layer not in kept)
    return Removed(
        layers=layers,
        ffn_share=max(0.0, 1 - (mine.ffn or 0) / full.ffn if full.ffn else 0.0),
        vocabulary=max(0, full.vocabulary - mine.vocabulary),
        parameters_share=max(0.0, share),
        bits=BITS[candidate.scheme],
    )
