"""The KPI table of a model row: limits from the recipe and the targets, verdicts by interval."""

from __future__ import annotations

import pytest

from deshi.jobs.evidence.figure import Figure
from deshi.jobs.evidence.kpis import kpi_rows
from deshi.jobs.evidence.schema import LatencyParts, ModelRow, Quality, SliceRow, TargetRow
from deshi.jobs.evidence.verdict import verdict as spoken
from deshi.serve.kpi import Kpi, QualityKpi, Target

TARGETS = (
    Target(name="onprem", price_per_hour=15),
    Target(name="edge", price_per_hour=3, memory_mb=512, rtt_ms=40),
)
KPI = Kpi(quality=QualityKpi(max_drop=0.05), latency_ms_p95={"onprem": 50, "edge": 80}, size_mb=40)


def figure(value, low=None, high=None, unit="ms", basis="measured") -> Figure:
    return Figure(value=value, low=low, high=high, unit=unit, basis=basis)


def place(name: str, p95: Figure | None, size: float = 15.0, memory: float | None = 300.0) -> TargetRow:
    zero = figure(0.0)
    parts = {"p50": zero, "engine_p95": zero, "queue_p95": zero, "http_p95": zero, "network": zero}
    return TargetRow(
        target=name,
        build="onnxruntime-w8a8",
        engine_ms=figure(1.0),
        ratio_to_teacher=figure(0.1, unit="ratio"),
        latency=None if p95 is None else LatencyParts(p95=p95, **parts),
        size_mb=figure(size, unit="MB"),
        memory_mb=None if memory is None else figure(memory, unit="MB"),
        cost_per_1000=figure(10.95, unit="JPY"),
    )


def model(places: list[TargetRow], **quality) -> ModelRow:
    facts = {"score": figure(0.84, unit="share"), "drop": figure(0.016, 0.004, 0.028, unit="share")} | quality
    return ModelRow(
        id="chosen",
        role="chosen",
        digest="d",
        parameters=1,
        layers=3,
        ffn=1,
        vocabulary=1,
        scheme="w8a8",
        training_steps=200,
        quality=Quality(**facts),
        targets=tuple(places),
    )


def table(row: ModelRow, kpi: Kpi = KPI) -> dict:
    rows = kpi_rows(row, kpi, TARGETS, margin=kpi.quality.max_drop, currency="JPY")
    return {kpi_row.name: kpi_row for kpi_row in rows}


def test_the_rows_of_a_model_that_keeps_every_limit():
    rows = table(model([place("onprem", figure(21, 19, 24)), place("edge", figure(70, 66, 75))]))
    assert {name: (row.limit, row.verdict) for name, row in rows.items()} == {
        "drop": (0.05, "PASS"),
        "latency_ms_p95.onprem": (50, "PASS"),
        "latency_ms_p95.edge": (80, "PASS"),
        "size_mb": (40, "PASS"),
        "memory_mb.onprem": (None, "NO TARGET"),
        "memory_mb.edge": (512, "PASS"),
        "cost_per_1000.onprem": (None, "NO TARGET"),
        "cost_per_1000.edge": (None, "NO TARGET"),
    }


@pytest.mark.parametrize(
    ("low", "high", "outcome"),
    [(-0.01, 0.049, "PASS"), (0.02, 0.06, "INCONCLUSIVE"), (0.051, 0.08, "FAIL"), (None, None, "INCONCLUSIVE")],
)
def test_quality_goes_by_the_interval(low, high, outcome):
    """The point estimate of 0.016 would pass each time."""
    row = model([place("onprem", None), place("edge", None)], drop=figure(0.016, low, high, unit="share"))
    assert table(row)["drop"].verdict == outcome


@pytest.mark.parametrize(
    ("p95", "outcome"),
    [
        (figure(45, 42, 49), "PASS"),
        (figure(45, 42, 55), "INCONCLUSIVE"),
        (figure(55, 52, 60), "FAIL"),
        (figure(45, 42, None), "INCONCLUSIVE"),
        (figure(50), "PASS"),
        (figure(51), "FAIL"),
        (figure(60, basis="projected"), "FAIL"),
        (figure(None, basis="not measured"), "INCONCLUSIVE"),
        (None, "INCONCLUSIVE"),
    ],
)
def test_latency_goes_by_the_interval_where_there_is_one(p95, outcome):
    row = table(model([place("onprem", p95), place("edge", figure(1))]))["latency_ms_p95.onprem"]
    assert row.verdict == outcome
    assert row.figure.basis == (p95.basis if p95 is not None else "not measured")


def test_size_is_that_of_the_target_that_must_hold_most():
    rows = table(model([place("onprem", None, size=15), place("edge", None, size=41)]))
    assert (rows["size_mb"].figure.value, rows["size_mb"].verdict) == (41, "FAIL")


def test_the_lesser_memory_limit_holds_and_must_be_measured():
    kpi = KPI.model_copy(update={"memory_mb": {"edge": 250, "onprem": 400}})
    rows = table(model([place("onprem", None), place("edge", None)]), kpi)
    assert (rows["memory_mb.edge"].limit, rows["memory_mb.edge"].verdict) == (250, "FAIL")
    assert (rows["memory_mb.onprem"].limit, rows["memory_mb.onprem"].verdict) == (400, "PASS")
    unmeasured = table(model([place("onprem", None, memory=None), place("edge", None, memory=None)]))
    assert unmeasured["memory_mb.edge"].verdict == "INCONCLUSIVE"
    assert "memory_mb.onprem" not in unmeasured


def test_a_target_without_figures_is_unmeasured():
    rows = table(model([place("onprem", figure(20))]))
    assert rows["latency_ms_p95.edge"].figure.basis == "not measured"
    assert rows["latency_ms_p95.edge"].verdict == "INCONCLUSIVE"


def test_the_worst_slice_is_the_one_surest_to_be_worse():
    def part(value: str, n: int, drop: Figure) -> SliceRow:
        return SliceRow(column="fine", value=value, n=n, score=figure(0.5, unit="share"), teacher_score=0.6, drop=drop)

    slices = (
        part("rare", 3, figure(0.33, -0.3, 0.9, unit="share")),
        part("harmed", 200, figure(0.1, 0.05, 0.15, unit="share")),
        part("same", 400, figure(0.0, -0.01, 0.01, unit="share")),
    )
    error = figure(0.04, 0.03, 0.05, unit="share")
    rows = table(model([place("onprem", None), place("edge", None)], slices=slices, calibration_error=error))
    assert rows["worst_slice"].figure.value == 0.1
    assert rows["worst_slice"].figure.how == "fine = harmed"
    assert rows["worst_slice"].verdict == rows["calibration_error"].verdict == "NO TARGET"
    assert rows["worst_slice"].axis == rows["calibration_error"].axis == "risk"
    assert rows["harmed_slices"].verdict == "NO TARGET"  # nothing was large enough to be judged, so nothing is held
    assert rows["harmed_slices"].figure.value is None and rows["harmed_slices"].figure.basis == "not measured"


def _slice(value: str, score: float, low: float, high: float, *, judged: bool = True) -> SliceRow:
    return SliceRow(
        column="language",
        value=value,
        n=499,
        score=figure(score, low, high, unit="share"),
        teacher_score=0.37,
        drop=figure(0.0, -0.02, 0.02, unit="share"),
        harm_p=1.0 if judged else None,
    )


@pytest.mark.parametrize(
    ("slices", "verdict", "value"),
    [
        ((_slice("en", 0.67, 0.63, 0.71), _slice("ja", 0.37, 0.33, 0.41)), "FAIL", 0.37),
        ((_slice("en", 0.67, 0.63, 0.71), _slice("ja", 0.48, 0.44, 0.52)), "INCONCLUSIVE", 0.48),
        ((_slice("en", 0.67, 0.63, 0.71), _slice("ja", 0.56, 0.52, 0.60)), "PASS", 0.56),
        ((_slice("en", 0.67, 0.63, 0.71), _slice("ja", 0.1, 0.0, 0.9, judged=False)), "PASS", 0.67),
        ((_slice("ja", 0.1, 0.0, 0.9, judged=False),), "INCONCLUSIVE", None),
    ],
)
def test_the_weakest_slice_must_reach_its_score_however_weak_the_teacher_is(slices, verdict, value):
    kpi = KPI.model_copy(update={"quality": QualityKpi(max_drop=0.05, slice_least=0.5)})
    row = model([place("onprem", figure(20.0))], slices=slices)
    found = table(row, kpi)["slice_least"]
    assert (found.verdict, found.figure.value, found.limit, found.limit_is) == (verdict, value, 0.5, "at least")
    assert "slice_least" not in table(row)
    said = [reason.text for reason in spoken((found,), slices=slices, confidence=0.95).reasons]
    assert len(said) == 1 and "50" in said[0] and (value is None or f"{100 * value:.1f}" in said[0])
