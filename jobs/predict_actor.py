"""What an actor of `deshi predict` holds and does: a release opened as its endpoint opens it, asked a batch of rows.

A batch is an Arrow table; it comes back with two columns more. What the endpoint would refuse is answered with nulls.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from deshi.serve import generate_service, service
from deshi.serve.engines.generation import GenerationParams

ADDED = {"classify": ("answer", "confidence"), "generate": ("completion", "finish_reason")}
PROMPTS_A_SLOT = 4  # of a batch, so that a slot seldom waits for the batch's longest answer

Turns = list[dict[str, str]]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What every actor is told."""

    folder: str
    target: str | None
    column: str
    chats: bool  # a text is a user's turn, and not the beginning of a text that is to be continued
    max_tokens: int
    despite_verdict: bool


class Classifies:
    """An actor that answers with a class and its probability."""

    def __init__(self, asked: Asked) -> None:
        self._asked = asked
        self._service = service.opened(Path(asked.folder), target=asked.target, despite_verdict=asked.despite_verdict)

    def __call__(self, batch: pa.Table) -> pa.Table:
        texts = batch[self._asked.column].to_pylist()
        at = [number for number, text in enumerate(texts) if text and text.strip()]
        answers: list[str | None] = [None] * len(texts)
        confidence: list[float | None] = [None] * len(texts)
        if at:
            probabilities = self._service.run([texts[number] for number in at]).probabilities
            for number, row in zip(at, probabilities, strict=True):
                answers[number] = self._service.serving.labels[int(row.argmax())]
                confidence[number] = float(row.max())
        first, second = ADDED["classify"]
        batch = batch.append_column(first, pa.array(answers, pa.string()))
        return batch.append_column(second, pa.array(confidence, pa.float32()))


class Writes:
    """An actor that answers with text, all slots at once."""

    def __init__(self, asked: Asked) -> None:
        self._asked = asked
        self._service = generate_service.opened(
            Path(asked.folder),
            target=asked.target,
            despite_verdict=asked.despite_verdict,
            max_queued=np.iinfo(np.int32).max,  # a batch waits here for its slots; nothing is refused
        )
        self._loop = asyncio.new_event_loop()  # an engine belongs to one

    def __call__(self, batch: pa.Table) -> pa.Table:
        prompts = [self._prompt(value) for value in batch[self._asked.column].to_pylist()]
        said = self._loop.run_until_complete(self._all(prompts))
        first, second = ADDED["generate"]
        batch = batch.append_column(first, pa.array([text for text, _ in said], pa.string()))
        return batch.append_column(second, pa.array([reason for _, reason in said], pa.string()))

    def _prompt(self, value: Any) -> list[int]:
        """Token ids; none where there is nothing to answer."""
        prompts = self._service.prompts
        if isinstance(value, str):
            if not value.strip():
                return []
            return (
                prompts.of_chat([{"role": "user", "content": value}]) if self._asked.chats else prompts.of_text(value)
            )
        turns = turns_of(value)
        try:
            return prompts.of_chat(turns) if turns else []
        except ValueError:  # the template refuses this conversation, as the endpoint would
            return []

    async def _all(self, prompts: Sequence[list[int]]) -> list[tuple[str | None, str | None]]:
        return await asyncio.gather(*(self._one(ids) for ids in prompts))

    async def _one(self, ids: list[int]) -> tuple[str | None, str | None]:
        engine = self._service.engine
        room = engine.context_length - len(ids)
        if not ids or room < 1:
            return None, None
        params = GenerationParams(max_tokens=min(self._asked.max_tokens, room), temperature=0.0)
        async with aclosing(engine.submit(ids, params)) as steps:
            told = [step async for step in steps]
        return "".join(step.text for step in told), told[-1].finish_reason


def turns_of(conversation: Sequence[Mapping[str, str | None]] | None) -> Turns:
    """The turns that are to be answered: without what the assistant said last, which is what is asked for."""
    turns = [{"role": turn["role"] or "", "content": turn["content"] or ""} for turn in conversation or ()]
    while turns and turns[-1]["role"] == "assistant":
        turns.pop()
    return turns
