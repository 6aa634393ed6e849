"""A vendor's model in the comparison: its quality, its row and its risk, from the answers that came from its URL.

What needs weights is not measured: KL, which takes the probability of every label, explanations, size, memory,
start-up, throughput. Confidence is exp(sum of the log-probabilities of the answer's tokens), where the endpoint tells
them; so is the calibration error then. Latency is of the requests that were asked anyway, as felt from this machine,
the way to the vendor in it. Its price is what the vendor asks for 1,000 requests, on every target the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from deshi.jobs.evidence import quality
from deshi.jobs.evidence.answered import Answered
from deshi.jobs.evidence.figure import Figure, figure_of
from deshi.jobs.evidence.risk import changes, risk_ledger
from deshi.jobs.evidence.risk.risk import confident_wrong, costs
from deshi.jobs.evidence.risk.risk_schema import Risk
from deshi.jobs.evidence.schema import DataFacts, LatencyParts, ModelRow, Quality, Removed, TargetRow
from deshi.jobs.evidence.vendor.asking import matched, most_tokens, prompt_of
from deshi.jobs.evidence.vendor.vendor import Vendor
from deshi.jobs.evidence.vendor.vendor_schema import AskedModel
from deshi.jobs.recipe import Recipe
from deshi.jobs.stages.lesson import Lesson
from deshi.jobs.storage import digest_of
from deshi.serve.statistics import expected_calibration_error, proportion_interval, quantile_interval

Lines = Sequence[Mapping[str, Any]]
URL_BUILD = "url"  # stands where a model that is held has its engine build
NO_KL = "not measured: a KL needs the probability of every label, which the URL does not give"
NO_CONFIDENCE = "not measured: the URL does not say how likely its tokens are"
NOT_HERE = "not measured: the model runs at the vendor"
WITHIN = "not measured apart: it is part of the latency as felt"
UNMATCHED = "answers that are none of the labels after trimming and case folding, counted as wrong, Wilson"
CALIBRATION = "expected calibration error, 15 bins, of exp(sum of the answer's token log-probabilities)"
PRICE = "the vendor's price, --price-per-1000"
ASKED = (
    "each test row once, at temperature 0, by a prompt that lists the labels and demands exactly one of them: model "
    "{model} at {url}"
)


def asked_model(vendor: Vendor, labels: Sequence[str], lines: Lines) -> AskedModel:
    """What was asked, and how it went."""
    return AskedModel(
        url=vendor.url,
        model=vendor.model,
        prompt=prompt_of(labels),
        max_tokens=most_tokens(labels),
        at_once=tuple(sorted({line["at_once"] for line in lines})),
        tried_again=sum(line["tries"] - 1 for line in lines),
        logprobs=any(line["logprob"] is not None for line in lines),
    )


def answered(lesson: Lesson, lines: Lines, taught: Answered) -> Answered:
    """The answers to the test rows as `Answered` keeps them, and the quality beside the teacher's.

    `written` holds the replies as they came, so that anyone can match them to labels again.
    """
    labels, truth = lesson.splits.labels, taught.rows["label"].to_pylist()
    replies = [line["text"] for line in lines]
    rows = pa.table(
        {
            "row": np.arange(len(lines)),
            "label": pa.array(truth, pa.string()),
            "answer": pa.array([matched(reply, labels) for reply in replies], pa.string()),
            "confidence": pa.array([confidence_of(line) for line in lines], pa.float32()),  # as of held models
            "kl": pa.nulls(len(lines), pa.float64()),
        }
    )
    written = pa.table(
        {
            "row": np.arange(len(lines)),
            "text": pa.array(replies, pa.string()),
            "length": pa.array([line["tokens"] for line in lines], pa.int64()),
            "ended": pa.array([line["ended"] for line in lines], pa.bool_()),
        }
    )
    return Answered(quality=_quality(lesson, rows, taught.rows), rows=rows, written=written)


def confidence_of(line: Mapping[str, Any]) -> float | None:
    """Probability of the answer, word for word."""
    return None if line["logprob"] is None else min(1.0, math.exp(line["logprob"]))


def _quality(lesson: Lesson, rows: pa.Table, taught: pa.Table) -> Quality:
    settings = lesson.recipe.kpi.quality
    mine, theirs = (quality.picked(table, lesson.splits.labels) for table in (rows, taught))
    none = proportion_interval(rows["answer"].null_count, len(rows), confidence=settings.confidence)
    return Quality(
        score=quality.scorefigure_of(lesson, mine),
        kl=Figure(value=None, unit="nats", basis="not measured", how=NO_KL),
        calibration_error=_calibration(rows, confidence=settings.confidence, seed=lesson.recipe.seed),
        measures={"unmatched": figure_of(none, "share", UNMATCHED)},
        **quality.beside(lesson, mine, theirs, "test"),
    )


def _calibration(rows: pa.Table, *, confidence: float, seed: int) -> Figure:
    told = rows.filter(rows["confidence"].is_valid())
    if not len(told):
        return Figure(value=None, unit="share", basis="not measured", how=NO_CONFIDENCE)
    sure = told["confidence"].to_numpy()
    right = np.array(told["answer"].to_pylist()) == np.array(told["label"].to_pylist())
    # The error asks for the likeliest class alone: the answer is class 0, and true is 0 where it is right.
    alone = np.stack([sure, np.zeros_like(sure)], axis=1)
    found = expected_calibration_error(alone, np.where(right, 0, 1), confidence=confidence, seed=seed)
    return figure_of(found, "share", CALIBRATION)


def row(recipe: Recipe, model: AskedModel, told: Answered, lines: Lines, *, price: float | None) -> ModelRow:
    """Its row: nothing of it lies here, so it has no shape, no size and no machines."""
    latency = latency_of(model, [line["ms"] for line in lines if line["ms"]], recipe.kpi.quality.confidence)

    def not_here(unit: str) -> Figure:
        return Figure(value=None, unit=unit, basis="not measured", how=NOT_HERE)

    priced = Figure(value=price, unit=recipe.business.currency, basis="computed", how=PRICE)
    places = tuple(
        TargetRow(
            target=target.name,
            build=URL_BUILD,
            engine_ms=not_here("ms"),
            ratio_to_teacher=not_here("ratio"),
            latency=latency,
            memory_mb=not_here("MB"),
            startup_s=not_here("s"),
            size_mb=not_here("MB"),
            cost_per_1000=None if price is None else priced,
        )
        for target in recipe.targets
    )
    return ModelRow(
        id="chosen",
        role="chosen",
        digest=digest_of(model.model_dump(include={"url", "model", "prompt", "temperature", "max_tokens"})),
        parameters=None,
        layers=None,
        ffn=None,
        vocabulary=None,
        scheme="–",
        training_steps=0,
        quality=told.quality,
        targets=places,
        asked=model,
    )


def latency_of(model: AskedModel, ms: Sequence[float], confidence: float) -> LatencyParts | None:
    """What a request took from here; None where none was answered."""
    if not ms:
        return None
    most, least = max(model.at_once), min(model.at_once)
    at_once = str(most) if most == least else f"{least} to {most}"
    how = f"the test rows' own requests to the URL, {at_once} at a time from this machine, the last try of each"

    def figure(quantile: float) -> Figure:
        return figure_of(quantile_interval(ms, quantile, confidence=confidence), "ms", how)

    within = Figure(value=None, unit="ms", basis="not measured", how=WITHIN)
    return LatencyParts(
        p50=figure(0.5), p95=figure(0.95), engine_p95=within, queue_p95=within, http_p95=within, network=within
    )


def risk(lesson: Lesson, rows: Sequence[ModelRow], told: Mapping[str, Answered], facts: DataFacts) -> Risk:
    """As of any classifier, without what needs weights; `rows` are those of the evidence, chosen and teacher first."""
    mine, taught = told["chosen"], told["teacher"]
    sure = mine.rows["confidence"].null_count < len(mine.rows)
    found = Risk(
        confident_wrong=confident_wrong(lesson, mine.rows) if sure else None,
        teacher_confident_wrong=confident_wrong(lesson, taught.rows),
        calibration_after=mine.quality.calibration_error,
        changed=changes.counted(mine.rows, taught.rows),
        **costs(lesson, mine.rows, taught.rows),
    )
    return found.model_copy(
        update={"ledger": risk_ledger.ledger(lesson.recipe, rows[0], rows[1], facts, Removed(), found)}
    )
