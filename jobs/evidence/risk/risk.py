"""The risk of the change, from the answers to the test rows: of a classifier in full, of a language model its ledger.

Confident errors, calibration before and after temperature, the cost of errors, agreement of reasons, what rounding does
to rare words, the answers that changed, and the ledger over all of it. What costs time is a finished output; the rest
is computed from the rows of `test-answers.parquet`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from deshi.jobs.contender import Contender
from deshi.jobs.data.model_folder import describe
from deshi.jobs.evidence.answered import Answered
from deshi.jobs.evidence.figure import Figure, figure_of
from deshi.jobs.evidence.measure import Answers
from deshi.jobs.evidence.risk import changes, error_cost, explanations, rare_words, risk_ledger
from deshi.jobs.evidence.risk.risk_schema import Explanations, Risk
from deshi.jobs.evidence.schema import DataFacts, ModelRow, Removed
from deshi.jobs.preflight import teacher_rows
from deshi.jobs.session import Machine
from deshi.jobs.stages import teach
from deshi.jobs.stages.lesson import Lesson
from deshi.jobs.stages.prune import load_classifier
from deshi.jobs.storage import Output
from deshi.serve import statistics
from deshi.serve.statistics import Interval

SURE = 0.9  # confidence from which a wrong answer is a confident one
RESEEDED = 1  # added to the recipe's seed for the teacher that the ceiling is measured with


@dataclass(frozen=True, kw_only=True)
class Compared:
    """What the comparison on the test rows found: the models, their answers by id ("chosen", "teacher", ...), their
    rows of the evidence (the chosen first, the teacher second), the data, and what was removed."""

    winner: Contender
    teacher: Contender
    told: Mapping[str, Answered]
    rows: Sequence[ModelRow]
    facts: DataFacts
    removed: Removed


def of_classifier(lesson: Lesson, machine: Machine, found: Compared) -> Risk:
    """All of it."""
    told, taught = found.told["chosen"], found.told["teacher"]
    assert told.told is not None, "a classifier with weights tells the probability of every class"
    rounding = rare_words.divergence(lesson, found.winner, told.rows["answer"].to_pylist())
    risk = Risk(
        confident_wrong=confident_wrong(lesson, told.rows),
        teacher_confident_wrong=confident_wrong(lesson, taught.rows),
        calibration_before=calibration_before(lesson, told.told, found.winner.finalist.serving.temperature),
        calibration_after=told.quality.calibration_error,
        explanations=reasons(lesson, machine, found.winner.finalist.model),
        rare_divergence=None if rounding is None else rounding.rare,
        common_divergence=None if rounding is None else rounding.common,
        changed=changes.counted(told.rows, taught.rows),
        **costs(lesson, told.rows, taught.rows),
    )
    return _with_ledger(lesson, found, risk)


def of_language_model(lesson: Lesson, machine: Machine, found: Compared) -> Risk:
    """The ledger alone: written text is not right or wrong, so it has no confident errors and no answers that flip."""
    return _with_ledger(lesson, found, Risk())


def _with_ledger(lesson: Lesson, found: Compared, risk: Risk) -> Risk:
    chosen, teacher = found.rows[:2]
    rows = risk_ledger.ledger(lesson.recipe, chosen, teacher, found.facts, found.removed, risk)
    return risk.model_copy(update={"ledger": rows})


def confident_wrong(lesson: Lesson, rows: pa.Table) -> Figure:
    """Share of the test rows that are answered wrongly with a confidence of `SURE` or more."""
    wrong = np.array(rows["answer"].to_pylist()) != np.array(rows["label"].to_pylist())
    sure = rows["confidence"].to_numpy() >= SURE
    found = statistics.proportion_interval(
        int(np.sum(wrong & sure)), len(wrong), confidence=lesson.recipe.kpi.quality.confidence
    )
    return figure_of(found, "share", f"test rows wrong with a confidence of {SURE} or more, Wilson")


def calibration_before(lesson: Lesson, told: Answers, temperature: float) -> Figure:
    """The calibration error that these answers would have without their temperature."""
    raw = at_temperature_1(told, temperature)
    kpi = lesson.recipe.kpi.quality
    found = statistics.expected_calibration_error(
        np.exp(raw), told.labels, confidence=kpi.confidence, seed=lesson.recipe.seed
    )
    return figure_of(found, "share", "expected calibration error, 15 bins, at temperature 1")


def at_temperature_1(told: Answers, temperature: float) -> np.ndarray:
    """Log-probabilities [n, k] with the temperature taken out again: T log p, made to sum to 1."""
    raw = told.log_probs.astype(np.float64) * temperature
    return raw - np.logaddexp.reduce(raw, axis=1, keepdims=True)


def costs(lesson: Lesson, told: pa.Table, taught: pa.Table) -> dict[str, Figure]:
    """What errors cost a 1,000 requests; empty where the recipe prices none."""
    price, recipe = lesson.recipe.business.error_cost, lesson.recipe
    if price is None:
        return {}
    settings: dict[str, Any] = {"confidence": recipe.kpi.quality.confidence, "seed": recipe.seed}

    def money(found: Interval, how: str) -> Figure:
        return figure_of(found, recipe.business.currency, how)

    mean = "1,000 x mean price of a test row's answer, bootstrap over rows"
    paired = "1,000 x mean of this model's price minus the teacher's on the same test row, bootstrap over rows"
    return {
        "error_cost_per_1000": money(error_cost.cost_per_1000(price, told, **settings), mean),
        "teacher_error_cost_per_1000": money(error_cost.cost_per_1000(price, taught, **settings), mean),
        "error_cost_difference_per_1000": money(
            error_cost.difference_per_1000(price, told, taught, **settings), paired
        ),
    }


def reasons(lesson: Lesson, machine: Machine, student: Output) -> Explanations | None:
    """Agreement of explanations; None of a static student, which has no layers that gradients could pass."""
    if describe(student.path / "model").model_type == "model2vec":
        return None
    return explanations.explanations(lesson, student, reseeded=reseeded(lesson, machine), load=load_classifier)


def reseeded(lesson: Lesson, machine: Machine) -> Output | None:
    """The teacher taught once more from another seed, where the recipe asks for the ceiling and teaches it at all."""
    recipe = lesson.recipe
    if not recipe.resources.explanation_ceiling or not recipe.teacher.finetune:
        return None
    rows = teacher_rows(recipe, lesson.storage)  # by the recipe's own seed: the same rows
    other = recipe.model_copy(update={"seed": (recipe.seed + RESEEDED) % 2**31})
    return teach.fit(replace(lesson, recipe=other), machine, splits_key=rows.key)
