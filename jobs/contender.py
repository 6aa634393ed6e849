"""A model in the final comparison: built for every target, felt through its endpoint, asked the rows of a split."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from deshi.jobs import finalist as building
from deshi.jobs.evidence import measure
from deshi.jobs.evidence.endpoint import Felt, felt
from deshi.jobs.evidence.scores import SCORES
from deshi.jobs.finalist import Finalist
from deshi.jobs.ladder import Plan
from deshi.jobs.session import describe_machine
from deshi.jobs.stages.candidate import Candidate
from deshi.jobs.stages.lesson import Lesson
from deshi.jobs.storage import Output
from deshi.jobs.trial import Bench
from deshi.serve.statistics import PairedDrop, paired_score_drop


@dataclass(frozen=True, kw_only=True)
class Contender:
    """A model in the final comparison: who it is, its folder, and what was felt through its endpoint by target."""

    id: str
    candidate: Candidate
    finalist: Finalist
    felt: dict[str, Felt]


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
