"""The highest rate that a server answers within a limit, sought by doubling and bisection."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from deshi.jobs.evidence.felt.load import in_own_process, percentile


@dataclass(frozen=True, kw_only=True)
class Rate:
    """One step of the search; `p95_ms` is of whole answers."""

    rps: float
    p95_ms: float
    failed: int
    within: bool


def highest_rate(holds: Callable[[float], Rate], *, start_rps: float, bisections: int) -> tuple[float, list[Rate]]:
    """The highest rate tried that is `within`, and every step tried; `holds` runs one.

    Doubles from `start_rps` until a step misses, then bisects; 0.0 if a sixteenth of `start_rps` is too much.
    """
    steps: list[Rate] = []

    def within(rps: float) -> bool:
        steps.append(holds(rps))
        return steps[-1].within

    low, high = 0.0, start_rps
    while within(high):
        low, high = high, 2 * high
    while low == 0.0 and high > start_rps / 16:
        high /= 2
        if within(high):
            low, high = high, 2 * high
    if low == 0.0:
        return 0.0, steps
    for _ in range(bisections):
        middle = (low + high) / 2
        low, high = (middle, high) if within(middle) else (low, middle)
    return low, steps


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
    """The highest open-loop rate with p95 within the limit and no request failed, and every step tried."""
    tried = 0

    def holds(rps: float) -> Rate:
        nonlocal tried
        samples = in_own_process("open", url, texts, rps=rps, seconds=max(seconds, 20 / rps), seed=seed + tried)
        tried += 1
        failed = sum(sample.status != 200 for sample in samples)
        p95 = percentile([sample.latency_ms for sample in samples], 0.95) if samples else float("inf")
        return Rate(rps=rps, p95_ms=p95, failed=failed, within=not failed and p95 <= limit_ms_p95)

    return highest_rate(holds, start_rps=start_rps, bisections=bisections)
