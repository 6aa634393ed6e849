"""Admission and dynamic batching: what stands between the ingress and the engine.

`BoundedQueue` lets a request in or refuses it at once, cuts it into parts of at most `max_batch_size` rows and tells
where its time went; per request the two add up:

    time inside = engine (the batches its rows were in) + queue (all the rest)

Who gathers parts of several requests into one batch is given to it: `Gatherer` in one process, `serve.batch` in a
Ray Serve replica (app.py). With either a lone client never waits for company.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class Rows:
    """What the engine says of some texts, row by row."""

    probabilities: NDArray[np.float32]  # [rows, labels]
    tokens: NDArray[np.int64]  # [rows], after truncation
    truncated: NDArray[np.bool_]  # [rows]

    def __getitem__(self, part: slice) -> Rows:
        """Some of the rows."""
        return Rows(probabilities=self.probabilities[part], tokens=self.tokens[part], truncated=self.truncated[part])


Run = Callable[[list[str]], Rows]


@dataclass(frozen=True, kw_only=True)
class Part:
    """The rows of a part of a request, and the time of the engine call that they were in."""

    rows: Rows
    engine_s: float


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What one request gets back: its rows, and where its time went."""

    rows: Rows
    queue_ms: float
    engine_ms: float


class Full(Exception):
    """There is no room for the request; try again in `retry_after_s` seconds."""

    def __init__(self, retry_after_s: int) -> None:
        super().__init__(f"the queue is full; try again in {retry_after_s} s")
        self.retry_after_s = retry_after_s


class BoundedQueue:
    """Admits requests while fewer than `max_queued` rows are inside, and times them."""

    def __init__(
        self, part: Callable[[Sequence[str]], Awaitable[Part]], *, max_batch_size: int, max_queued: int
    ) -> None:
        """Takes the function that answers a part of a request.

        Args:
            part: at most `max_batch_size` texts -> their rows, gathered with others' or not.
            max_batch_size: rows.
            max_queued: rows that may be inside, waiting or in the engine. One request may always be.
        """
        self._part = part
        self._max_batch_size = max_batch_size
        self._max_queued = max_queued
        self._inside = 0
        self._last_s = 0.0

    async def submit(self, texts: Sequence[str]) -> Answer:
        """Answers one request.

        Raises:
            Full: at once, if its rows do not fit.
        """
        if self._inside and self._inside + len(texts) > self._max_queued:
            raise Full(max(1, math.ceil(self._last_s)))
        arrived = time.perf_counter()
        self._inside += len(texts)
        try:
            if len(texts) <= self._max_batch_size:
                parts = [await self._part(texts)]
            else:
                starts = range(0, len(texts), self._max_batch_size)
                parts = await asyncio.gather(*(self._part(texts[at : at + self._max_batch_size]) for at in starts))
        finally:
            self._inside -= len(texts)
        self._last_s = time.perf_counter() - arrived
        engine_s = min(sum(part.engine_s for part in parts), self._last_s)
        return Answer(
            rows=joined([part.rows for part in parts]),
            queue_ms=(self._last_s - engine_s) * 1e3,
            engine_ms=engine_s * 1e3,
        )


class Gatherer:
    """Runs parts that wait while the engine is busy together when it is free, on one thread, one batch at a time.

    While requests overlap, the free engine waits up to `wait_s` for as many rows as it had the last time.
    """

    def __init__(self, run: Run, *, max_batch_size: int, wait_s: float) -> None:
        """Takes the function that answers a batch; it is never called twice at once."""
        self._run = run
        self._max_batch_size = max_batch_size
        self._wait_s = wait_s
        self._queue: deque[tuple[Sequence[str], asyncio.Future[Part]]] = deque()
        self._queued = 0
        self._last_rows = 1
        self._arrival = asyncio.Event()
        self._engine = ThreadPoolExecutor(max_workers=1, thread_name_prefix="engine")
        self._task: asyncio.Task[None] | None = None

    async def part(self, texts: Sequence[str]) -> Part:
        """Queues at most `max_batch_size` texts and waits for their rows."""
        if self._task is None:
            self._task = asyncio.create_task(self._work())
        done: asyncio.Future[Part] = asyncio.get_running_loop().create_future()
        self._queue.append((texts, done))
        self._queued += len(texts)
        self._arrival.set()
        return await done

    def close(self) -> None:
        """Stops; those who wait are cancelled."""
        if self._task is not None:
            self._task.cancel()
        for _, done in self._queue:
            done.cancel()
        self._engine.shutdown(wait=False)

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._company()
            batch = self._take()
            texts = [text for part, _ in batch for text in part]
            if not texts:
                continue
            began = time.perf_counter()
            try:
                rows = await loop.run_in_executor(self._engine, self._run, texts)
            except Exception as error:
                for _, done in batch:
                    if not done.done():
                        done.set_exception(error)
                continue
            took = time.perf_counter() - began
            self._last_rows = len(texts)
            start = 0
            for part, done in batch:
                if not done.done():
                    done.set_result(Part(rows=rows[start : start + len(part)], engine_s=took))
                start += len(part)

    async def _company(self) -> None:
        """Returns when there is something to do, and at best as much as there was the last time."""
        while not self._queue:
            self._arrival.clear()
            await self._arrival.wait()
        expected = min(self._last_rows, self._max_batch_size)
        deadline = time.perf_counter() + self._wait_s
        while self._queued < expected and (left := deadline - time.perf_counter()) > 0:
            self._arrival.clear()
            try:
                await asyncio.wait_for(self._arrival.wait(), left)
            except TimeoutError:
                return

    def _take(self) -> list[tuple[Sequence[str], asyncio.Future[Part]]]:
        """The parts of the next batch, first come, first served, without those whose caller has left."""
        batch: list[tuple[Sequence[str], asyncio.Future[Part]]] = []
        rows = 0
        while self._queue and rows + len(self._queue[0][0]) <= self._max_batch_size:
            texts, done = self._queue.popleft()
            self._queued -= len(texts)
            if not done.done():
                batch.append((texts, done))
                rows += len(texts)
        return batch


def joined(parts: Sequence[Rows]) -> Rows:
    """The rows of all parts, one after the other."""
    if len(parts) == 1:
        return parts[0]
    return Rows(
        probabilities=np.concatenate([part.probabilities for part in parts]),
        tokens=np.concatenate([part.tokens for part in parts]),
        truncated=np.concatenate([part.truncated for part in parts]),
    )
