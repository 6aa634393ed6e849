"""Which build writes fastest: one request at a time, all builds in one window, in random order, round after round.

As latency.py does for classifiers: a round asks every build once, in an order drawn anew, and only times of the same
round are divided. A round's prompt is drawn for it and is the same for all builds: random token ids, since a step's
time depends on the lengths and not on the words, and new ones, since an engine may keep the prompts it has read. Its
first token is drawn without replacement, so that no round's prompt begins like one before.

    first    until the first step: the prompt and one token
    rest     from there to the last step: answer_tokens - 1 tokens
    whole    both
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from deshi.jobs.evidence.felt.latency import LatencyRow, latency_rows
from deshi.serve.engines.engine import engine_of
from deshi.serve.engines.generation import GenerationEngine, GenerationParams
from deshi.serve.engines.table import generation_engine

Part = Literal["whole", "first", "rest"]
LEAST_ROUNDS = 3
PLAIN_IDS = 256  # ids from here on: below lie the special tokens of most vocabularies


def interleaved_decode(
    engines: Mapping[str, Path],
    *,
    prompt_tokens: int,
    answer_tokens: int,
    threads: int,
    reference: str,
    vocabulary: int,
    rounds: int = 7,
    confidence: float = 0.95,
    seed: int = 0,
    part: Part = "whole",
) -> list[LatencyRow]:
    """Milliseconds of one request of each build, and its ratio to the reference's of the same round.

    Args:
        engines: name -> folder of the build, `<served>/engines/<engine>-<scheme>`.
        prompt_tokens: length of the prompt.
        answer_tokens: tokens that are written, whatever they are.
        threads: of every build.
        reference: one of the names.
        vocabulary: ids below it are known to every build.
        rounds: 3 or more; one before them warms up.
        confidence: of the intervals.
        seed: of prompts and orders.
        part: of the request that is told.

    Raises:
        ValueError: for a reference that is not there, too few rounds or tokens, or a build that cannot be opened.
    """
    if reference not in engines:
        raise ValueError(f"reference {reference!r} is not among the builds; use one of {', '.join(sorted(engines))}")
    if rounds < LEAST_ROUNDS:
        raise ValueError(f"rounds {rounds} gives no interval; use {LEAST_ROUNDS} or more")
    if prompt_tokens < 1 or answer_tokens < 2:
        raise ValueError(
            f"a prompt of {prompt_tokens} and an answer of {answer_tokens} tokens cannot be timed; use 1 and 2 or more"
        )
    times = asyncio.run(
        _rounds(
            engines,
            prompt_tokens=prompt_tokens,
            answer_tokens=answer_tokens,
            threads=threads,
            vocabulary=vocabulary,
            rounds=rounds,
            seed=seed,
        )
    )
    shown = {
        name: both.sum(axis=1) if part == "whole" else both[:, int(part == "rest")] for name, both in times.items()
    }
    shape = f"{prompt_tokens}+{answer_tokens}"
    return latency_rows(shown, shape, reference=reference, confidence=confidence, rng=np.random.default_rng(seed))


async def _rounds(
    builds: Mapping[str, Path],
    *,
    prompt_tokens: int,
    answer_tokens: int,
    threads: int,
    vocabulary: int,
    rounds: int,
    seed: int,
) -> dict[str, NDArray[np.float64]]:
    """Seconds [rounds, 2], first and rest, of each build."""
    rng = np.random.default_rng(seed)
    lowest = PLAIN_IDS if vocabulary > 2 * PLAIN_IDS else 0
    openings = rng.permutation(np.arange(lowest, vocabulary))
    params = GenerationParams(max_tokens=answer_tokens, temperature=0.0, ignore_eos=True)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in builds}
    with contextlib.ExitStack() as opened:
        engines = {}
        for name, folder in builds.items():
            engine = generation_engine(engine_of(folder.name)).open(
                folder, threads=threads, slots=1, context_length=prompt_tokens + answer_tokens, max_queued=1
            )
            opened.callback(engine.close)
            engines[name] = engine
        for turn in range(rounds + 1):
            opening = int(openings[turn % len(openings)])
            prompt = [opening, *rng.integers(lowest, vocabulary, prompt_tokens - 1).tolist()]
            for position in rng.permutation(len(engines)):
                name = list(engines)[position]
                taken = await _asked(engines[name], prompt, params)
                if turn:
                    times[name].append(taken)
    return {name: np.array(both) for name, both in times.items()}


async def _asked(engine: GenerationEngine, prompt: list[int], params: GenerationParams) -> tuple[float, float]:
    began = time.perf_counter()
    first = None
    async with contextlib.aclosing(engine.submit(prompt, params)) as steps:
        async for step in steps:
            first = first or time.perf_counter()
            if step.finish_reason is not None and step.completion_tokens != params.max_tokens:
                raise ValueError(
                    f"the engine wrote {step.completion_tokens} of {params.max_tokens} tokens though it was told to "
                    "write on; it cannot be timed"
                )
    ended = time.perf_counter()
    assert first is not None
    return first - began, ended - first
