"""The load generator for chats: against a server that we wrote, whose every moment is known, and the real one."""

from __future__ import annotations

import asyncio
import contextlib
import json
import runpy
import time
from pathlib import Path

import numpy as np
import pytest

from deshi.jobs.evidence.felt.chat_load import ChatSample, closed_loop, in_own_process, open_loop, tokens_per_second
from deshi.jobs.evidence.felt.endpoint import running

ServedInAThread = runpy.run_path(str(Path(__file__).with_name("served_in_a_thread.py")))["ServedInAThread"]

REQUEST = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 4, "temperature": 0, "ignore_eos": True}


def event(content=None, usage=None):
    choices = [] if content is None else [{"index": 0, "delta": {"content": content}, "finish_reason": None}]
    return f"data: {json.dumps({'choices': choices, 'usage': usage})}\n\n".encode()


def chunk(data):
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


class Server(ServedInAThread):
    """Waits `first` seconds, writes so many tokens `gap` seconds apart; `breaks` after so many of them."""

    def __init__(self, *, first=0.05, gap=0.02, tokens=4, texts=None, status=200, breaks=None, at_once=1000, done=True):
        self.first, self.gap, self.tokens, self.texts = first, gap, tokens, texts or ["a"] * tokens
        self.status, self.breaks, self.at_once, self.done = status, breaks, at_once, done
        self.bodies, self.most, self.now = [], 0, 0

    async def talk(self, reader, writer):
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        self.bodies.append(json.loads(await reader.readexactly(length)))
        self.now += 1
        self.most = max(self.most, self.now)
        with contextlib.suppress(ConnectionError):
            await self.answer(writer)
        self.now -= 1
        writer.close()

    async def answer(self, writer):
        if self.status != 200:
            writer.write(f"HTTP/1.1 {self.status} X\r\ncontent-length: 2\r\n\r\n{{}}".encode())
            return
        async with self.slots:
            await asyncio.sleep(self.first)
            timing = "server-timing: queue;dur=5.000, engine;dur=20.000"
            writer.write(f"HTTP/1.1 200 OK\r\n{timing}\r\ntransfer-encoding: chunked\r\n\r\n".encode())
            opening = chunk(event(""))
            for number, text in enumerate(self.texts):
                if number == self.breaks:
                    writer.transport.abort()
                    return
                whole = chunk(event(text))
                # the first chunk with the opening; every chunk torn into two packets
                writer.write(opening + whole[:9])
                opening = b""
                await writer.drain()
                await asyncio.sleep(0.001)
                writer.write(whole[9:])
                await asyncio.sleep(self.gap)
            writer.write(chunk(event(None, {"completion_tokens": self.tokens})))
            writer.write(chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n" if self.done else b"0\r\n\r\n")


def ask_openly(url, **settings):
    return asyncio.run(open_loop(url, [REQUEST], **{"rps": 30, "seconds": 1, "seed": 3} | settings))


def test_the_times_of_an_answer():
    """Four tokens, 50 ms to the first, 21 ms and more between them, nothing waits."""
    with Server() as server:
        samples = ask_openly(server.url)
    assert 15 < len(samples) < 50 and {sample.status for sample in samples} == {200}
    for sample in samples:
        assert sample.tokens == 4 and sample.text == "aaaa" and len(sample.arrivals) == 4
        assert sample.first_token_ms >= 50 and sample.per_token_ms >= 20
        assert sample.latency_ms >= sample.first_token_ms + 3 * sample.per_token_ms
        assert sample.queue_ms == 5 and sample.http_ms == pytest.approx(sample.first_token_ms - 25)
    assert np.median([sample.first_token_ms for sample in samples]) == pytest.approx(52, abs=25)
    assert np.median([sample.per_token_ms for sample in samples]) == pytest.approx(22, abs=10)
    for body in server.bodies:
        assert body == REQUEST | {"stream": True, "stream_options": {"include_usage": True}}


def test_a_token_is_counted_where_it_is_told_not_where_text_comes():
    """Three tokens make one character, say: five tokens, three events with text."""
    with Server(tokens=5, texts=["", "x", "", "é", "y"], gap=0.03) as server:
        (sample, *_) = ask_openly(server.url, rps=5)
    assert sample.tokens == 5 and sample.text == "xéy" and len(sample.arrivals) == 3
    spread = sample.arrivals[-1] - sample.arrivals[0]
    assert sample.per_token_ms == pytest.approx(spread * 1e3 / 4)
    assert sample.first_token_ms > 80, "the opening event and an empty one are no token"


def test_one_token_has_no_time_after_the_first():
    with Server(tokens=1) as server:
        assert {sample.per_token_ms for sample in ask_openly(server.url)} == {None}


def test_all_times_count_from_the_moment_a_request_was_due():
    async def disturbed():
        task = asyncio.create_task(open_loop(server.url, [REQUEST], rps=30, seconds=1, seed=0))
        await asyncio.sleep(0.4)
        time.sleep(0.4)  # the generator's own loop is held up
        return await task

    with Server() as server:
        samples = asyncio.run(disturbed())
    late = [sample for sample in samples if sample.sent - sample.scheduled > 0.1]
    assert late and all(sample.first_token_ms >= 50 + 1e3 * (sample.sent - sample.scheduled) for sample in late)


def test_what_waits_for_the_server_is_not_hidden():
    """One at a time, 0.13 s each, 20 a second: the last of a second's worth waits over a second."""
    with Server(at_once=1) as server:
        samples = ask_openly(server.url, rps=20)
    assert max(sample.first_token_ms for sample in samples) > 800


def test_arrivals_are_poisson_and_repeatable():
    with Server(first=0.0, gap=0.0) as server:
        one, other = (ask_openly(server.url, rps=200) for _ in range(2))
    assert [sample.scheduled for sample in one] == [sample.scheduled for sample in other]
    gaps = np.diff([sample.scheduled for sample in one])
    assert len(one) == pytest.approx(200, abs=50) and gaps.std() == pytest.approx(gaps.mean(), rel=0.3)


def test_failures_are_told():
    with Server(breaks=2) as server:
        samples = ask_openly(server.url, rps=10)
        assert {sample.status for sample in samples} == {0} and {sample.text for sample in samples} == {"aa"}
    with Server(status=503) as server:
        samples = ask_openly(server.url, rps=10)
        assert {(sample.status, sample.tokens, sample.first_token_ms) for sample in samples} == {(503, 0, None)}
    with Server(done=False) as server:
        assert {sample.status for sample in ask_openly(server.url, rps=10)} == {0}, "a stream ends with [DONE]"
    assert {sample.status for sample in ask_openly("http://127.0.0.1:1", rps=10)} == {0}
    with pytest.raises(ValueError, match="plain HTTP only"):
        ask_openly("https://127.0.0.1")
    with pytest.raises(ValueError, match="no requests"):
        asyncio.run(closed_loop("http://127.0.0.1:1", [], clients=1, seconds=1, seed=0))


def test_a_closed_loop_has_so_many_in_flight():
    """5 clients, 4 tokens in 0.05 + 4 x 0.021 s or what it took: by Little's law 5 x 4 / latency tokens a second."""
    with Server() as server:
        samples = asyncio.run(closed_loop(server.url, [REQUEST], clients=5, seconds=3, seed=0))
    counts = tokens_per_second(samples, 1, 3)
    assert server.most == 5 and len(counts) == 2
    latency = np.mean([sample.latency_ms for sample in samples]) / 1e3
    assert np.mean(counts) == pytest.approx(5 * 4 / latency, rel=0.15) and np.mean(counts) < 5 * 4 / 0.134
    assert sum(tokens_per_second(samples, 0, 60)) == pytest.approx(4 * len(samples)) and len(samples) > 30


def test_tokens_per_second_by_hand():
    base = {"scheduled": 0.0, "sent": 0.0, "latency_ms": 0.0, "first_token_ms": 0.0, "per_token_ms": 0.0}
    base |= {"queue_ms": None, "http_ms": None, "status": 200, "text": ""}
    samples = [
        ChatSample(**base, tokens=6, arrivals=[0.5, 1.0, 2.9]),  # two tokens an event
        ChatSample(**base, tokens=1, arrivals=[3.0]),
        ChatSample(**base, tokens=0, arrivals=[]),
    ]
    assert tokens_per_second(samples, 1.0, 3.5) == [2.0, 2.0]
    assert tokens_per_second(samples, 0.0, 4.0) == [2.0, 2.0, 2.0, 1.0]


def test_a_real_endpoint_from_a_process_of_its_own(parrot):
    """11 tokens are 7 characters."""
    request = REQUEST | {"max_tokens": 11}
    with running(parrot, "onprem", module="deshi.serve.process") as server:
        url = server.url
        samples = in_own_process("open", url, [request], rps=20, seconds=2, seed=0)
        closed = in_own_process("closed", url, [request], clients=8, seconds=1, seed=0)
        refused = in_own_process("open", url, [{"messages": []}], rps=5, seconds=1, seed=0)
    for sample in [*samples, *closed]:
        assert (sample.status, sample.text, sample.tokens) == (200, "Hey 😀ü!", 11)
        assert 0 <= sample.queue_ms < sample.latency_ms and sample.http_ms > 0 <= sample.per_token_ms
    assert {sample.status for sample in refused} == {400} and server.memory.peak_mb > 10
    with pytest.raises(RuntimeError, match="plain HTTP only"):
        in_own_process("open", "ftp://x", [request], rps=1)
