"""Which engine is fastest at which shape: all of them timed in one window, in random order, round after
round.

Machines drift and neighbours come and go, so two engines timed one after the other are not comparable. Here a
round calls every engine once, in an order drawn anew, and only times of the same round are divided:

    ratio[e] = median over rounds of t[e, round] / t[reference, round]

with a percentile bootstrap over rounds for the interval (Kalibera and Jones 2013: report ratios with
intervals). Before a short timed call one untimed call lets the worker threads of the engine before it go to
sleep and fills the caches. Latency depends on the shape, not on the words: token ids are random, and no row is
padded.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deshi.serve.engines.engine import Engine, TokenBatch

RESAMPLES = 1000
LEAST_ROUNDS, MOST_SECONDS, LONG_CALL_S = 3, 8.0, 0.05


@dataclass(frozen=True, kw_only=True)
class LatencyRow:
    """One engine at one shape, in milliseconds a call, with the interval of its median."""

    engine: str
    shape: str
    median_ms: float
    low: float
    high: float
    ratio_to_reference: float
    ratio_low: float
    ratio_high: float
    n: int


def random_batch(rows: int, tokens: int, *, vocabulary: int, seed: int) -> TokenBatch:
    """A batch [rows, tokens] of ids drawn evenly from the vocabulary, without padding."""
    ids = np.random.default_rng(seed).integers(0, vocabulary, (rows, tokens), dtype=np.int64)
    return TokenBatch(input_ids=ids, attention_mask=np.ones_like(ids))


def interleaved(
    engines: Mapping[str, Engine],
    shapes: Mapping[str, tuple[int, int]],
    *,
    reference: str,
    vocabulary: int,
    rounds: int = 9,
    min_seconds: float = 1.0,
    confidence: float = 0.95,
    seed: int = 0,
) -> list[LatencyRow]:
    """Times every engine at every shape (name -> (rows, tokens)), `rounds` rounds and `min_seconds` or more.

    A shape whose calls take long stops after `LEAST_ROUNDS` once `MOST_SECONDS` are spent; `n` tells how many it were.

    Raises:
        ValueError: if the reference is not among the engines, or fewer than 3 rounds are asked for.
    """
    if reference not in engines:
        raise ValueError(f"reference {reference!r} is not among the engines; use one of {', '.join(sorted(engines))}")
    if rounds < 3:
        raise ValueError(f"rounds {rounds} gives no interval; use 3 or more")
    rng = np.random.default_rng(seed)
    rows: list[LatencyRow] = []
    for shape, (texts, tokens) in shapes.items():
        batch = random_batch(texts, tokens, vocabulary=vocabulary, seed=seed)
        times = _rounds(engines, batch, rounds=rounds, min_seconds=min_seconds, rng=rng)
        rows += latency_rows(times, shape, reference=reference, confidence=confidence, rng=rng)
    return rows


def choose_builds(rows: Sequence[LatencyRow], *, tolerance: float = 0.02) -> dict[str, str]:
    """Shape -> build: the fewest builds such that each shape has one within `tolerance` of its best.

    Every build costs memory and disk, so a second one must earn its place. Among sets of the same size the
    one with the least geometric mean of its ratios wins, then the first by name; within a set each shape
    gets its fastest.
    """
    ratio = {(row.shape, row.engine): row.ratio_to_reference for row in rows}
    shapes = list(dict.fromkeys(row.shape for row in rows))
    builds = sorted({row.engine for row in rows})
    if not builds:
        raise ValueError("there are no latency rows to choose from; measure at least one build")
    if missing := [f"{build} at {shape}" for shape in shapes for build in builds if (shape, build) not in ratio]:
        raise ValueError(f"{missing[0]} was not measured; time every build at every shape")
    best = {shape: min(ratio[shape, build] for build in builds) for shape in shapes}
    for size in range(1, len(builds) + 1):
        fits: list[tuple[float, tuple[str, ...], dict[str, str]]] = []
        for kept in itertools.combinations(builds, size):
            pick = {shape: min((ratio[shape, build], build) for build in kept)[1] for shape in shapes}
            if all(ratio[shape, pick[shape]] <= best[shape] * (1 + tolerance) for shape in shapes):
                fits.append((sum(math.log(ratio[shape, pick[shape]]) for shape in shapes), kept, pick))
        if fits:
            return min(fits, key=lambda fit: fit[:2])[2]
    raise AssertionError("all builds together hold the best of every shape")


def _rounds(
    engines: Mapping[str, Engine],
    batch: TokenBatch,
    *,
    rounds: int,
    min_seconds: float,
    rng: np.random.Generator,
) -> dict[str, NDArray[np.float64]]:
    """Seconds a call [rounds] of each engine; a large shape stops at `LEAST_ROUNDS` once `MOST_SECONDS` are spent."""
    names = list(engines)
    for name in names:
        engines[name].logits(batch)
    times: dict[str, list[float]] = {name: [] for name in names}
    start = time.perf_counter()

    def enough() -> bool:
        done, spent = len(times[names[0]]), time.perf_counter() - start
        return done >= LEAST_ROUNDS and (spent > MOST_SECONDS or (done >= rounds and spent >= min_seconds))

    while not enough():
        for position in rng.permutation(len(names)):
            name = names[position]
            # A long call warms itself; a short one would still meet the spinning threads of the engine before it.
            if not times[name] or times[name][-1] < LONG_CALL_S:
                engines[name].logits(batch)
            before = time.perf_counter()
            engines[name].logits(batch)
            times[name].append(time.perf_counter() - before)
    return {name: np.array(values) for name, values in times.items()}


def latency_rows(
    times: Mapping[str, NDArray[np.float64]],
    shape: str,
    *,
    reference: str,
    confidence: float,
    rng: np.random.Generator,
) -> list[LatencyRow]:
    n = len(times[reference])
    draws = rng.integers(0, n, (RESAMPLES, n))
    ends = (0.5 - confidence / 2, 0.5 + confidence / 2)
    rows = []
    for name, seconds in times.items():
        ratios = seconds / times[reference]
        low, high = np.quantile(np.median(seconds[draws], axis=1), ends)
        ratio_low, ratio_high = np.quantile(np.median(ratios[draws], axis=1), ends)
        rows.append(
            LatencyRow(
                engine=name,
                shape=shape,
                median_ms=float(np.median(seconds)) * 1e3,
                low=float(low) * 1e3,
                high=float(high) * 1e3,
                ratio_to_reference=float(np.median(ratios)),
                ratio_low=float(ratio_low),
                ratio_high=float(ratio_high),
                n=n,
            )
        )
    return rows
