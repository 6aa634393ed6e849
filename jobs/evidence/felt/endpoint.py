"""What a user feels: latency, throughput and memory through the running endpoint, per target.

The endpoint is the very process that `deshi serve` starts, on a free loopback port. Requests arrive by an open loop at
the recipe's `peak_rps`; the reply's Server-Timing header splits each latency into queue and engine, the rest is HTTP,
and the network round trip of the target is added and shown apart. Load generator and server share this machine's cores,
so the figures are upper bounds.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import Field

from deshi.jobs.evidence.felt.energy import EnergyMeter
from deshi.jobs.evidence.felt.imposed import Imposed, imposed
from deshi.jobs.evidence.felt.load import in_own_process
from deshi.jobs.evidence.felt.memory import Memory, process_tree_peak
from deshi.jobs.evidence.felt.throughput import find_throughput_within
from deshi.jobs.evidence.figure import Figure
from deshi.jobs.evidence.schema import LatencyParts
from deshi.serve.kpi import Frozen, Target
from deshi.serve.statistics import quantile_interval

START_LIMIT_S = 120
MOST_START_RPS = 250.0  # no HTTP endpoint is as fast as a static student; from here doubling finds what there is


class Felt(Frozen):
    """What was measured through one endpoint."""

    latency: LatencyParts
    throughput_rps: Figure
    memory_mb: Figure
    startup_s: Figure
    energy_j: Figure = Field(description="of the whole machine, a request at peak_rps")


@dataclass(frozen=True, kw_only=True)
class Server:
    """A running endpoint: its address, its memory so far, how long it took to answer, what it is held to."""

    url: str
    memory: Memory
    startup_s: float
    imposed: Imposed

    def figures(self, joules: float | None, requests: int) -> dict[str, Figure]:
        """Memory, start-up and energy, as fields of `Felt`; `joules` were used while it answered `requests`."""
        held = f"; {self.imposed.words}" if self.imposed.words else ""
        each = None if joules is None or not requests else joules / requests
        return {
            "memory_mb": Figure(
                value=self.memory.peak_mb,
                unit="MB",
                how=f"peak {self.memory.basis} of the serving process tree, start included{held}",
            ),
            "startup_s": Figure(value=self.startup_s, unit="s", how=f"from the command to its first answer{held}"),
            "energy_j": Figure(
                value=each,
                unit="J",
                basis="not measured" if each is None else "measured",
                how="processor packages' own counters (RAPL), the whole machine, over the requests at peak_rps",
            ),
        }


@contextlib.contextmanager
def running(
    folder: Path,
    target: str,
    *,
    module: str,
    held_to: Target | None = None,
    memory_limit: bool = True,
    options: Sequence[str] = (),
) -> Iterator[Server]:
    """Starts an endpoint, `python -m MODULE FOLDER --target T --port P`, yields it, and stops it.

    Args:
        folder: what is served.
        target: the name of a target of its serving.json.
        module: what serves it.
        held_to: the target whose cores and memory the process is held to; None: to nothing.
        memory_limit: False lets it take the memory that it wants.
        options: more words of the command.

    Raises:
        ValueError: if it does not answer within two minutes, with the end of what it printed.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", module, str(folder), "--target", target, "--port", str(port), *options]
    # A Ray of its own: not this run's cluster, nor the runtime environment of this run's job, which is not there.
    env = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_ADDRESS", "RAY_JOB_"))}
    with tempfile.TemporaryFile() as said:
        began = time.perf_counter()
        server = subprocess.Popen(command, stdout=said, stderr=said, env=env, start_new_session=True)
        try:
            with imposed(server.pid, held_to, memory=memory_limit) as limits, process_tree_peak(server.pid) as memory:
                _wait(f"http://127.0.0.1:{port}/healthz", server, said)
                startup_s = time.perf_counter() - began
                yield Server(url=f"http://127.0.0.1:{port}", memory=memory, startup_s=startup_s, imposed=limits)
        finally:
            server.send_signal(signal.SIGTERM)
            try:
                server.wait(timeout=30)
            except subprocess.TimeoutExpired:
                os.killpg(server.pid, signal.SIGKILL)
                server.wait()


@contextlib.contextmanager
def fitting(folder: Path, target: Target, *, module: str) -> Iterator[Server]:
    """A running endpoint that is held to its target; without the limit of memory if it does not start within that.

    What does not fit is a result, not the end of a run: its memory is then measured, and stands beside the limit.
    """
    with contextlib.ExitStack() as stack:
        try:
            server = stack.enter_context(running(folder, target.name, module=module, held_to=target))
        except ValueError:
            if target.memory_mb is None:
                raise
            lifted = running(folder, target.name, module=module, held_to=target, memory_limit=False)
            server = stack.enter_context(lifted)
        yield server


def felt(
    folder: Path,
    target: Target,
    texts: Sequence[str],
    *,
    peak_rps: float,
    limit_ms: float | None,
    engine_ms: float,
    confidence: float,
    seconds: float,
    seed: int,
) -> Felt:
    """Measures a served folder on a target of this machine.

    `limit_ms` is the KPI for p95 as felt; throughput is the highest rate that keeps p95 below it (below ten times the
    quiet p95 where there is no KPI), sought from a quarter of what the engine alone (`engine_ms` a text) would do.
    """
    module = "deshi.serve.run" if target.serves_with_ray else "deshi.serve.process"
    with fitting(folder, target, module=module) as server:
        url = f"{server.url}/classify"
        in_own_process("open", url, texts, rps=min(peak_rps, 20), seconds=2, seed=seed + 1)  # warm-up
        meter = EnergyMeter()
        samples = in_own_process("open", url, texts, rps=peak_rps, seconds=seconds, seed=seed)
        joules = meter.joules()
        good = [sample for sample in samples if sample.status == 200]
        if not good:
            raise ValueError(f"the endpoint of {target.name!r} answered none of {len(samples)} requests; see its log")
        quiet_p95 = float(np.quantile([sample.latency_ms for sample in good], 0.95))
        limit = max(limit_ms - target.rtt_ms, 1.0) if limit_ms else 10 * quiet_p95
        rps, steps = find_throughput_within(
            url,
            texts,
            limit_ms_p95=limit,
            start_rps=min(250 / engine_ms, MOST_START_RPS),
            seconds=2,
            bisections=2,
            seed=seed,
        )
    beyond = [step.rps for step in steps if not step.within and step.rps > rps]
    network = target.rtt_ms
    how = f"open loop, {peak_rps:g} rps for {seconds:g} s on loopback, {len(good)} of {len(samples)} answered"

    def figure(values: Sequence[float], quantile: float, added: float = 0.0) -> Figure:
        interval = quantile_interval(values, quantile, confidence=confidence)
        ends = [end + added if np.isfinite(end) else None for end in (interval.low, interval.high)]
        return Figure(value=interval.value + added, unit="ms", n=interval.n, low=ends[0], high=ends[1], how=how)

    latencies = [sample.latency_ms for sample in good]
    return Felt(
        latency=LatencyParts(
            p50=figure(latencies, 0.5, network),
            p95=figure(latencies, 0.95, network),
            p99=figure(latencies, 0.99, network),
            engine_p95=figure([sample.engine_ms or 0.0 for sample in good], 0.95),
            queue_p95=figure([sample.queue_ms or 0.0 for sample in good], 0.95),
            http_p95=figure([sample.http_ms or 0.0 for sample in good], 0.95),
            network=Figure(value=network, unit="ms", basis="computed", how="the target's rtt_ms in the recipe"),
        ),
        throughput_rps=Figure(
            value=rps,
            unit="1/s",
            low=rps,
            high=min(beyond, default=rps),
            how=f"highest open-loop rate with p95 <= {limit:.0f} ms before the network; the next rate tried failed",
        ),
        **server.figures(joules, len(good)),
    )


class Rate(Frozen):
    """A closed loop's requests a second and latencies."""

    rps: float
    p50_ms: float
    p99_ms: float


def closed_loop_rate(
    folder: Path, target: str, texts: Sequence[str], *, module: str, clients: int, seconds: float, seed: int
) -> Rate:
    """`clients` that each send their next request when they have their answer, against one endpoint."""
    with running(folder, target, module=module) as server:
        samples = in_own_process("closed", f"{server.url}/classify", texts, clients=clients, seconds=seconds, seed=seed)
    good = [sample.latency_ms for sample in samples if sample.status == 200]
    return Rate(rps=len(good) / seconds, p50_ms=float(np.quantile(good, 0.5)), p99_ms=float(np.quantile(good, 0.99)))


def _wait(url: str, server: subprocess.Popen[bytes], said: object) -> None:
    until = time.monotonic() + START_LIMIT_S
    while time.monotonic() < until and server.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=2) as reply:  # noqa: S310
            if reply.status == 200:
                return
        time.sleep(0.2)
    said.seek(0)  # type: ignore[attr-defined]
    tail = " ".join(said.read().decode(errors="replace").split())[-600:]  # type: ignore[attr-defined]
    raise ValueError(f"the endpoint did not answer at {url} within {START_LIMIT_S} s; it said: {tail}")
