"""The batcher against a plain loop over the texts, under many clients, with a clock beside it."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time

import numpy as np
import pytest

from deshi.serve.batching import BoundedQueue, Full, Gatherer, Rows


class Engine:
    """Tells the length of each text; takes some time; remembers its batches."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.batches: list[list[str]] = []
        self.running = threading.Lock()

    def __call__(self, texts: list[str]) -> Rows:
        assert self.running.acquire(blocking=False), "two batches at once"
        time.sleep(self.seconds)
        self.batches.append(texts)
        self.running.release()
        if "break" in texts:
            raise RuntimeError("broken")
        lengths = np.array([len(text) for text in texts])
        return Rows(
            probabilities=lengths[:, None].astype(np.float32), tokens=lengths, truncated=lengths > 3
        )  # fmt: skip


@contextlib.contextmanager
def batcher(engine, *, max_batch_size=8, wait_s=0.0, max_queued=256):
    gatherer = Gatherer(engine, max_batch_size=max_batch_size, wait_s=wait_s)
    yield BoundedQueue(gatherer.part, max_batch_size=max_batch_size, max_queued=max_queued)
    gatherer.close()


def test_every_request_gets_its_own_rows():
    engine = Engine(0.002)
    requests = [["x" * (1 + (7 * number + row) % 5) for row in range(1 + number % 19)] for number in range(60)]

    async def run():
        with batcher(engine, max_queued=10_000) as queue:
            answers = await asyncio.gather(*(queue.submit(texts) for texts in requests))
            return answers

    for texts, answer in zip(requests, asyncio.run(run()), strict=True):
        assert answer.rows.tokens.tolist() == [len(text) for text in texts]
        assert answer.rows.probabilities[:, 0].tolist() == [len(text) for text in texts]
        assert answer.rows.truncated.tolist() == [len(text) > 3 for text in texts]
    sizes = [len(batch) for batch in engine.batches]
    assert max(sizes) <= 8 and sum(sizes) == sum(len(texts) for texts in requests)
    assert len(sizes) < 2 * sum(sizes) / 8, "the batches are filled"


def test_queue_and_engine_add_up_to_the_wall_clock():
    async def run():
        with batcher(Engine(0.05), max_batch_size=1) as queue:

            async def one():
                began = time.perf_counter()
                answer = await queue.submit(["x"])
                return (time.perf_counter() - began) * 1e3, answer

            told = await asyncio.gather(*(one() for _ in range(4)))
            return told

    for turn, (wall, answer) in enumerate(asyncio.run(run())):
        assert answer.queue_ms + answer.engine_ms == pytest.approx(wall, abs=15)
        assert 50 <= answer.engine_ms < 100
        assert answer.queue_ms >= 50 * turn * 0.99


def test_a_lone_client_does_not_wait_for_company():
    async def run():
        with batcher(Engine(), wait_s=0.2) as queue:
            began = time.perf_counter()
            for _ in range(20):
                await queue.submit(["x"])
            return time.perf_counter() - began

    assert asyncio.run(run()) < 0.2


def test_overlapping_clients_wait_for_each_other():
    engine = Engine(0.002)

    async def run():
        with batcher(engine, wait_s=1.0) as queue:

            async def client():
                for _ in range(10):
                    await queue.submit(["x"])

            await asyncio.gather(*(client() for _ in range(4)))

    asyncio.run(run())
    assert [len(batch) for batch in engine.batches].count(4) >= 9


def test_a_full_queue_refuses_at_once_and_says_when_to_come_back():
    async def run():
        with batcher(Engine(0.1), max_batch_size=4, max_queued=8) as queue:
            waiting = []
            for _ in range(2):  # the first is in the engine, the second waits: 8 rows are inside
                waiting.append(asyncio.create_task(queue.submit(["x"] * 4)))
                await asyncio.sleep(0.01)
            began = time.perf_counter()
            with pytest.raises(Full) as full:
                await queue.submit(["x"])
            took = time.perf_counter() - began
            assert all(len(answer.rows.tokens) == 4 for answer in await asyncio.gather(*waiting))
            assert len((await queue.submit(["x"] * 20)).rows.tokens) == 20, "an empty queue takes a large request"
            return took, full.value.retry_after_s

    took, retry_after = asyncio.run(run())
    assert took < 0.05 and retry_after >= 1


def test_an_error_reaches_its_batch_and_no_other():
    async def run():
        with batcher(Engine(0.01), max_batch_size=1) as queue:
            told = await asyncio.gather(*(queue.submit([text]) for text in ("a", "break", "b")), return_exceptions=True)
            return told

    first, second, third = asyncio.run(run())
    assert isinstance(second, RuntimeError) and len(first.rows.tokens) == len(third.rows.tokens) == 1


def test_rows_of_a_caller_who_left_are_not_run():
    engine = Engine(0.05)

    async def run():
        with batcher(engine, max_batch_size=1) as queue:
            tasks = [asyncio.create_task(queue.submit([text])) for text in ("first", "left", "last")]
            await asyncio.sleep(0.01)
            tasks[1].cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(run())
    assert engine.batches == [["first"], ["last"]]
