"""The task `classify`: one of the run's labels for each text. Its row in the table of tasks, and the pieces of it that
have no other home.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deshi.jobs.data.model_folder import check_model_folder
from deshi.jobs.data.split import make_splits
from deshi.jobs.data.tokens import tokenise
from deshi.jobs.evidence import measure, quality
from deshi.jobs.evidence.felt.endpoint import Felt, felt
from deshi.jobs.evidence.felt.latency import LatencyRow
from deshi.jobs.evidence.risk import risk
from deshi.jobs.evidence.scores import SCORES
from deshi.jobs.finalist import Finalist, local_threads
from deshi.jobs.ladder import Line
from deshi.jobs.preflight import refuse_unknown
from deshi.jobs.recipe import Recipe
from deshi.jobs.session import Machine
from deshi.jobs.stages import answers, builds, cut_classifier, prune, spaces, teach
from deshi.jobs.stages.architectures import ARCHITECTURES
from deshi.jobs.stages.candidate import Candidate
from deshi.jobs.stages.lesson import Lesson
from deshi.jobs.storage import Output
from deshi.jobs.task import Task
from deshi.serve.engines.table import ENGINES
from deshi.serve.kpi import Target
from deshi.serve.serving import SHAPE_CLASSES, ServedTarget, Serving
from deshi.serve.statistics import fit_temperature

CHANCE = 1.15  # a build this much slower than the best at every shape of the teacher is not tried on students
ONE_TEXT = "1x16"


def refuse(recipe: Recipe) -> None:
    """Raises ValueError for what this recipe may not ask of a classifier."""
    refuse_unknown("kpi.quality.score", recipe.kpi.quality.score, SCORES)
    refuse_too_long(recipe, check_model_folder(recipe.teacher.model))
    if recipe.student.model is not None:
        check_model_folder(recipe.student.model)


def refuse_too_long(recipe: Recipe, model: Path) -> None:
    """Raises ValueError if texts may be longer than the teacher has positions, or its family cannot be pruned."""
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    if config["model_type"] not in ARCHITECTURES:
        raise ValueError(
            f"teacher.model has model_type {config['model_type']!r}, which has no row in the table of architectures; "
            f"use one of {', '.join(ARCHITECTURES)}"
        )
    row = ARCHITECTURES[config["model_type"]]
    positions = config.get("max_position_embeddings")
    if positions is None:
        return
    most = positions - (config.get("pad_token_id", 1) + 1 if row.positions_count_from_padding else 0)
    if recipe.data.max_length > most:
        raise ValueError(
            f"data.max_length = {recipe.data.max_length} is more than the {most} positions of the teacher; write {most}"
        )


def ask(lesson: Lesson, machine: Machine) -> Lesson:
    """The lesson with the teacher's answers to all rows but those of the test."""
    asked = lesson.recipe.resources.teacher
    told = answers.ask(
        lesson.storage,
        Output(key=lesson.teacher_key, storage=lesson.storage),
        Output(key=lesson.splits_key, storage=lesson.storage),
        max_length=lesson.recipe.data.max_length,
        replicas=asked.replicas,
        batch=32 if asked.batch_size == "auto" else asked.batch_size,
        gpus_each=asked.gpus_each if machine.gpus else 0,
        cpus_each=1 if machine.gpus else max(1, machine.cpus // asked.replicas),
    )
    return lesson.answered(told)


def runnable(recipe: Recipe) -> tuple[str, ...]:
    """Builds of a transformer that can be made and run here, of the engines that the recipe allows."""
    return builds.runnable(recipe.search.engines, ENGINES)


def screened(rows: Sequence[LatencyRow], names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Scheme -> builds worth trying: those within `CHANCE` of their scheme's best at some shape of the teacher.

    A scheme that rounds must also be within `CHANCE` of the fastest of all at some shape, else it only loses accuracy.
    What rounds comes first, full precision last (`Bench.builds`).
    """
    ratio = {(row.engine, row.shape): row.ratio_to_reference for row in rows}
    shapes = sorted({row.shape for row in rows})

    def near_best(name: str, among: Sequence[str]) -> bool:
        return any(ratio[name, shape] <= CHANCE * min(ratio[other, shape] for other in among) for shape in shapes)

    kept = {}
    schemes = {name.rpartition("-")[2] for name in names}
    for scheme in sorted(schemes, key=lambda scheme: (scheme == "fp32", scheme)):
        of_scheme = [name for name in names if name.endswith(f"-{scheme}")]
        tried = tuple(name for name in of_scheme if near_best(name, of_scheme))
        if scheme == "fp32" or any(near_best(name, names) for name in tried):
            kept[scheme] = tried
    return kept


def typical(lesson: Lesson) -> tuple[int, int]:
    """One text, and the median of the validation rows' tokens."""
    texts = lesson.splits.table("validation")["text"].to_pylist()
    lengths = [len(ids) for ids in tokenise(lesson.teacher, texts, max_length=lesson.recipe.data.max_length).ids]
    return 1, int(np.median(lengths))


def judge(lesson: Lesson, folder: Path, build: str, threads: int) -> dict[str, Any]:
    """`quality` is the mean of the score on the validation labels and the agreement with the teacher on held-out
    unlabelled rows: the one has labels, the other has many rows."""
    splits, classes = lesson.splits, len(lesson.splits.labels)
    asked = measure.classifier(folder, lesson, measure.everywhere(build), threads=threads)
    validation = measure.answers(asked, splits.table("validation"), splits.labels)
    score = SCORES[lesson.recipe.kpi.quality.score](validation.labels, validation.predictions, classes)
    held_out = measure.answers(asked, splits.table("agreement"), splits.labels)
    agreement = float(np.mean(held_out.predictions == lesson.log_probabilities("agreement").argmax(axis=1)))
    return {"score": score, "agreement": agreement, "quality": (score + agreement) / 2}


def serving(lesson: Lesson, folder: Path, targets: dict[str, ServedTarget]) -> Serving:
    """What the ingress answers with; the temperature is calibrated on validation rows."""
    recipe, first = lesson.recipe, lesson.recipe.targets[0]
    asked = measure.classifier(folder, lesson, targets[first.name].builds, threads=local_threads(first))
    rows = measure.answers(asked, lesson.splits.table("validation"), lesson.splits.labels)
    return Serving(
        name=recipe.name,
        labels=lesson.splits.labels,
        max_length=recipe.data.max_length,
        temperature=round(fit_temperature(rows.log_probs, rows.labels), 4),
        targets=targets,
    )


def felt_at(lesson: Lesson, made: Finalist, target: Target) -> Felt:
    """Latency, throughput and memory through the endpoint, asked the validation rows."""
    recipe = lesson.recipe
    build = made.serving.targets[target.name].builds[ONE_TEXT]
    rows = made.latency[target.name]
    return felt(
        made.folder.path,
        target,
        lesson.splits.table("validation")["text"].to_pylist(),
        peak_rps=recipe.business.peak_rps,
        limit_ms=recipe.kpi.latency_ms_p95.get(target.name),
        confidence=recipe.kpi.quality.confidence,
        engine_ms=next(row.median_ms for row in rows if (row.engine, row.shape) == (build, ONE_TEXT)),
        seconds=recipe.resources.load_seconds,
        seed=recipe.seed,
    )


def controls(lines: Sequence[Line], winner: Line | None, teacher_depth: int) -> dict[str, Candidate]:
    """The teacher only quantized, and a static student told the labels."""
    tried = {line["candidate"]["scheme"] for line in lines if line["candidate"]["family"] == "transformer"}
    scheme = min(tried - {"fp32"}, default="fp32")
    return {
        "quantize-only": Candidate(order="quantize-only", layers=teacher_depth, scheme=scheme),
        "static": Candidate(family="static", told="labels", order="static", scheme="fp32"),
    }


HOW = {
    "intervals": "two-sided at kpi.quality.confidence; a verdict asks whether all of the interval lies "
    "within the limit",
    "selection": "candidates were ranked on validation labels and on agreement with the teacher on held-out "
    "unlabelled rows; the test rows were opened once, after the choice",
    "latency": "engines timed in one window, in random order, beside the teacher's fp32 build; latency as felt "
    "measured through the running endpoint, open loop at peak_rps on loopback, load generator on the same cores",
    "cost": "whole machines at peak_rps within the latency limit, paid all month; cost at full use is a lower bound",
    "controls": "the same shape, steps, labels and engine as the winner, without the teacher's answers",
}

TASK = Task(
    refuse=refuse,
    make_splits=lambda data, seed: make_splits(data, seed=seed),
    teach=lambda lesson, machine, key: teach.fit(lesson, machine, splits_key=key),
    pretrained=teach.with_head,
    given=lambda lesson, model: teach.finished("given", lesson, model),
    load=prune.load_classifier,
    ask=ask,
    yardstick=measure.YARDSTICK,
    runnable=runnable,
    screen=screened,
    typical=typical,
    # Finalists are timed at every shape; here the slowest one would take half a minute to say what the others say.
    screened_at=lambda _: {name: shape for name, shape in SHAPE_CLASSES.items() if name != "32x128"},
    latency=measure.latency,
    ground=spaces.of_classifier,
    on_the_way=lambda candidate, lesson: (),  # a classifier's head is refitted in closed form after any cut
    cut_to=lambda source, shape, lesson: source,
    cut_depth=cut_classifier.cut_depth,
    cut_width=cut_classifier.cut_width,
    judge=judge,
    ranked_on=lambda lesson: (lesson.splits.validation.num_rows, lesson.splits.agreement.num_rows),
    score_how="validation rows, Wilson",
    agreement_how="same class as the teacher on held-out unlabelled rows",
    serving=serving,
    one_request=ONE_TEXT,
    one_request_is="1 row of 16 tokens",
    fresh_start=True,
    untrained_speaks=False,
    felt=felt_at,
    controls=controls,
    answered=quality.answered,
    risk=risk.of_classifier,
    facts=quality.facts,
    score_name=lambda recipe: recipe.kpi.quality.score,
    how=HOW,
)
