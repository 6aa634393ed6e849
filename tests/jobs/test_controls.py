"""Which students the controls are twins of."""

from __future__ import annotations

from deshi.jobs.controls import controlled_shape
from deshi.jobs.stages.candidate import Candidate
from tests.jobs.plan_fixture import PLAN

FIRST = PLAN.first


def line(candidate: Candidate, quality: float, error: str | None = None) -> dict:
    return {
        "id": candidate.id,
        "candidate": candidate.model_dump(),
        "rung": int(candidate.steps > 0),
        "quality": quality,
        "latency_ms": 1.0,
        "size_mb": 1.0,
        "error": error,
    }


def test_a_trained_winner_is_its_own_measure():
    winner = FIRST.trained("prune-distil-quantize", 100)
    assert controlled_shape(winner, PLAN, []) == winner


def test_beside_an_untrained_winner_the_best_trained_student_is_controlled():
    low, high = FIRST.trained("prune-distil-quantize", 100), FIRST.trained("distil-prune-quantize", 100)
    lines = [line(FIRST, 0.5), line(low, 0.7), line(high, 0.8), line(low, 0.9, "failed")]
    winner = Candidate(order="quantize-only", layers=6)
    assert controlled_shape(winner, PLAN, lines) == high


def test_without_a_trained_student_the_most_promising_shape_is_trained_as_control():
    whole = Candidate(order="quantize-only", layers=6)
    assert controlled_shape(whole, PLAN, [line(FIRST, 0.5)]).shape == FIRST.shape
    other = Candidate(layers=2)
    found = controlled_shape(whole, PLAN, [line(FIRST, 0.0, "cannot be pruned"), line(other, 0.4)])
    assert found.shape == other.shape and found.steps == PLAN.steps
    assert controlled_shape(whole, PLAN, [line(FIRST, 0.0, "cannot be pruned")]) is None
