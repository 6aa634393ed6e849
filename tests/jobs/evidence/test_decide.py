"""Choosing, on tables small enough to decide by hand."""

from __future__ import annotations

import itertools
import math

import pytest

from deshi.jobs.evidence import decide
from deshi.jobs.evidence.decide import Finalist, FinalistTarget, choose
from deshi.serve.kpi import Kpi, QualityKpi, Target
from deshi.serve.statistics import Interval

KPI = Kpi(quality=QualityKpi(max_drop=0.05), latency_ms_p95={"onprem": 50}, size_mb=40)
TARGETS = (
    Target(name="onprem", price_per_hour=15),
    Target(name="edge", price_per_hour=3, memory_mb=512, rtt_ms=40),
)
LOAD = {"margin": 0.05, "peak_rps": 20.0, "requests_per_month": 1e6}


def finalist(digest: str, **changes) -> Finalist:
    """Meets all of KPI with one machine on each target, unless changed."""
    facts = {"drop": 0.01, "half": 0.01, "latency": 20.0, "size": 15.0, "memory": 300.0, "rps": (100, 90, 110)}
    facts |= changes
    value, low, high = facts["rps"]
    return Finalist(
        digest=digest,
        drop=Interval(
            value=facts["drop"], low=facts["drop"] - facts["half"], high=facts["drop"] + facts["half"], n=500
        ),
        targets=tuple(
            FinalistTarget(
                target=target.name,
                latency_ms_p95=facts["latency"],
                size_mb=facts["size"],
                memory_mb=facts["memory"],
                rps=Interval(value=value, low=low, high=high, n=100),
            )
            for target in TARGETS
        ),
    )


def test_the_cheapest_feasible_is_chosen():
    small = finalist("a", size=5, rps=(15, 14, 16))  # two machines on each target: 36 an hour
    big = finalist("b", size=30)  # one machine each: 18 an hour
    choice = choose([small, big], KPI, TARGETS, **LOAD)
    assert choice.finalist == big
    assert choice.feasible and not choice.violations and choice.tied == ()
    assert decide.cost_per_hour(small, TARGETS, peak_rps=20) == 36
    assert decide.cost_per_hour(big, TARGETS, peak_rps=20) == 18


@pytest.mark.parametrize(
    ("change", "name", "by"),
    [
        ({"drop": 0.06}, "drop", 0.2),
        ({"latency": 75.0}, "latency_ms_p95.onprem", 0.5),
        ({"size": 44.0}, "size_mb", 0.1),
        ({"memory": 1024.0}, "memory_mb.edge", 1.0),
        ({"memory": None}, "memory_mb.edge", math.inf),
        ({"latency": None}, "latency_ms_p95.onprem", math.inf),
    ],
)
def test_every_kpi_gates(change, name, by):
    missed = decide.violations(finalist("a", **change), KPI, TARGETS, **LOAD)
    assert missed == {name: pytest.approx(by)}
    good = finalist("z", size=39)
    assert choose([finalist("a", **change), good], KPI, TARGETS, **LOAD).finalist == good


def test_cost_gates_by_whole_machines():
    kpi = KPI.model_copy(update={"cost_per_1000": {"onprem": 11.0}})
    # One machine: 15 x 730 / 1,000,000 x 1,000 = 10.95; two: 21.9.
    assert not decide.violations(finalist("a"), kpi, TARGETS, **LOAD)
    missed = decide.violations(finalist("a", rps=(15, 14, 16)), kpi, TARGETS, **LOAD)
    assert missed == {"cost_per_1000.onprem": pytest.approx(21.9 / 11 - 1)}


def test_the_point_of_the_drop_decides_feasibility_and_proof_breaks_the_tie():
    unproven = finalist("a", drop=0.045, size=5)
    proven = finalist("b", drop=0.02, size=15)
    assert choose([unproven], KPI, TARGETS, **LOAD).feasible
    choice = choose([unproven, proven], KPI, TARGETS, **LOAD)
    assert choice.finalist == proven
    assert choice.tied == ("a",)
    nearest_to_proof = finalist("c", drop=0.042, size=30)
    assert choose([unproven, nearest_to_proof], KPI, TARGETS, **LOAD).finalist == nearest_to_proof


def test_among_proven_ties_the_smaller_then_the_lower_digest():
    candidates = [finalist("c", size=12), finalist("b", size=12), finalist("a", size=30)]
    for order in itertools.permutations(candidates):
        choice = choose(order, KPI, TARGETS, **LOAD)
        assert choice.finalist.digest == "b"
        assert choice.tied == ("a", "c")


def test_throughput_noise_makes_a_tie():
    """19 requests/s need two machines at a peak of 20, but its noise reaches 21: it may be as cheap as the other."""
    noisy = finalist("a", size=5, rps=(19, 17, 21))
    sure = finalist("b", size=30)
    assert choose([noisy, sure], KPI, TARGETS, **LOAD).finalist == noisy
    slow = finalist("c", size=5, rps=(19, 18, 19.5))
    assert choose([slow, sure], KPI, TARGETS, **LOAD).finalist == sure


def test_none_feasible_gives_the_nearest_flagged():
    by_a_third = finalist("a", latency=55.0, size=50.0)  # 0.1 + 0.25
    by_a_fifth = finalist("b", drop=0.06)
    unmeasured = finalist("c", memory=None)
    choice = choose([by_a_third, by_a_fifth, unmeasured], KPI, TARGETS, **LOAD)
    assert not choice.feasible
    assert choice.finalist == by_a_fifth
    assert choice.violations == {"drop": pytest.approx(0.2)}
    equal = [finalist("e", drop=0.06), finalist("d", drop=0.06)]
    assert choose(equal, KPI, TARGETS, **LOAD).finalist.digest == "d"


def test_no_rate_within_the_limit_costs_without_end():
    stuck = Finalist(
        digest="a",
        drop=Interval(value=0, low=-0.01, high=0.01, n=500),
        targets=tuple(
            FinalistTarget(target=t.name, latency_ms_p95=10, size_mb=1, memory_mb=1, rps=None) for t in TARGETS
        ),
    )
    assert math.isinf(decide.cost_per_hour(stuck, TARGETS, peak_rps=20))
    assert choose([stuck, finalist("b")], KPI, TARGETS, **LOAD).finalist.digest == "b"


def test_senseless_finalists_are_refused():
    with pytest.raises(ValueError, match="0 finalists"):
        choose([], KPI, TARGETS, **LOAD)
    with pytest.raises(ValueError, match="'cloud'"):
        choose([finalist("a")], KPI, (*TARGETS, Target(name="cloud", price_per_hour=1)), **LOAD)
