"""Replace or keep: the live release stays unless the new one is accepted, not worse, and gains something."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from deshi.jobs.evidence.migration.replacement import hits, hourly_cost, replacement
from deshi.jobs.recipe import Recipe

build_evidence = runpy.run_path(str(Path(__file__).parents[1] / "evidence_fixture.py"))["build_evidence"]
ROWS = 1000


@pytest.fixture
def recipe(tmp_path) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "a",
            "data": {"train": "a.csv", "test": "b.csv"},
            "teacher": {"model": "m"},
            "targets": [{"name": "onprem", "price_per_hour": 10}],
            "business": {"peak_rps": 20},
            "kpi": {"quality": {"max_drop": 0.05}},
        }
    )


def _row(id: str, rps: float | None):
    """A model's row with one target that answers `rps` within the limit."""
    row = next(row for row in build_evidence().models if row.role == "chosen")
    place = row.targets[0]
    rate = place.throughput_rps.model_copy(update={"value": rps})
    return row.model_copy(
        update={"id": id, "targets": (place.model_copy(update={"target": "onprem", "throughput_rps": rate}),)}
    )


def _answers(right: int) -> pa.Table:
    """The first `right` of ROWS rows are answered as labelled."""
    return pa.table({"label": ["a"] * ROWS, "answer": ["a"] * right + ["b"] * (ROWS - right)})


def _decide(recipe, *, right: int, live_right: int, rps: float, live_rps: float, decision="ACCEPT"):
    return replacement(
        recipe,
        live="runs/live",
        rows={"chosen": _row("chosen", rps), "live": _row("live", live_rps)},
        answers={"chosen": _answers(right), "live": _answers(live_right)},
        decision=decision,
    )


@pytest.mark.parametrize(
    ("case", "decision", "reason"),
    [
        ({"right": 900, "live_right": 900, "rps": 40, "live_rps": 12}, "replace", "cheaper"),  # 1 machine for 2
        ({"right": 900, "live_right": 900, "rps": 40, "live_rps": 25}, "keep", "no_gain"),  # 1 machine for 1
        ({"right": 950, "live_right": 900, "rps": 25, "live_rps": 40}, "replace", "better"),
        ({"right": 850, "live_right": 900, "rps": 40, "live_rps": 12}, "keep", "may_be_worse"),
        ({"right": 900, "live_right": 900, "rps": 40, "live_rps": 12, "decision": "REJECT"}, "keep", "not_accepted"),
    ],
)
def test_the_live_release_is_kept_unless_all_three_hold(recipe, case, decision, reason):
    told = _decide(recipe, **case)
    assert (told.decision, told.reason) == (decision, reason)


def test_the_drop_is_paired_row_by_row(recipe):
    told = _decide(recipe, right=870, live_right=900, rps=40, live_rps=12)
    assert told.drop.value == pytest.approx(0.03)
    # 30 of 1,000 rows differ, all one way: the normal interval is 0.03 +- 1.96 sqrt(0.03 x 0.97 / 1000).
    half = 1.96 * np.sqrt(0.03 * 0.97 / ROWS)
    assert told.drop.low == pytest.approx(0.03 - half, abs=0.004)
    assert told.drop.high == pytest.approx(0.03 + half, abs=0.004)


def test_cost_is_whole_machines_at_the_peak_and_unknown_where_no_rate_keeps_the_limit(recipe):
    assert hourly_cost(recipe, _row("live", 12)).value == 20  # two machines at 10 an hour
    assert hourly_cost(recipe, _row("live", None)).value is None


def test_a_row_without_a_label_is_no_hit_and_a_text_counts_by_its_tokens():
    assert hits(pa.table({"label": ["a", None], "answer": ["a", "a"]})).tolist() == [1.0, 0.0]
    assert hits(pa.table({"same_top": [0.25, 1.0]})).tolist() == [0.25, 1.0]
