"""Answers in OpenAI's shapes: whole, or chunk by chunk.

A chat's logprobs are `{"content": [{token, logprob, bytes, top_logprobs}]}`; a completion's are four lists, and a token
that is no whole character is told as `bytes:\\xe2\\x82`, as OpenAI does it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from deshi.serve.engines.generation import Candidate, Step, TokenLogprob


@dataclass(frozen=True, kw_only=True)
class Answer:
    """All steps of one request."""

    text: str
    logprobs: tuple[TokenLogprob, ...]
    prompt_logprobs: tuple[TokenLogprob, ...]
    finish_reason: str | None
    prompt_tokens: int
    completion_tokens: int
    queue_ms: float

    @classmethod
    def of(cls, prompt_tokens: int, steps: Sequence[Step]) -> Answer:
        """The steps, one after the other."""
        return cls(
            text="".join(step.text for step in steps),
            logprobs=tuple(entry for step in steps for entry in step.logprobs),
            prompt_logprobs=steps[0].prompt_logprobs,
            finish_reason=steps[-1].finish_reason,
            prompt_tokens=prompt_tokens,
            completion_tokens=steps[-1].completion_tokens,
            queue_ms=steps[0].queue_ms,
        )


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    """What a request took."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


class _Reply:
    whole_object: str
    chunk_object: str

    def __init__(self, number: str, model: str) -> None:
        self._head = {"id": number, "created": int(time.time()), "model": model}

    def closing(self, used: dict[str, int]) -> dict[str, Any]:
        """The chunk after the last one, where usage was asked for."""
        return self._chunk([], True) | {"usage": used}

    def _chunk(self, choices: list[dict[str, Any]], counted: bool) -> dict[str, Any]:
        chunk = {**self._head, "object": self.chunk_object, "choices": choices}
        return {**chunk, "usage": None} if counted else chunk

    def _whole(self, answers: Sequence[Answer], choices: list[dict[str, Any]]) -> dict[str, Any]:
        used = usage(
            sum(answer.prompt_tokens for answer in answers), sum(answer.completion_tokens for answer in answers)
        )
        return {**self._head, "object": self.whole_object, "choices": choices, "usage": used}


class ChatReply(_Reply):
    """What /v1/chat/completions says."""

    whole_object = "chat.completion"
    chunk_object = "chat.completion.chunk"

    def whole(self, answers: Sequence[Answer]) -> dict[str, Any]:
        """The body of a reply that is no stream."""
        (answer,) = answers
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": answer.text, "refusal": None},
            "logprobs": _chat_logprobs(answer.logprobs),
            "finish_reason": answer.finish_reason,
        }
        return self._whole(answers, [choice])

    def opening(self, counted: bool) -> dict[str, Any] | None:
        """The chunk before the first token."""
        delta = {"role": "assistant", "content": "", "refusal": None}
        return self._chunk([{"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}], counted)

    def chunk(self, step: Step, counted: bool) -> dict[str, Any]:
        """One step."""
        choice = {
            "index": 0,
            "delta": {"content": step.text} if step.text else {},
            "logprobs": _chat_logprobs(step.logprobs),
            "finish_reason": step.finish_reason,
        }
        return self._chunk([choice], counted)


class CompletionReply(_Reply):
    """What /v1/completions says."""

    whole_object = chunk_object = "text_completion"

    def __init__(self, number: str, model: str, echoed: Sequence[str]) -> None:
        super().__init__(number, model)
        self._echoed = echoed
        self._offset = 0

    def whole(self, answers: Sequence[Answer]) -> dict[str, Any]:
        """The body of a reply that is no stream."""
        choices = [
            {
                "index": index,
                "text": echo + answer.text,
                "logprobs": _lists(
                    [*answer.prompt_logprobs, *answer.logprobs], 0 if answer.prompt_logprobs else len(echo)
                ),
                "finish_reason": answer.finish_reason,
            }
            for index, (answer, echo) in enumerate(zip(answers, self._echoed, strict=True))
        ]
        return self._whole(answers, choices)

    def opening(self, counted: bool) -> dict[str, Any] | None:
        """The prompt, where it was asked for."""
        if not (echo := self._echoed[0]):
            return None
        self._offset = len(echo)
        return self._chunk([{"index": 0, "text": echo, "logprobs": None, "finish_reason": None}], counted)

    def chunk(self, step: Step, counted: bool) -> dict[str, Any]:
        """One step."""
        entries = [*step.prompt_logprobs, *step.logprobs]
        logprobs = _lists(entries, 0 if step.prompt_logprobs else self._offset)
        self._offset += len(step.text)
        choice = {"index": 0, "text": step.text, "logprobs": logprobs, "finish_reason": step.finish_reason}
        return self._chunk([choice], counted)


def _chat_logprobs(entries: Sequence[TokenLogprob]) -> dict[str, Any] | None:
    if not entries:
        return None
    content = [_entry(entry) | {"top_logprobs": [_entry(other) for other in entry.top]} for entry in entries]
    return {"content": content, "refusal": None}


def _entry(candidate: Candidate) -> dict[str, Any]:
    token = candidate.token.decode(errors="replace")
    return {"token": token, "logprob": candidate.logprob, "bytes": list(candidate.token)}


def _lists(entries: Sequence[TokenLogprob], start: int) -> dict[str, Any] | None:
    """A completion's logprobs; `start` is where in the text the first token begins."""
    if not entries:
        return None
    offsets, seen = [], b""
    for entry in entries:
        offsets.append(start + len(seen.decode(errors="ignore")))
        seen += entry.token
    return {
        "tokens": [_name(entry) for entry in entries],
        "token_logprobs": [entry.logprob for entry in entries],
        # OpenAI's adds the token itself where it is not among the likeliest.
        "top_logprobs": [
            {_name(other): other.logprob for other in reversed((*entry.top, entry))} if entry.top else None
            for entry in entries
        ],
        "text_offset": offsets,
    }


def _name(candidate: Candidate) -> str:
    try:
        return candidate.token.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in candidate.token)
