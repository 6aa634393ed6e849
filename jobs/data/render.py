"""A row's text to token ids and to the mask of the tokens that are learned.

`render` gives `Sequences`: for each row `input_ids` int32 [tokens] and `loss_mask` bool [tokens], true where the token
is a target, predicted from the tokens before it; the first token of a row has none before it and never is one.

- messages: the tokenizer's chat template. What the assistant says is found by rendering prefixes of the conversation:
  turn i begins where the rendering of the turns before it, with the generation prompt, ends, and ends where the
  rendering up to and with it ends. Each rendering must be a prefix of the next, else the template rewrites what was
  said before and the conversation is refused, unless it marks the answers itself with `{% generation %}`. The token
  that ends a turn is a target: it is how a model stops. White space that the template writes behind it is not: an
  endpoint has stopped by then. A token with characters of both the prompt and the answer belongs to the answer.
- prompt_completion: the prompt, the completion and the tokenizer's end-of-text token, as they stand, no template.
- text: the passage as it stands; its end is no end that a model should learn, so no token is added for it.

A row of more than `max_length` tokens is cut at the end, and `cut` counts those; a row whose every target was cut has
nothing left to learn and is not among `learnable`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deshi.jobs.data.conversations import Format, LossOn, refuse_loss

CHUNK = 512  # rows tokenised at a time
CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "seq_length")
Span = tuple[int, int]  # characters, end exclusive


@dataclass(frozen=True, kw_only=True)
class Sequences:
    """The tokens of a split's rows, in the split's order."""

    input_ids: list[NDArray[np.int32]]
    loss_mask: list[NDArray[np.bool_]]
    cut: int  # rows that were longer than max_length

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each row."""
        return np.array([len(ids) for ids in self.input_ids], np.int64)

    @cached_property
    def learned(self) -> NDArray[np.int64]:
        """Targets of each row."""
        return np.array([mask.sum() for mask in self.loss_mask], np.int64)

    @property
    def learnable(self) -> NDArray[np.int64]:
        """The positions of the rows that have a target, ascending."""
        return np.flatnonzero(self.learned)


def refuse_unrenderable(folder: Path, *, format: Format, loss_on: LossOn, max_length: int) -> None:
    """Refuses, before any work, a model folder that cannot read such rows.

    Raises:
        ValueError: in one sentence, for a missing chat template, or a context below max_length.
    """
    refuse_loss(format, loss_on)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config = config.get("text_config", config)
    context = next((config[key] for key in CONTEXT_KEYS if isinstance(config.get(key), int)), None)
    if context is not None and max_length > context:
        raise ValueError(
            f"max_length = {max_length} is above the context of {folder}, which is {context} tokens; "
            f"write {context} or less"
        )
    if format == "messages" and not _tokenizer(folder).chat_template:
        raise ValueError(
            f"the tokenizer of {folder} has no chat template, which format: messages needs; take the model's "
            "instruction-tuned variant, put its chat_template.jinja there, or use format: prompt_completion"
        )


def render(folder: Path, texts: Sequence[str], *, format: Format, loss_on: LossOn, max_length: int) -> Sequences:
    """Tokenises rows as `read_conversations` gives them with the tokenizer of a model folder.

    Raises:
        ValueError: in one sentence, for a folder or a conversation that cannot be rendered.
    """
    refuse_unrenderable(folder, format=format, loss_on=loss_on, max_length=max_length)
    tokenizer = _tokenizer(folder)
    input_ids: list[NDArray[np.int32]] = []
    loss_mask: list[NDArray[np.bool_]] = []
    cut = 0
    for start in range(0, len(texts), CHUNK):
        for text, ids, spans in _tokenised(tokenizer, texts[start : start + CHUNK], format):
            cut += len(ids) > max_length
            ids, spans = ids[:max_length], spans[:max_length]
            targets = np.zeros(len(ids), bool)
            for begin, end in _answers(tokenizer, text, format, loss_on, upto=int(spans[:, 1].max(initial=0))):
                targets |= (spans[:, 1] > begin) & (spans[:, 0] < end)
            targets[:1] = False
            input_ids.append(ids)
            loss_mask.append(targets)
    return Sequences(input_ids=input_ids, loss_mask=loss_mask, cut=cut)


def cut_rows(folder: Path, texts: Sequence[str], *, format: Format, max_length: int) -> int:
    """How many rows have more than `max_length` tokens; which of those are learned is not asked, which takes longer."""
    tokenizer = _tokenizer(folder)
    chunks = (texts[start : start + CHUNK] for start in range(0, len(texts), CHUNK))
    return sum(len(ids) > max_length for chunk in chunks for _, ids, _ in _tokenised(tokenizer, chunk, format))


def answer_spans(tokenizer: Any, messages: Sequence[dict[str, str]], *, upto: int | None = None) -> list[Span]:
    """Where, in the rendered conversation, the assistant answers a user; turns that begin at `upto` or later left out.

    Raises:
        ValueError: in one sentence, if the template rewrites a turn once others follow.
    """
    whole = _rendered(tokenizer, messages)
    spans: list[Span] = []
    for turn, message in enumerate(messages):
        if message["role"] != "assistant" or all(earlier["role"] != "user" for earlier in messages[:turn]):
            continue
        before = _rendered(tokenizer, messages[:turn], add_generation_prompt=True)
        with_it = _rendered(tokenizer, messages[: turn + 1])
        if not (whole.startswith(with_it) and with_it.startswith(before)):
            return _marked_spans(tokenizer, messages, turn)
        if upto is not None and len(before) >= upto:
            break
        spans.append((len(before), _end_of_turn(tokenizer, with_it)))
    return spans


def _tokenised(tokenizer: Any, texts: Sequence[str], format: Format) -> Iterator[tuple[str, Any, Any]]:
    """The text, its ids [n] and their characters [n, 2] in what was tokenised, for each row."""
    if format == "messages":
        shown = [_rendered(tokenizer, json.loads(text)) for text in texts]
    elif format == "prompt_completion":
        shown = ["".join(json.loads(text).values()) + (tokenizer.eos_token or "") for text in texts]
    else:
        shown = list(texts)
    # A template writes the special tokens that a conversation begins with.
    encoded = tokenizer(shown, add_special_tokens=format != "messages", return_offsets_mapping=True, verbose=False)
    for text, ids, offsets in zip(texts, encoded["input_ids"], encoded["offset_mapping"], strict=True):
        yield text, np.asarray(ids, np.int32), np.asarray(offsets, np.int64).reshape(-1, 2)


def _answers(tokenizer: Any, text: str, format: Format, loss_on: LossOn, *, upto: int) -> list[Span]:
    if loss_on == "all":
        return [(-1, upto + 1)]
    if format == "messages":
        return answer_spans(tokenizer, json.loads(text), upto=upto)
    return [(len(json.loads(text)["prompt"]), upto + 1)]


def _rendered(tokenizer: Any, messages: Sequence[dict[str, str]], **options: bool) -> str:
    from jinja2 import TemplateError

    try:
        shown: str = tokenizer.apply_chat_template(list(messages), tokenize=False, **options)
    except TemplateError as error:
        said = " / ".join(message["content"][:20] for message in messages[:2])
        raise ValueError(
            f"the chat template of {tokenizer.name_or_path} refuses the conversation {said!r} ({error}); "
            "bring its turns into the order that the template takes, or remove the row"
        ) from None
    return shown


def _end_of_turn(tokenizer: Any, shown: str) -> int:
    """Behind the token that ends the turn, where there is one: white space that follows it is never generated."""
    bare = shown.rstrip()
    return len(bare) if bare.endswith(_special(tokenizer)) else len(shown)


def _special(tokenizer: Any) -> tuple[str, ...]:
    return tuple(str(token) for token in tokenizer.added_tokens_decoder.values() if token.special)


def _marked_spans(tokenizer: Any, messages: Sequence[dict[str, str]], turn: int) -> list[Span]:
    """The template's own marks, for one whose renderings are no prefixes of each other."""
    template = tokenizer.get_chat_template()
    if not re.search(r"\{%-?\s*generation\s*-?%\}", template):
        raise ValueError(
            f"the chat template of {tokenizer.name_or_path} rewrites turn {turn + 1} of the conversation that begins "
            f"{messages[0]['content'][:40]!r} once others follow, so that what the assistant said cannot be told; "
            "mark it in the template with {% generation %}, give one answer a row, or write loss_on: all"
        )
    from transformers.utils.chat_template_utils import render_jinja_template

    (shown,), (marks,) = render_jinja_template(
        conversations=[list(messages)],
        chat_template=template,
        return_assistant_tokens_mask=True,
        **tokenizer.special_tokens_map,
    )
    # The mark may stop short of the token that ends the turn.
    ends = [
        next((end + len(mark) for mark in _special(tokenizer) if shown.startswith(mark, end)), end) for _, end in marks
    ]
    return [(begin, end) for (begin, _), end in zip(marks, ends, strict=True)]


def _tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
