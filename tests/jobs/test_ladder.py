"""What the search tries next is a function of what is finished, so a killed search loses nothing."""

from __future__ import annotations

import dataclasses
import itertools

import optuna
import pytest

from deshi.jobs.ladder import Plan, best_order, dominates, most_left, params_of, promising, suggest
from deshi.jobs.stages.candidate import Candidate
from tests.jobs.plan_fixture import PLAN


def finished(candidate: Candidate, *, seconds: float = 10.0) -> dict:
    """A line such as a trial writes: bigger is better and slower, training helps, and one order helps most."""
    size = candidate.layers * (0.5 + candidate.ffn) + (4 if candidate.vocabulary == "all" else 1)
    quality = size / 20 + (0.3 if candidate.steps else 0) + (0.01 if candidate.order == "prune-distil-quantize" else 0)
    line = {"id": candidate.id, "candidate": candidate.model_dump(), "rung": 1 if candidate.steps else 0}
    line |= {"quality": quality, "latency_ms": size, "size_mb": size, "seconds": seconds, "error": None}
    params = params_of(candidate, PLAN.space)
    return line | ({"params": params} if params else {})


def climb(lines: list[dict], plan: Plan = PLAN, *, seconds: float = 10.0) -> list[dict]:
    while isinstance(chosen := suggest(plan, lines, []), Candidate):
        lines = [*lines, finished(chosen, seconds=seconds)]
        assert len(lines) <= plan.trials
    assert chosen == "stop"
    return lines


def test_the_ladder_uses_its_trials_and_repeats_none():
    lines = climb([])
    assert len(lines) == PLAN.trials == len({line["id"] for line in lines})
    assert [line["rung"] for line in lines] == [0] * 16 + [1] * 8


@pytest.mark.parametrize("cut", [0, 1, 4, 15, 16, 17, 21, 23])
def test_a_killed_search_goes_on_as_if_it_had_not_been_killed(cut):
    whole = climb([])
    assert [line["id"] for line in climb(whole[:cut])] == [line["id"] for line in whole]


def test_the_recipes_own_student_the_whole_teacher_and_a_static_student_come_first():
    first = [Candidate(**line["candidate"]) for line in climb([])[:4]]
    assert first[0] == PLAN.first
    assert (first[1].order, first[1].layers, first[1].steps) == ("quantize-only", 6, 0)
    assert (first[2].order, first[2].layers, first[2].ffn, first[2].vocabulary) == ("prune-quantize", 6, 0.5, "seen")
    assert first[3].family == "static"


def test_rung_one_compares_the_orders_on_one_shape_and_then_takes_the_best():
    top = [Candidate(**line["candidate"]) for line in climb([]) if line["rung"] == 1]
    trained = {order.name for order in PLAN.training_orders}
    assert {candidate.order for candidate in top[: len(trained)]} == trained
    assert {candidate.steps for candidate in top} == {200}, "every order has the same training budget"
    pruned = [c for c in top[: len(trained)] if c.is_pruned]
    assert {candidate.shape for candidate in pruned} == {PLAN.first.shape}
    assert {candidate.order for candidate in top[len(trained) :]} == {"prune-distil-quantize"}


def test_minutes_bound_the_training():
    lines = climb([], seconds=150.0)
    assert sum(line["rung"] for line in lines) == 4, "10 minutes hold four trainings of 150 s"
    assert sum(line["rung"] for line in climb([], PLAN.__class__(**{**vars(PLAN), "minutes": 0}))) == 0


def test_a_failed_trial_is_neither_repeated_nor_trained_further():
    lines: list[dict] = []
    for _ in range(PLAN.trials):
        chosen = suggest(PLAN, lines, [])
        if not isinstance(chosen, Candidate):
            break
        line = finished(chosen)
        if chosen.layers == 5:
            line |= {"error": "it broke", "quality": 0.0, "latency_ms": 1e6, "size_mb": 1e6}
        lines.append(line)
    assert len({line["id"] for line in lines}) == len(lines)
    assert all(line["candidate"]["layers"] != 5 for line in lines if line["rung"] == 1)


def test_while_trials_run_the_ladder_waits_where_it_must():
    lines = climb([])[:15]
    running = suggest(PLAN, lines, [])
    assert isinstance(running, Candidate)
    assert suggest(PLAN, lines, [running.id]) == "wait", "rung 1 needs all of rung 0"


def test_dominance_agrees_with_optuna():
    values = [(q, t, s) for q, t, s in itertools.product((0.1, 0.5, 0.9), (1.0, 2.0), (3.0, 4.0))]
    study = optuna.create_study(directions=["maximize", "minimize", "minimize"])
    for value in values:
        study.add_trial(optuna.trial.create_trial(values=value))
    best = {tuple(trial.values) for trial in study.best_trials}
    lines = [{"quality": q, "latency_ms": t, "size_mb": s} for q, t, s in values]
    mine = {v for v, line in zip(values, lines, strict=True) if not any(dominates(other, line) for other in lines)}
    assert mine == best


def test_the_time_left_is_that_of_rung_0_and_then_of_the_minutes():
    lines = climb([])
    assert most_left(PLAN, []) == PLAN.minutes * 60
    assert most_left(PLAN, lines[:6]) == 10 * 10.0 + PLAN.minutes * 60
    assert most_left(PLAN, lines[:18]) == PLAN.minutes * 60 - 20.0
    assert most_left(PLAN, lines) == 0.0


def test_a_shape_that_could_not_be_made_is_not_trained():
    bottom = [line for line in climb([]) if line["rung"] == 0]
    failed = [{**line, "error": "no"} if line["id"] == PLAN.first.id else line for line in bottom]
    assert PLAN.first.shape not in [shape.shape for shape in promising(failed, PLAN)]


def test_a_student_of_its_own_is_taught_at_full_depth():
    plan = dataclasses.replace(PLAN, start="student-model", depth=2, first=Candidate(start="student-model", layers=2))
    assert next(Candidate(**line["candidate"]) for line in climb([], plan) if line["rung"] == 1).layers == 2


def test_promising_shapes_are_smaller_than_the_teacher_and_the_recipes_own_leads():
    bottom = [line for line in climb([]) if line["rung"] == 0]
    shapes = promising(bottom, PLAN)
    assert shapes[0].shape == PLAN.first.shape
    assert all(shape.layers < 6 or shape.is_pruned for shape in shapes)
    assert len({shape.shape for shape in shapes}) == len(shapes)


def test_training_goes_to_what_misses_the_bar_by_least_and_is_small_enough():
    def at(layers: int, ffn: float, quality: float, size_mb: float) -> dict:
        candidate = Candidate(layers=layers, ffn=ffn)
        line = {**finished(candidate), "quality": quality, "latency_ms": layers * ffn, "size_mb": size_mb}
        return line

    whole = {**finished(Candidate(order="quantize-only", layers=6)), "quality": 0.9}
    holds, near, far = at(6, 0.5, 0.88, 12.0), at(4, 0.5, 0.8, 9.0), at(2, 0.5, 0.4, 5.0)
    large, worse = at(5, 0.75, 0.84, 41.0), at(5, 0.5, 0.79, 11.0)
    plan = dataclasses.replace(PLAN, size_mb=40.0)
    shapes = promising([whole, worse, far, holds, near, large], plan)
    assert [(shape.layers, shape.ffn) for shape in shapes[1:]] == [(4, 0.5), (2, 0.5), (5, 0.5), (6, 0.5)]


def test_best_order_is_the_one_of_highest_quality():
    top = [line for line in climb([]) if line["rung"] == 1]
    assert best_order(top, PLAN.first, PLAN).name == "prune-distil-quantize"
