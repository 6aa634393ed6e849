"""What a model writes, through the engine that will serve it: does it repeat itself, and how much does it say?

Prompts are held-out rows without their last answer (`choices.parted`), rendered by the model folder's own chat
template; answers are greedy, so they depend on the model and the engine alone, and all slots write at once. Greedy
answers of a small model end in loops, and a model that was cut too far writes on and on or nothing: neither shows in a
likelihood, which never reads the model's own words.

    repetition     the share of 4-grams of an answer that occurred before in it (as "rep-4" in Welleck et al. 2020,
                   arXiv 1908.04319)
    length         tokens until the model stopped, the one that ends the answer included, at most `ANSWER_TOKENS`
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from deshi.jobs.data.conversations import Format
from deshi.jobs.evidence.text.choices import PROMPT_CHARACTERS, Prompt, parted
from deshi.serve.chat_template import Prompts
from deshi.serve.engines.engine import engine_of
from deshi.serve.engines.generation import GenerationEngine, GenerationParams
from deshi.serve.engines.table import generation_engine
from deshi.serve.serving import ENGINES_FOLDER, MODEL_FOLDER

PROMPTS, ANSWER_TOKENS = 40, 64
NGRAM = 4


@dataclass(frozen=True, kw_only=True)
class WrittenAnswer:
    """One answer."""

    row: int  # of the split
    text: str
    tokens: tuple[int, ...]  # the text's, under the model's tokenizer
    length: int  # tokens that the engine made
    ended: bool  # the model stopped by itself


def prompts_of(texts: Sequence[str], format: Format, *, most: int = PROMPTS) -> list[tuple[int, Prompt]]:
    """(row, prompt) of the first `most` rows that have an answer."""
    found = ((row, parted(text, format, most=PROMPT_CHARACTERS)) for row, text in enumerate(texts))
    return [(row, part[0]) for row, part in found if part is not None][:most]


def write(
    folder: Path,
    build: str,
    asked: Sequence[tuple[int, Prompt]],
    *,
    threads: int,
    slots: int,
    context_length: int,
    max_tokens: int = ANSWER_TOKENS,
) -> list[WrittenAnswer]:
    """The answers of `<folder>/engines/<build>` with the tokenizer and template of `<folder>/model`, in their order.

    A prompt that does not fit the context with its answer is left out, as an endpoint would refuse it.

    Raises:
        ValueError: for a build that cannot run here, or conversations without a chat template.
    """
    from tokenizers import Tokenizer

    prompts = Prompts.load(folder / MODEL_FOLDER)
    if any(prompt.messages for _, prompt in asked) and not prompts.chats:
        raise ValueError(
            f"the tokenizer of {folder / MODEL_FOLDER} has no chat template; put chat_template.jinja there"
        )
    ids = [
        (row, prompts.of_chat(prompt.messages) if prompt.messages else prompts.of_text(prompt.text))
        for row, prompt in asked
    ]
    fitting = [(row, some) for row, some in ids if 0 < len(some) <= context_length - max_tokens]
    engine = generation_engine(engine_of(build)).open(
        folder / ENGINES_FOLDER / build,
        threads=threads,
        slots=slots,
        context_length=context_length,
        max_queued=len(fitting),
    )
    try:
        made = asyncio.run(_answered(engine, [some for _, some in fitting], max_tokens))
    finally:
        engine.close()
    tokenizer = Tokenizer.from_file(str(folder / MODEL_FOLDER / "tokenizer.json"))
    return [
        WrittenAnswer(
            row=row,
            text=text,
            tokens=tuple(tokenizer.encode(text, add_special_tokens=False).ids),
            length=length,
            ended=ended,
        )
        for (row, _), (text, length, ended) in zip(fitting, made, strict=True)
    ]


def table(answers: Sequence[WrittenAnswer]) -> pa.Table:
    """The answers as `Answered.written` keeps them."""
    return pa.table(
        {
            "row": pa.array([answer.row for answer in answers], pa.int64()),
            "text": pa.array([answer.text for answer in answers], pa.string()),
            "length": pa.array([answer.length for answer in answers], pa.int64()),
            "ended": pa.array([answer.ended for answer in answers], pa.bool_()),
        }
    )


async def _answered(
    engine: GenerationEngine, prompts: Sequence[Sequence[int]], max_tokens: int
) -> list[tuple[str, int, bool]]:
    """Text, tokens and whether the model stopped, for each prompt: all asked at once, the engine's slots take turns."""
    params = GenerationParams(max_tokens=max_tokens, temperature=0.0)

    async def one(prompt_ids: Sequence[int]) -> tuple[str, int, bool]:
        steps = [step async for step in engine.submit(prompt_ids, params)]
        return "".join(step.text for step in steps), steps[-1].completion_tokens, steps[-1].finish_reason == "stop"

    return await asyncio.gather(*(one(prompt_ids) for prompt_ids in prompts))


def repeated(tokens: Sequence[int]) -> tuple[int, int]:
    """How many 4-grams of an answer occurred before in it, and how many it has."""
    grams = [tuple(tokens[at : at + NGRAM]) for at in range(len(tokens) - NGRAM + 1)]
    return len(grams) - len(set(grams)), len(grams)


def repetition(tokens: Sequence[int]) -> float:
    """The share of 4-grams of an answer that occurred before in it; 0 where it has none."""
    again, all_of_them = repeated(tokens)
    return again / all_of_them if all_of_them else 0.0
