"""A fixed multiple-choice set made of held-out rows: which of four answers does a model find likeliest?

An item is a prompt, what a row said last to it, and what three other rows said, of similar length:

- messages: the conversation up to the assistant's last answer to a user; the answer;
- prompt_completion: the prompt; the completion;
- text: the words of a passage up to its middle; those after it.

A choice hangs on what was said last, so a prompt is the last turns or words of at most `PROMPT_CHARACTERS`, and an
option is cut at `OPTION_CHARACTERS`, at a word. A model chooses the option whose tokens have the largest mean
log-probability given the prompt (length-normalised, as in lm-evaluation-harness' acc_norm, by tokens). Items depend on
the rows and the seed alone, so models are paired item by item; a flip is an item on which student and teacher choose
differently.

The prompt's keys and values are computed once and shared by its four options, and only the options' tokens meet the
head.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from deshi.jobs.data.conversations import Format
from deshi.jobs.evidence.text.text_scores import Head, head_of
from deshi.serve.chat_template import Prompts

if TYPE_CHECKING:
    from torch import Tensor

OPTIONS = 4
ITEMS = 50  # 37 CPU seconds for SmolLM2-135M in fp32
PROMPT_CHARACTERS, OPTION_CHARACTERS = 400, 120
NEAREST = 12  # answers of the most similar length, of which the other options are drawn


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """What a model is to answer or to continue: turns up to the answer, or, without a chat, a text."""

    messages: tuple[dict[str, str], ...] = ()
    text: str = ""


@dataclass(frozen=True, kw_only=True)
class Item:
    """One question."""

    row: int  # of the split
    prompt: Prompt
    options: tuple[str, ...]
    right: int  # the place of what the row really said


def parted(text: str, format: Format, *, most: int) -> tuple[Prompt, str] | None:
    """A row, as `read_conversations` gives it, as a prompt of about `most` characters at most and what followed it.

    A prompt keeps the system's turn, and of the others the last ones, from a user's on. None where nothing followed.
    """
    if format == "messages":
        return _last_answer(json.loads(text), most)
    if format == "prompt_completion":
        pair = json.loads(text)
        return Prompt(text=_last_words(pair["prompt"], most)), pair["completion"]
    passage = text.strip()
    if len(passage) < 2:
        return None
    gaps = [match.start() for match in re.finditer(r"(?<=\S)\s", passage)]
    middle = min(gaps, key=lambda gap: abs(gap - len(passage) // 2), default=len(passage) // 2)
    return Prompt(text=_last_words(passage[:middle], most)), passage[middle:]


def make_items(texts: Sequence[str], format: Format, *, seed: int, most: int = ITEMS) -> list[Item]:
    """At most `most` items from the rows' texts, in the rows' order; none if there are fewer than four answers.

    An answer that several rows gave is asked for once, with the first one's prompt. The first rows are asked: a split's
    are a random sample of it. The other options come from all rows.
    """
    asked: dict[str, tuple[int, Prompt]] = {}
    for row, text in enumerate(texts):
        part = parted(text, format, most=PROMPT_CHARACTERS)
        if part is not None and (option := _first_words(part[1], OPTION_CHARACTERS)).strip():
            asked.setdefault(option, (row, part[0]))
    answers = list(asked)
    if len(answers) < OPTIONS:
        return []
    lengths = np.array([len(answer) for answer in answers])
    rng = np.random.default_rng([seed, 11])
    items = []
    for number, answer in enumerate(answers[:most]):
        nearest = np.argsort(np.abs(lengths - lengths[number]), kind="stable")
        others = nearest[nearest != number][:NEAREST]
        options = [answers[other] for other in rng.choice(others, OPTIONS - 1, replace=False).tolist()]
        right = int(rng.integers(OPTIONS))
        options.insert(right, answer)
        row, prompt = asked[answer]
        items.append(Item(row=row, prompt=prompt, options=tuple(options), right=right))
    return items


def choose(model: Any, folder: Path, items: Sequence[Item], *, max_length: int) -> NDArray[np.int64]:
    """The option that a model finds likeliest for each item, int64 [items]; see `mean_log_probs`."""
    return mean_log_probs(model, folder, items, max_length=max_length).argmax(axis=1).astype(np.int64)


def mean_log_probs(model: Any, folder: Path, items: Sequence[Item], *, max_length: int) -> NDArray[np.float32]:
    """Mean log-probability of each option's tokens given its prompt, nats, float32 [items, options].

    `folder` holds the model's tokenizer and chat template. A prompt that does not fit `max_length` tokens with its
    longest option loses its beginning.

    Raises:
        ValueError: for conversations without a chat template, or one that refuses them.
    """
    import torch
    from tokenizers import Tokenizer

    prompts = Prompts.load(folder)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    head, device = head_of(model), next(model.parameters()).device
    told = np.zeros((len(items), OPTIONS), np.float32)
    for number, item in enumerate(items):
        chat = bool(item.prompt.messages)
        if chat and not prompts.chats:
            raise ValueError(f"the tokenizer of {folder} has no chat template; put its chat_template.jinja there")
        shown = prompts.render(item.prompt.messages) if chat else item.prompt.text
        parts = [_tokens(tokenizer, shown, option, special=not chat) for option in item.options]
        # The same cut for all options, so that they keep the same prompt.
        room = max(1, max_length - max(len(option) for _, option in parts))
        parts = [(before[-room:], option[: max_length - 1]) for before, option in parts]
        with torch.inference_mode():
            told[number] = _given_prompt(model, head, parts, device).cpu().numpy()
    return told


def _tokens(tokenizer: Any, shown: str, option: str, *, special: bool) -> tuple[list[int], list[int]]:
    """Ids of the prompt and of the option; a token with characters of both belongs to the option, as in render.py."""
    encoded = tokenizer.encode(shown + option, add_special_tokens=special)
    its = [at for at, (_, end) in enumerate(encoded.offsets) if end > len(shown)]
    begin = max(1, its[0])  # nothing predicts the first token
    return list(encoded.ids[:begin]), list(encoded.ids[begin : its[-1] + 1])


def _given_prompt(model: Any, head: Head, parts: list[tuple[list[int], list[int]]], device: Any) -> Tensor:
    """Means [options]. What all options have in common is run once; its last token predicts, so it is run with each."""
    import torch

    rows = [before + option for before, option in parts]
    begins = [len(before) for before, _ in parts]
    differ = [at for at, ids in enumerate(zip(*rows, strict=False)) if len(set(ids)) > 1]
    shared = min([*(begin - 1 for begin in begins), *differ[:1]])
    decoder = model.get_decoder()
    cache = None
    if shared > 0:
        cache = decoder(input_ids=torch.tensor([rows[0][:shared]], device=device), use_cache=True).past_key_values
        cache.batch_repeat_interleave(len(rows))
    # Padding stands at the end, where no token sees it.
    rest = torch.zeros(len(rows), max(len(row) for row in rows) - shared, dtype=torch.long, device=device)
    for number, row in enumerate(rows):
        rest[number, : len(row) - shared] = torch.tensor(row[shared:], device=device)
    states = decoder(input_ids=rest, past_key_values=cache, use_cache=cache is not None).last_hidden_state
    predicts = [slice(begin - 1 - shared, len(row) - 1 - shared) for begin, row in zip(begins, rows, strict=True)]
    log_q = head.logits(torch.cat([states[i, at] for i, at in enumerate(predicts)]).float()).log_softmax(dim=-1)
    labels = torch.tensor([id for _, option in parts for id in option], device=device)
    told = log_q.gather(1, labels[:, None])[:, 0].split([len(option) for _, option in parts])
    return torch.stack([each.mean() for each in told])


def _last_answer(messages: list[dict[str, str]], most: int) -> tuple[Prompt, str] | None:
    roles = [message["role"] for message in messages]
    at = next((i for i in reversed(range(len(roles))) if roles[i] == "assistant" and "user" in roles[:i]), None)
    if at is None:
        return None
    system = messages[:1] if roles[0] == "system" else []
    turns = messages[len(system) : at]
    users = [place for place, turn in enumerate(turns) if turn["role"] == "user"]
    fits = (place for place in users if sum(len(turn["content"]) for turn in turns[place:]) <= most)
    kept = [turn | {"content": _last_words(turn["content"], most)} for turn in turns[next(fits, users[-1]) :]]
    return Prompt(messages=(*system, *kept)), messages[at]["content"]


def _first_words(text: str, most: int) -> str:
    """At most `most` characters from the beginning, cut at a word unless words are longer than half of that."""
    gap = next((at for at in range(most, most // 2, -1) if text[at : at + 1].isspace()), most)
    return text if len(text) <= most else text[:gap]


def _last_words(text: str, most: int) -> str:
    """The same from the end."""
    gap = next((at for at in range(len(text) - most, len(text) - most // 2) if text[at - 1 : at].isspace()), None)
    return text if len(text) <= most else text[len(text) - most if gap is None else gap :]
