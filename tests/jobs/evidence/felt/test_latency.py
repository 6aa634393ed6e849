"""Timing against planted engines whose speed is known, and the choice of builds against written-out tables."""

from __future__ import annotations

import time

import numpy as np
import pytest

from deshi.jobs.evidence.felt import latency
from deshi.jobs.evidence.felt.latency import LatencyRow, choose_builds, interleaved
from deshi.serve.engines.engine import TokenBatch


class Sleeper:
    """Takes a set time a call; a sleep is not slowed by neighbours that take the processor."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.batches: list[TokenBatch] = []

    def logits(self, batch: TokenBatch) -> np.ndarray:
        self.batches.append(batch)
        time.sleep(self.seconds)
        return np.zeros((len(batch.input_ids), 2), np.float32)


def row(engine: str, shape: str, ratio: float) -> LatencyRow:
    return LatencyRow(
        engine=engine,
        shape=shape,
        median_ms=ratio,
        low=0,
        high=9,
        ratio_to_reference=ratio,
        ratio_low=0,
        ratio_high=9,
        n=9,
    )


def test_an_engine_that_takes_twice_the_time_has_ratio_two():
    engines = {"one": Sleeper(0.005), "two": Sleeper(0.010)}
    rows = interleaved(engines, {"3x4": (3, 4)}, reference="one", vocabulary=50, rounds=15, min_seconds=0.0, seed=3)
    one, two = rows
    assert (one.engine, two.engine, one.shape, two.n) == ("one", "two", "3x4", 15)
    assert one.ratio_to_reference == one.ratio_low == one.ratio_high == 1.0
    assert two.ratio_to_reference == pytest.approx(2.0, rel=0.15)
    assert two.ratio_low <= two.ratio_to_reference <= two.ratio_high
    assert two.low <= two.median_ms <= two.high
    assert 9.5 < two.median_ms < 14
    batch = engines["two"].batches[0]
    assert batch.input_ids.shape == (3, 4) and batch.input_ids.max() < 50 and batch.attention_mask.all()


def test_a_neighbour_that_slows_both_does_not_move_the_ratio():
    """Every other round both take 3 times as long; timed one after the other they would differ."""

    class Disturbed(Sleeper):
        def logits(self, batch):
            time.sleep(self.seconds * (3 if int(time.perf_counter() / 0.08) % 2 else 1))
            return np.zeros((1, 2), np.float32)

    engines = {"one": Disturbed(0.003), "two": Disturbed(0.006)}
    rows = interleaved(engines, {"a": (1, 2)}, reference="one", vocabulary=9, rounds=41, min_seconds=0.0)
    assert rows[1].ratio_to_reference == pytest.approx(2.0, rel=0.2)


def test_it_goes_on_for_the_least_time():
    engines = {"one": Sleeper(0.001)}
    (only,) = interleaved(engines, {"a": (1, 2)}, reference="one", vocabulary=9, rounds=3, min_seconds=0.2)
    assert only.n > 30


def test_a_shape_of_long_calls_stops_after_the_least_rounds(monkeypatch):
    monkeypatch.setattr(latency, "MOST_SECONDS", 0.1)
    engines = {"one": Sleeper(0.06), "two": Sleeper(0.07)}
    rows = interleaved(engines, {"a": (1, 2)}, reference="one", vocabulary=9, rounds=50, min_seconds=9.0)
    assert [row.n for row in rows] == [latency.LEAST_ROUNDS] * 2


def test_the_interval_is_that_of_the_confidence():
    """Of 9 equally likely medians the 50% interval leaves out what the 99% interval holds."""
    times = {"one": np.arange(1.0, 10.0), "two": np.arange(1.0, 10.0) ** 2}
    wide, narrow = (
        latency.latency_rows(times, "a", reference="one", confidence=level, rng=np.random.default_rng(0))[1]
        for level in (0.99, 0.5)
    )
    assert wide.low < narrow.low <= narrow.median_ms <= narrow.high < wide.high
    assert wide.ratio_low < narrow.ratio_low and narrow.ratio_high < wide.ratio_high


def test_refusals():
    with pytest.raises(ValueError, match="reference 'x' is not among the engines; use one of one"):
        interleaved({"one": Sleeper(0)}, {"a": (1, 1)}, reference="x", vocabulary=9)
    with pytest.raises(ValueError, match="rounds 2 gives no interval"):
        interleaved({"one": Sleeper(0)}, {"a": (1, 1)}, reference="one", vocabulary=9, rounds=2)
    with pytest.raises(ValueError, match="no latency rows"):
        choose_builds([])
    with pytest.raises(ValueError, match="two at b was not measured"):
        choose_builds([row("one", "a", 1), row("two", "a", 1), row("one", "b", 1)])


def test_one_build_is_kept_where_it_is_good_enough_everywhere():
    rows = [row("one", "a", 1.00), row("two", "a", 0.985), row("one", "b", 1.0), row("two", "b", 1.5)]
    assert choose_builds(rows) == {"a": "one", "b": "one"}
    assert choose_builds(rows, tolerance=0.01) == {"a": "two", "b": "one"}


def test_among_equally_many_the_fastest_wins_then_the_name():
    rows = [row("x", "a", 1.01), row("y", "a", 1.0), row("x", "b", 1.0), row("y", "b", 1.02)]
    assert choose_builds(rows) == {"a": "x", "b": "x"}
    tie = [row("y", "a", 1.0), row("x", "a", 1.0)]
    assert choose_builds(tie) == choose_builds(tie[::-1]) == {"a": "x"}


def test_three_shapes_two_builds():
    table = {"p": (1.0, 2.0, 2.0), "q": (2.0, 1.0, 1.3), "r": (2.0, 1.02, 1.0)}
    rows = [
        row(name, shape, ratio) for name, ratios in table.items() for shape, ratio in zip("abc", ratios, strict=True)
    ]
    assert choose_builds(rows) == {"a": "p", "b": "r", "c": "r"}
