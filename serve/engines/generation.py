"""What an engine that writes text is: prompt token ids in, one step a token out, several requests at once.

A request takes one of a fixed number of slots. What finds none waits in a queue of bounded length; what finds that full
too is refused at once (`Full`: a 503 with Retry-After). Requests join and leave the running batch between two steps
(continuous batching, Yu et al. 2022, "Orca"). Whoever stops listening - closes the iterator - stops the generation and
frees the slot.

Log-probabilities are natural, of the model's own distribution: before temperature and top-p, as OpenAI tells them.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from deshi.serve.batching import Full

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, kw_only=True)
class GenerationParams:
    """What one request asks for. The distribution is divided by the temperature first, then cut to `top_p`."""

    max_tokens: int
    temperature: float = 1.0  # 0: the most likely token
    top_p: float = 1.0
    stop: tuple[str, ...] = ()  # the answer ends before the first of them, wherever the borders of tokens lie
    seed: int | None = None
    logprobs: int | None = None  # None: none; n: those of the token and of the n most likely ones
    prompt_logprobs: bool = False  # the same for the prompt's tokens; not every engine can
    ignore_eos: bool = False  # write on to max_tokens: for measurements


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A token that could have come."""

    token: bytes
    logprob: float | None  # None: the prompt's first token, which nothing comes before


@dataclass(frozen=True, kw_only=True)
class TokenLogprob(Candidate):
    """A token that came, or stood in the prompt, and the likeliest ones in its place, best first."""

    top: tuple[Candidate, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Step:
    """What came of one step. The texts one after the other are the answer, and each is valid Unicode."""

    text: str = ""
    logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: FinishReason | None = None  # set in the last step only
    completion_tokens: int = 0  # so far; told in the last step at least
    prompt_logprobs: tuple[TokenLogprob, ...] = ()  # first step
    queue_ms: float = 0.0  # first step: how long the request waited for its slot


class GenerationEngine(Protocol):
    """A loaded build. Belongs to one event loop."""

    context_length: int  # tokens, prompt and answer together
    prompt_logprobs: bool

    def submit(self, prompt_ids: Sequence[int], params: GenerationParams) -> AsyncGenerator[Step, None]:
        """Steps until the one with a finish_reason; `aclose` cancels.

        The caller has checked that the prompt holds at least one token and fits the context with max_tokens.

        Raises:
            Full: before the first step, if the queue is full.
        """
        ...

    def close(self) -> None:
        """Ends what runs and gives the memory back."""
        ...


class Slots:
    """Who may run: at most `count` at once, at most `max_queued` wait, first come, first served."""

    def __init__(self, count: int, max_queued: int) -> None:
        self._free = asyncio.Semaphore(count)
        self._max_queued = max_queued
        self._waiting = 0
        self._last_s = 0.0

    async def take(self) -> float:
        """Waits for a slot; tells when it was taken, which `give` wants back.

        Raises:
            Full: at once, if too many wait already.
        """
        if self._free.locked() and self._waiting >= self._max_queued:
            raise Full(max(1, math.ceil(self._last_s)))
        self._waiting += 1
        try:
            await self._free.acquire()
        finally:
            self._waiting -= 1
        return time.perf_counter()

    def give(self, taken: float) -> None:
        """Frees a slot."""
        self._last_s = time.perf_counter() - taken
        self._free.release()


@dataclass(frozen=True, kw_only=True)
class GenerationKind:
    """One row of the table of engines that write; see `EngineKind`, its like for classification.

    `load(folder, threads=, slots=, context_length=, max_queued=)` takes `engines/<engine>-<scheme>/`.
    """

    name: str
    schemes: tuple[str, ...]
    load: Callable[..., GenerationEngine]
    missing: Callable[[], str | None]

    def open(self, folder: Path, *, threads: int, slots: int, context_length: int, max_queued: int) -> GenerationEngine:
        """Loads a build.

        Raises:
            ValueError: if this machine cannot run the engine.
        """
        if (reason := self.missing()) is not None:
            raise ValueError(f"engine {self.name!r} cannot run here: {reason}")
        return self.load(folder, threads=threads, slots=slots, context_length=context_length, max_queued=max_queued)
