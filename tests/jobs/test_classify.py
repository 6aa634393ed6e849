"""Which engine builds are worth trying on students."""

from __future__ import annotations

from deshi.jobs.classify import screened
from deshi.jobs.evidence.felt.latency import LatencyRow
from deshi.jobs.trial import Bench


def rows(**ratios: tuple[float, float]) -> list[LatencyRow]:
    return [
        LatencyRow(
            engine=name.replace("_", "-"),
            shape=shape,
            median_ms=ratio,
            low=ratio,
            high=ratio,
            ratio_to_reference=ratio,
            ratio_low=ratio,
            ratio_high=ratio,
            n=9,
        )
        for name, pair in ratios.items()
        for shape, ratio in zip(("1x16", "32x128"), pair, strict=True)
    ]


def test_a_build_stays_if_it_is_near_the_best_somewhere():
    timed = rows(a_fp32=(1.0, 1.0), b_fp32=(2.0, 0.95), c_fp32=(1.2, 1.3), a_w8a8=(0.5, 0.6), b_w8a8=(0.9, 0.9))
    names = tuple({row.engine for row in timed})
    kept = {scheme: set(builds) for scheme, builds in screened(timed, names).items()}
    assert kept == {"fp32": {"a-fp32", "b-fp32"}, "w8a8": {"a-w8a8"}}


def test_a_scheme_that_rounds_and_is_slow_is_not_tried():
    timed = rows(a_fp32=(1.0, 1.0), b_w8a16=(0.9, 0.9), a_w8a8=(0.5, 0.5))
    assert set(screened(timed, tuple({row.engine for row in timed}))) == {"fp32", "w8a8"}


def test_full_precision_comes_last_and_is_the_teachers():
    timed = rows(a_fp32=(1.0, 1.0), a_w8a16=(0.95, 0.95), a_w8a8=(0.9, 0.9))
    kept = screened(timed, tuple({row.engine for row in timed}))
    assert list(kept) == ["w8a16", "w8a8", "fp32"]
    bench = Bench(yardstick_key="y", threads=1, typical=(1, 8), builds=kept)
    assert bench.finest == "fp32"
