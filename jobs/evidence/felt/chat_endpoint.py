"""What the reader of a written answer feels: latency, first token, pace and throughput through the running endpoint.

The endpoint is the very process that `deshi serve` starts, and four runs of chat_load.py meet it one after the other: a
warm-up; an open loop at the recipe's `peak_rps`, from which all latencies are; a closed loop with a client for each
slot, which writes as fast as the target can; and open loops at rates between, for the highest that keeps the limits.

A whole answer's time is split by what the server says with the first token: queue, http, and the engine all the rest.
The network's round trip is added to the whole answer and to its first token, once each, and shown apart. Load generator
and server share this machine's cores, so the figures are upper bounds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deshi.jobs.evidence.felt.chat_load import in_own_process, tokens_per_second
from deshi.jobs.evidence.felt.chat_stream import ChatSample
from deshi.jobs.evidence.felt.endpoint import Felt, fitting
from deshi.jobs.evidence.felt.energy import EnergyMeter
from deshi.jobs.evidence.felt.load import percentile
from deshi.jobs.evidence.felt.throughput import Rate, highest_rate
from deshi.jobs.evidence.figure import Figure
from deshi.jobs.evidence.schema import LatencyParts
from deshi.serve.kpi import Target
from deshi.serve.statistics import mean_interval, quantile_interval

# The run at peak_rps is made longer for about so many requests, but no longer than this: with fewer than 72 the
# interval of a p95 has no upper end at 95%, so no limit could ever be shown to hold.
LEAST_REQUESTS, LONGEST_S = 90, 150.0
CLOSED_S, LONGEST_CLOSED_S, CLOSED_ANSWERS = 8.0, 30.0, 4  # a client's, at its pace when alone
STEP_S, STEP_REQUESTS, LONGEST_STEP_S, BISECTIONS = 5.0, 8, 12.0, 2
OVER_QUIET = 10  # where no limit is given: the first token may take so many times what it takes at peak_rps


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The most that the p95 of each may be, in ms, before the network; None: any."""

    latency_ms: float | None = None
    first_token_ms: float | None = None
    per_token_ms: float | None = None

    def kept(self, samples: Sequence[ChatSample]) -> bool:
        """Whether all were answered, and within every limit."""
        if not samples or any(sample.status != 200 for sample in samples):
            return False
        return all(
            percentile(values, 0.95) <= limit
            for name, limit in vars(self).items()
            if limit is not None and (values := _values(samples, name))
        )

    def __str__(self) -> str:
        said = {"latency_ms": "the whole answer", "first_token_ms": "first token", "per_token_ms": "a later token"}
        return ", ".join(f"{said[name]} <= {limit:.4g} ms" for name, limit in vars(self).items() if limit is not None)


def felt_chat(
    folder: Path,
    target: Target,
    requests: Sequence[dict[str, Any]],
    *,
    peak_rps: float,
    latency_ms: float | None,
    first_token_ms: float | None,
    per_token_ms: float | None,
    confidence: float,
    seconds: float,
    seed: int,
) -> Felt:
    """Measures a served folder of a language model on a target of this machine.

    Args:
        folder: a release or candidate with a build for the target.
        target: where it is served.
        requests: bodies of chat completions, without `stream`, that are drawn from.
        peak_rps: requests a second at which latencies are measured.
        latency_ms: the KPI for the p95 of the whole answer, as felt.
        first_token_ms: the KPI for the p95 of the first token, as felt.
        per_token_ms: the KPI for the p95 of an answer's mean time of a token after the first.
        confidence: of the intervals.
        seconds: of the run at `peak_rps`; up to `LONGEST_S` for `LEAST_REQUESTS` requests.
        seed: of the arrivals.

    Raises:
        ValueError: if the endpoint does not start or answers nothing.
    """
    seconds = max(seconds, min(LEAST_REQUESTS / peak_rps, LONGEST_S))
    network = target.rtt_ms
    module = "deshi.serve.run" if target.serves_with_ray else "deshi.serve.process"
    with fitting(folder, target, module=module) as server:
        url = server.url
        in_own_process("closed", url, requests, clients=target.slots, seconds=0.5, seed=seed + 1)
        meter = EnergyMeter()
        samples = in_own_process("open", url, requests, rps=peak_rps, seconds=seconds, seed=seed)
        joules = meter.joules()
        good = _answered(samples, target)
        limits = Limits(
            latency_ms=_before(latency_ms, network),
            first_token_ms=_before(first_token_ms, network),
            per_token_ms=per_token_ms,
        )
        if limits == Limits():
            limits = Limits(first_token_ms=OVER_QUIET * percentile(_values(good, "first_token_ms"), 0.95))
        alone_s = percentile(_values(good, "latency_ms"), 0.5) / 1e3
        closed_s = min(max(CLOSED_S, CLOSED_ANSWERS * alone_s), LONGEST_CLOSED_S)
        full = in_own_process("closed", url, requests, clients=target.slots, seconds=closed_s, seed=seed)
        pace = tokens_per_second(full, closed_s / 4, closed_s)
        most = float(np.mean(pace) / np.mean([sample.tokens for sample in _answered(full, target)]))
        rps, steps = _throughput(
            url, requests, limits, most=most, at_peak=peak_rps, peak_kept=limits.kept(samples), seed=seed
        )
    how = f"open loop, {peak_rps:g} rps for {seconds:g} s on loopback, {len(good)} of {len(samples)} answered"

    def p(quantile: float, values: Sequence[float], added: float = 0.0) -> Figure:
        interval = quantile_interval(values, quantile, confidence=confidence)
        low, high = (end + added if math.isfinite(end) else None for end in (interval.low, interval.high))
        return Figure(value=interval.value + added, unit="ms", n=interval.n, low=low, high=high, how=how)

    whole = _values(good, "latency_ms")
    queue, http = ([getattr(sample, name) or 0.0 for sample in good] for name in ("queue_ms", "http_ms"))
    paces, beyond = _values(good, "per_token_ms"), [step.rps for step in steps if not step.within and step.rps > rps]
    written = mean_interval(pace, confidence=confidence, seed=seed)
    return Felt(
        latency=LatencyParts(
            p50=p(0.5, whole, network),
            p95=p(0.95, whole, network),
            p99=p(0.99, whole, network),
            engine_p95=p(0.95, [all_ - q - h for all_, q, h in zip(whole, queue, http, strict=True)]),
            queue_p95=p(0.95, queue),
            http_p95=p(0.95, http),
            network=Figure(value=network, unit="ms", basis="computed", how="the target's rtt_ms in the recipe"),
            first_token_p95=p(0.95, _values(good, "first_token_ms"), network),
            per_token_p95=p(0.95, paces) if paces else None,
            tokens_per_second=Figure(
                value=written.value,
                unit="tokens/s",
                n=written.n,
                low=written.low if math.isfinite(written.low) else None,
                high=written.high if math.isfinite(written.high) else None,
                how=f"closed loop, {target.slots} clients, {closed_s:g} s less the first quarter, second by second",
            ),
        ),
        throughput_rps=Figure(
            value=rps,
            unit="1/s",
            low=rps,
            high=min(beyond, default=rps),
            how=f"highest open-loop rate with p95 of {limits} before the network; the next rate tried failed",
        ),
        **server.figures(joules, len(good)),
    )


def _throughput(
    url: str,
    requests: Sequence[dict[str, Any]],
    limits: Limits,
    *,
    most: float,
    at_peak: float,
    peak_kept: bool,
    seed: int,
) -> tuple[float, list[Rate]]:
    """The highest rate that keeps the limits, and the steps tried.

    What the run at `at_peak` has told of lower rates, or of higher ones, is not measured again. Nor are rates above
    `most`, the answers a second with every slot at work: a short run would not see their queue grow.
    """
    tried = 0

    def holds(rps: float) -> Rate:
        nonlocal tried
        if rps > max(most, at_peak) or (rps >= at_peak and not peak_kept):
            return Rate(rps=rps, p95_ms=math.inf, failed=0, within=False)
        if rps <= at_peak and peak_kept:
            return Rate(rps=rps, p95_ms=0.0, failed=0, within=True)
        tried += 1
        lasts = min(max(STEP_S, STEP_REQUESTS / rps), LONGEST_STEP_S)
        samples = in_own_process("open", url, requests, rps=rps, seconds=lasts, seed=seed + 100 + tried)
        return Rate(
            rps=rps,
            p95_ms=percentile([sample.latency_ms for sample in samples], 0.95) if samples else math.inf,
            failed=sum(sample.status != 200 for sample in samples),
            within=limits.kept(samples),
        )

    return highest_rate(holds, start_rps=max(most, at_peak) / 2, bisections=BISECTIONS)


def _answered(samples: Sequence[ChatSample], target: Target) -> list[ChatSample]:
    good = [sample for sample in samples if sample.status == 200 and sample.arrivals]
    if not good:
        raise ValueError(
            f"the endpoint of {target.name!r} answered none of {len(samples)} requests (status "
            f"{samples[0].status if samples else 'unknown'}); see its log"
        )
    return good


def _values(samples: Sequence[ChatSample], name: str) -> list[float]:
    return [value for sample in samples if (value := getattr(sample, name)) is not None]


def _before(limit_ms: float | None, network_ms: float) -> float | None:
    return None if limit_ms is None else max(limit_ms - network_ms, 1.0)
