"""The verdict, on tables small enough to decide by hand."""

from __future__ import annotations

import math
import string

import pytest

from deshi.jobs.evidence.figure import Figure
from deshi.jobs.evidence.schema import KpiRow, KpiVerdict
from deshi.jobs.evidence.verdict import SENTENCES, verdict
from deshi.serve.statistics import Interval, rows_needed

DROP = Interval(value=0.016, low=0.004, high=0.028, n=1002)


def drop_row(drop: Interval = DROP, outcome: KpiVerdict = "PASS") -> KpiRow:
    figure = Figure(value=drop.value, low=drop.low, high=drop.high, n=drop.n, unit="share")
    return KpiRow(axis="quality", name="drop", limit=0.05, limit_is="at most", figure=figure, verdict=outcome)


def row(name: str, value: float | None, limit: float, outcome: KpiVerdict, **changes) -> KpiRow:
    figure = Figure(**{"value": value, "unit": "ms", "basis": "measured"} | changes)
    return KpiRow(axis="operations", name=name, limit=limit, limit_is="at most", figure=figure, verdict=outcome)


def test_accept_gives_every_kept_kpi_as_a_reason():
    rows = [drop_row(), row("latency_ms_p95.onprem", 21.3, 50, "PASS")]
    spoken = verdict(rows, slices=(), confidence=0.95)
    assert spoken.decision == "ACCEPT" and spoken.rows_needed is None
    assert [reason.code for reason in spoken.reasons] == ["drop.pass", "latency_ms_p95.pass"]
    assert spoken.reasons[0].text == (
        "the score drops by 1.60 points (0.40 to 2.80), all of it below the limit of 5.00"
    )
    assert spoken.reasons[1].text == "latency p95 on onprem: 21.3 ms, within the limit of 50"


def test_one_failure_rejects_whatever_else_is_open():
    rows = [drop_row(), row("size_mb", 41, 40, "FAIL", unit="MB"), row("memory_mb.edge", None, 512, "INCONCLUSIVE")]
    spoken = verdict(rows, slices=(), confidence=0.95)
    assert spoken.decision == "REJECT"
    assert [reason.code for reason in spoken.reasons] == ["size_mb.fail", "memory_mb.unmeasured"]


def test_inconclusive_quality_says_how_many_rows():
    open_drop = Interval(value=0.03, low=0.0, high=0.06, n=300)
    spoken = verdict([drop_row(open_drop, "INCONCLUSIVE")], slices=(), confidence=0.95)
    assert spoken.decision == "INCONCLUSIVE"
    # The interval's half-width is 1.96 standard errors of a row's difference over 300 rows.
    variance = 300 * (0.03 / 1.959964) ** 2
    assert spoken.rows_needed == rows_needed(0.03, variance + 0.03**2, 0.05, 0.95)
    assert spoken.rows_needed == math.ceil(7.848880 * variance / 0.02**2)
    assert f"about {spoken.rows_needed:,} test rows" in spoken.reasons[0].text


@pytest.mark.parametrize(
    "drop",
    [Interval(value=0.055, low=0.02, high=0.09, n=200), Interval(value=0, low=-math.inf, high=math.inf, n=1)],
)
def test_where_no_number_of_rows_can_be_named(drop):
    spoken = verdict([drop_row(drop, "INCONCLUSIVE")], slices=(), confidence=0.95)
    assert spoken.decision == "INCONCLUSIVE" and spoken.rows_needed is None
    assert [reason.code for reason in spoken.reasons] == ["drop.inconclusive_above"]


def test_a_verdict_from_a_projection_says_so():
    rows = [drop_row(), row("latency_ms_p95.cloud", 60, 50, "FAIL", basis="projected")]
    spoken = verdict(rows, slices=(), confidence=0.95)
    assert spoken.decision == "REJECT"
    assert [reason.code for reason in spoken.reasons] == ["latency_ms_p95.fail", "projected"]
    assert spoken.reasons[1].values == {"target": "cloud"}


def test_rows_without_a_limit_gate_nothing():
    risk = KpiRow(
        axis="risk",
        name="worst_slice",
        limit=None,
        limit_is="at most",
        figure=Figure(value=0.5, unit="share"),
        verdict="NO TARGET",
    )
    spoken = verdict([drop_row(), risk], slices=(), confidence=0.95)
    assert spoken.decision == "ACCEPT" and len(spoken.reasons) == 1


@pytest.mark.parametrize("code", sorted(SENTENCES))
def test_every_sentence_is_filled_by_the_values_that_every_reason_has(code):
    fields = {name for _, name, _, _ in string.Formatter().parse(SENTENCES[code]) if name}
    assert fields <= {"value", "low", "high", "limit", "unit", "target", "rows", "n", "slice", "teacher"}


def test_an_end_that_could_not_be_had_is_told_as_infinite():
    rows = [drop_row(), row("latency_ms_p95.onprem", 45.0, 50, "INCONCLUSIVE", low=40.0)]
    assert "45 ms (40 to ∞) straddles the limit of 50" in verdict(rows, slices=(), confidence=0.95).reasons[0].text
