"""Dynamic batching in one process: rows that wait while the engine is busy go to it together when it is free.

A row waits for company at most `wait_s`, and only while requests overlap: a lone client never waits. So a
batch is as large as the load makes it, from 1 to `max_batch_size` rows. Time is told per request and adds up:

    time in the batcher = engine (the batches its rows were in) + queue (all the rest)

The queue is bounded in rows; a request that does not fit is refused at once (`Full`), never left to time out.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
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


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What one request gets back: its rows, and where its time went (ms)."""

    rows: Rows
    queue_ms: float
    engine_ms: float


class Full(Exception):
    """The queue holds no room for the request; try again in `retry_after_s` seconds."""

    def __init__(self, retry_after_s: int) -> None:
        super().__init__(f"the queue is full; try again in {retry_after_s} s")
        self.retry_after_s = retry_after_s


class _Request:
    """One request while it waits: its rows may go to the engine in several batches."""

    __slots__ = ("answered", "arrived", "engine_s", "left", "parts", "texts")

    def __init__(self, texts: Sequence[str], answered: asyncio.Future[Answer]) -> None:
        self.texts = texts
        self.answered = answered
        self.arrived = time.perf_counter()
        self.engine_s = 0.0
        self.left = len(texts)
        self.parts: list[Rows] = []


class Batcher:
    """Gathers the texts of many requests into batches and runs them on one thread, one batch at a time."""

    def __init__(
        self, run: Callable[[list[str]], Rows], *, max_batch_size: int, wait_s: float, max_queued: int
    ) -> None:
        """Takes the function that answers a batch; it is called on a thread of its own.

        Args:
            run: texts -> rows; never called twice at once.
            max_batch_size: rows.
            wait_s: how long a row waits for others while the engine is free.
            max_queued: rows that may wait; the rows in the engine do not count.
        """
        self._run = run
        self._max_batch_size = max_batch_size
        self._wait_s = wait_s
        self._max_queued = max_queued
        self._queue: deque[tuple[_Request, Sequence[str]]] = deque()
        self._queued = 0
        self._last_rows = 1
        self._rows_per_s = 0.0
        self._arrival = asyncio.Event()
        self._engine = ThreadPoolExecutor(max_workers=1, thread_name_prefix="engine")
        self._task: asyncio.Task[None] | None = None

    async def submit(self, texts: Sequence[str]) -> Answer:
        """Queues one request and waits for its answer.

        Raises:
            Full: at once, if its rows do not fit into the queue.
        """
        if self._queued and self._queued + len(texts) > self._max_queued:
            raise Full(max(1, round(self._queued / self._rows_per_s)) if self._rows_per_s else 1)
        if self._task is None:
            self._task = asyncio.create_task(self._work())
        request = _Request(texts, asyncio.get_running_loop().create_future())
        for start in range(0, len(texts), self._max_batch_size):
            self._queue.append((request, texts[start : start + self._max_batch_size]))
        self._queued += len(texts)
        self._arrival.set()
        return await request.answered

    def close(self) -> None:
        """Stops; requests that wait are cancelled."""
        if self._task is not None:
            self._task.cancel()
        for request, _ in self._queue:
            request.answered.cancel()
        self._engine.shutdown(wait=False)

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._company()
            batch = self._take()
            if not batch:
                continue
            texts = [text for _, part in batch for text in part]
            began = time.perf_counter()
            try:
                rows = await loop.run_in_executor(self._engine, self._run, texts)
            except Exception as error:
                for request, _ in batch:
                    if not request.answered.done():
                        request.answered.set_exception(error)
                continue
            took = time.perf_counter() - began
            self._last_rows = len(texts)
            self._rows_per_s = 0.8 * self._rows_per_s + 0.2 * len(texts) / took
            self._hand_out(batch, rows, took)

    async def _company(self) -> None:
        """Returns when there is something to do, and at best as much as there was last time."""
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

    def _take(self) -> list[tuple[_Request, Sequence[str]]]:
        """The parts of the next batch, first come, first served, without those whose caller has left."""
        batch: list[tuple[_Request, Sequence[str]]] = []
        rows = 0
        while self._queue and rows + len(self._queue[0][1]) <= self._max_batch_size:
            request, part = self._queue.popleft()
            self._queued -= len(part)
            if not request.answered.done():
                batch.append((request, part))
                rows += len(part)
        return batch

    def _hand_out(self, batch: list[tuple[_Request, Sequence[str]]], rows: Rows, took: float) -> None:
        start = 0
        for request, part in batch:
            end = start + len(part)
            request.parts.append(
                Rows(
                    probabilities=rows.probabilities[start:end],
                    tokens=rows.tokens[start:end],
                    truncated=rows.truncated[start:end],
                )
            )
            request.engine_s += took
            request.left -= len(part)
            start = end
            if request.left == 0 and not request.answered.done():
                total = time.perf_counter() - request.arrived
                request.answered.set_result(
                    Answer(
                        rows=_joined(request.parts),
                        queue_ms=(total - request.engine_s) * 1e3,
                        engine_ms=request.engine_s * 1e3,
                    )
                )


def _joined(parts: list[Rows]) -> Rows:
    if len(parts) == 1:
        return parts[0]
    return Rows(
        probabilities=np.concatenate([part.probabilities for part in parts]),
        tokens=np.concatenate([part.tokens for part in parts]),
        truncated=np.concatenate([part.truncated for part in parts]),
    )
