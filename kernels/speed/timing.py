"""Time of kernels as a model meets them: weights from memory and not from a cache, contenders in the same minutes.

A contender is a row of calls, each on a copy of its weights, so that no copy is still in the second-level cache when
its turn comes again: at least four copies, and four times the cache together. One CUDA graph holds several turns
through all copies, so that what is timed is the device and not the launch; what cannot be captured is timed launch by
launch.

Rounds are interleaved: each times every contender once and starts with another one, so that a card that grows warm
slows them all. Reported are medians; the interval is that of order statistics, which assumes no distribution: with n
rounds the k-th smallest and k-th largest, k the largest with P(Binomial(n, 1/2) < k) <= (1 - confidence) / 2.
"""

from __future__ import annotations

import gc
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from scipy import stats

Call = Callable[[], object]
Stopwatch = Callable[[], float]  # seconds a call, over one round

LEAST_COPIES, MOST_COPIES = 4, 64
CACHES = 4  # times the second-level cache that all copies fill
ROUND_SECONDS = 0.003  # that a round of one contender takes at least
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """A median and what contains it with CONFIDENCE, or with what few rounds allow."""

    median: float
    low: float
    high: float


def copies(bytes_of_weight: int, bytes_of_cache: int) -> int:
    """How many copies of a weight to go round."""
    return min(MOST_COPIES, max(LEAST_COPIES, math.ceil(CACHES * bytes_of_cache / max(1, bytes_of_weight))))


def interval(samples: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """The median of samples, and its interval: from the least to the greatest where samples are too few for one."""
    median = statistics.median(samples)
    ends = stats.quantile_test(samples, q=median, p=0.5).confidence_interval(confidence)
    low, high = (min(samples), max(samples)) if math.isnan(ends.low) else (float(ends.low), float(ends.high))
    return Interval(median, low, high)


def faster(mine: Sequence[float], other: Sequence[float]) -> Interval:
    """How many times as fast as another, round by round."""
    return interval([theirs / ours for ours, theirs in zip(mine, other, strict=True)])


def interleaved(stopwatches: Mapping[str, Stopwatch], rounds: int) -> dict[str, list[float]]:
    """Seconds a call of every contender in every round; the first contender changes."""
    names = list(stopwatches)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        first = turn % len(names) if names else 0
        for name in names[first:] + names[:first]:
            seconds[name].append(stopwatches[name]())
    return seconds


def on_device(calls: Sequence[Call], *, graph: bool = True) -> tuple[Stopwatch, bool]:
    """Times turns through all calls on the present CUDA device; also whether they are one graph."""
    for call in calls:  # compiles and tunes what does so on its first call
        call()
    torch.cuda.synchronize()
    estimate = max(_elapsed(lambda: _turn(calls)) / len(calls), 1e-7)
    turns = max(1, math.ceil(ROUND_SECONDS / (estimate * len(calls))))

    def several() -> None:
        for _ in range(turns):
            _turn(calls)

    captured = _captured(several) if graph else None
    replay = captured or several
    replay()
    # The stopwatch keeps the calls, and with them the memory that the graph reads.
    return lambda: _elapsed(replay) / (turns * len(calls)), captured is not None


def _turn(calls: Sequence[Call]) -> None:
    for call in calls:
        call()


def _captured(several: Call) -> Call | None:
    """The calls as a CUDA graph; None if they wait for the device or allocate outside it."""
    graph = torch.cuda.CUDAGraph()
    gc.disable()  # a collected kernel unloads its module, which ends a capture
    try:
        with torch.cuda.graph(graph):
            several()
    except RuntimeError:
        torch.cuda.synchronize()
        return None
    finally:
        gc.enable()
    return graph.replay


def _elapsed(work: Call) -> float:
    """Seconds between two events on the device."""
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    work()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / 1e3
