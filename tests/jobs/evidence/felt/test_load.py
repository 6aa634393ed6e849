"""The load generator against servers whose behaviour is known because we wrote it: stalls, limits, broken replies."""

from __future__ import annotations

import asyncio
import contextlib
import runpy
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from deshi.jobs.evidence.felt.load import closed_loop, in_own_process, open_loop, percentile
from deshi.jobs.evidence.felt.throughput import find_throughput_within

ServedInAThread = runpy.run_path(str(Path(__file__).with_name("served_in_a_thread.py")))["ServedInAThread"]


class Server(ServedInAThread):
    """A hand-made HTTP/1.1 server in a thread: `handle(number)` -> seconds to wait, or None to break the connection."""

    path = "/classify"

    def __init__(self, handle, *, status=200, timing="queue;dur=1.5, engine;dur=2.5", at_once=10_000, goes_after=10**9):
        self.handle, self.status, self.timing = handle, status, timing
        self.at_once = at_once
        self.goes_after = goes_after  # replies on one connection, the last with "Connection: close"
        self.bodies: list[bytes] = []
        self.connections = 0

    async def talk(self, reader, writer):
        self.connections += 1
        replies = 0
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while replies < self.goes_after:
                replies += 1
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                self.bodies.append(await reader.readexactly(length))
                wait = self.handle(len(self.bodies))
                if wait is None:
                    break
                async with self.slots:
                    await asyncio.sleep(wait)
                goes = "Connection: close\r\n" if replies == self.goes_after else ""
                reply = f"HTTP/1.1 {self.status} X\r\n{goes}Server-Timing: {self.timing}\r\nContent-Length: 2\r\n\r\n"
                writer.write(reply.encode())
                await asyncio.sleep(0.001)  # head and body in two packets
                writer.write(b"{}")
        writer.close()


def ask_openly(url, **settings):
    return asyncio.run(open_loop(url, ["a", "b"], **{"rps": 100, "seconds": 1, "seed": 3} | settings))


def test_a_connection_that_the_server_gives_up_is_not_used_again():
    """As HAProxy does when it reloads; the next request takes a new connection and none is lost."""
    with Server(lambda _: 0.0, goes_after=3) as server:
        samples = asyncio.run(closed_loop(server.url, ["a"], clients=8, seconds=0.5, seed=0, warmup=0.0))
        assert len(samples) > 100 and {sample.status for sample in samples} == {200}
        assert server.connections >= len(samples) // 3


def test_a_stall_is_not_hidden_by_the_requests_that_waited_for_it():
    """At 100 rps a stall of 0.4 s meets 40 requests; a client that waits for its answers would report one."""
    began = time.monotonic()

    def handle(number):
        return max(0.0, 0.4 - (time.monotonic() - stalled[0])) if stalled and stalled[0] > began else 0.0

    stalled = []
    with Server(handle) as server:
        threading.Timer(0.4, lambda: stalled.append(time.monotonic())).start()
        samples = ask_openly(server.url, arrivals="uniform")
    late = [sample for sample in samples if sample.latency_ms > 100]
    assert len(samples) == 99 and 25 <= len(late) <= 45
    assert max(sample.latency_ms for sample in samples) == pytest.approx(400, abs=120)


def test_latency_counts_from_the_moment_a_request_was_due():
    async def disturbed():
        task = asyncio.create_task(open_loop(server.url, ["a"], rps=50, seconds=1, seed=0, arrivals="uniform"))
        await asyncio.sleep(0.4)
        time.sleep(0.3)  # the generator's own loop is held up
        return await task

    with Server(lambda number: 0.0) as server:
        samples = asyncio.run(disturbed())
    assert max(sample.sent - sample.scheduled for sample in samples) > 0.2
    assert all(sample.latency_ms >= 1e3 * (sample.sent - sample.scheduled) for sample in samples)


def test_poisson_arrivals_are_poisson_and_repeatable():
    with Server(lambda number: 0.0) as server:
        one, other = (ask_openly(server.url, rps=300) for _ in range(2))
    assert [sample.scheduled for sample in one] == [sample.scheduled for sample in other]
    gaps = np.diff([sample.scheduled for sample in one])
    assert len(one) == pytest.approx(300, abs=60)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.2), "an exponential's deviation is its mean"


def test_time_is_split_by_the_servers_own_word():
    with Server(lambda number: 0.02) as server:
        samples = ask_openly(server.url, rps=20)
    for sample in samples:
        assert (sample.queue_ms, sample.engine_ms, sample.status) == (1.5, 2.5, 200)
        assert sample.queue_ms + sample.engine_ms + sample.http_ms == pytest.approx(sample.latency_ms)
        assert sample.latency_ms >= 20
    assert set(server.bodies) == {b'{"input": "a"}', b'{"input": "b"}'}


def test_connections_are_reused():
    with Server(lambda number: 0.0) as server:
        ask_openly(server.url)
        assert server.connections < 20
        asyncio.run(closed_loop(server.url, ["a"], clients=7, seconds=0.3, seed=0, warmup=0))
        assert server.connections < 20 + 7 + 1


def test_closed_loop_has_so_many_in_flight():
    """8 clients at a server that takes 20 ms each, any number at once: Little's law says 8 / 0.02 = 400 a second."""
    with Server(lambda number: 0.02) as server:
        samples = asyncio.run(closed_loop(server.url, ["a"], clients=8, seconds=1, seed=0, warmup=0.2))
    mean = sum(sample.latency_ms for sample in samples) / len(samples) / 1e3
    assert len(samples) / 1 * mean == pytest.approx(8, rel=0.1)
    assert 100 < len(samples) <= 400


def test_failures_are_told():
    with Server(lambda number: None if number % 5 == 0 else 0.0) as server:
        statuses = [sample.status for sample in ask_openly(server.url)]
    assert statuses.count(0) == len(server.bodies) // 5 and set(statuses) == {0, 200}
    with Server(lambda number: 0.0, status=503) as server:
        assert {sample.status for sample in ask_openly(server.url, rps=20)} == {503}
    assert {sample.status for sample in ask_openly("http://127.0.0.1:1/x", rps=20)} == {0}
    with pytest.raises(ValueError, match="plain HTTP only"):
        ask_openly("https://127.0.0.1/x")


def test_throughput_within_a_limit():
    """One at a time, 10 ms each: about 100 a second, whatever the limit."""
    with Server(lambda number: 0.01, at_once=1) as server:
        rps, steps = find_throughput_within(server.url, ["a"], limit_ms_p95=250, start_rps=20, seconds=1, bisections=2)
    assert 2 <= rps < 140
    assert any(step.within for step in steps) and any(not step.within for step in steps)
    assert all(step.p95_ms <= 250 for step in steps if step.within)
    with Server(lambda number: 0.03) as server:
        rps, steps = find_throughput_within(server.url, ["a"], limit_ms_p95=10, start_rps=320, seconds=0.3)
    assert rps == 0.0 and len(steps) == 5


def test_its_own_process_gives_the_same_samples():
    with Server(lambda number: 0.0) as server:
        here = ask_openly(server.url)
        there = in_own_process("open", server.url, ["a", "b"], rps=100, seconds=1, seed=3)
    assert [sample.scheduled for sample in here] == [sample.scheduled for sample in there]
    with pytest.raises(RuntimeError, match="plain HTTP only"):
        in_own_process("open", "ftp://x", ["a"], rps=1)


def test_percentile_is_numpys_inverted_cdf():
    values = np.random.default_rng(0).exponential(size=137).tolist()
    for share in (0.0, 0.01, 0.5, 0.9, 0.95, 0.99, 1.0):
        assert percentile(values, share) == np.percentile(values, 100 * share, method="inverted_cdf")
    with pytest.raises(ValueError, match="no values"):
        percentile([], 0.5)
