"""The highest rate that a server answers within a latency limit, sought by doubling and bisection."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from deshi.jobs.evidence.load import in_own_process, percentile


@dataclass(frozen=True, kw_only=True)
class Rate:
    """One step of `find_throughput_within`."""

    rps: float
    p95_ms: float
    failed: int
    within: bool


def find_throughput_within(
    url: str,
    texts: Sequence[str],
    *,
    limit_ms_p95: float,
    start_rps: float = 20,
    seconds: float = 3,
    bisections: int = 4,
    seed: int = 0,
) -> tuple[float, list[Rate]]:
    """The highest open-loop rate with p95 within the limit and no request failed, and every step tried.

    Doubles from `start_rps` until a step misses, then bisects; 0.0 if a sixteenth of `start_rps` is too much.
    """
    steps: list[Rate] = []

    def holds(rps: float) -> bool:
        samples = in_own_process("open", url, texts, rps=rps, seconds=max(seconds, 20 / rps), seed=seed + len(steps))
        failed = sum(sample.status != 200 for sample in samples)
        p95 = percentile([sample.latency_ms for sample in samples], 0.95) if samples else float("inf")
        steps.append(Rate(rps=rps, p95_ms=p95, failed=failed, within=not failed and p95 <= limit_ms_p95))
        return steps[-1].within

    low, high = 0.0, start_rps
    while holds(high):
        low, high = high, 2 * high
    while low == 0.0 and high > start_rps / 16:
        high /= 2
        if holds(high):
            low, high = high, 2 * high
    if low == 0.0:
        return 0.0, steps
    for _ in range(bisections):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low, steps
