"""What is said over the wire: the bodies of `POST /classify`, and each way in which one is refused."""

from __future__ import annotations

import json

from fastapi import Request
from pydantic import BaseModel, Field
from starlette.requests import ClientDisconnect

MAX_BODY_BYTES = 1 << 20
DISCARDED_BYTES = 16 * MAX_BODY_BYTES
MAX_ROWS = 256


class ClassifyRequest(BaseModel):
    """Body of POST /classify."""

    input: str | list[str] = Field(description=f"a text, or 1 to {MAX_ROWS} texts")
    model: str | None = Field(None, description="optional; the name that GET /v1/models tells")


class Classified(BaseModel):
    """One text's answer."""

    index: int
    label: str
    probs: list[float] = Field(description="by label, in the order of GET /v1/models")
    num_classes: int


class Usage(BaseModel):
    """What the request took."""

    prompt_tokens: int
    total_tokens: int
    completion_tokens: int = 0
    truncated_inputs: int = Field(description="texts longer than max_model_len tokens; only their beginning was read")


class ClassifyResponse(BaseModel):
    """Reply of POST /classify."""

    id: str
    object: str = "list"
    created: int
    model: str
    data: list[Classified]
    usage: Usage


class ErrorBody(BaseModel):
    """What went wrong and what to change."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorResponse(BaseModel):
    """OpenAI's error shape."""

    error: ErrorBody


class Refused(Exception):
    """A request that cannot be answered; becomes an error reply."""

    def __init__(self, status: int, message: str, code: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param


async def read_body(request: Request, fix: str) -> bytes:
    """The body, no larger than the limit; `fix` says what to send instead of a larger one.

    Raises:
        Refused: of a larger one, once it has been read and thrown away: a server that closes the connection while the
            client still sends resets it, and the client never reads why.
    """
    chunks, size = [], 0
    try:
        async for chunk in request.stream():
            size += len(chunk)
            if size > DISCARDED_BYTES:  # a client that does not stop is not waited for
                break
            if size <= MAX_BODY_BYTES:
                chunks.append(chunk)
    except ClientDisconnect:
        raise hung_up() from None
    if size > MAX_BODY_BYTES:
        raise Refused(413, f"the body is larger than {MAX_BODY_BYTES:,} bytes; {fix}", "body_too_large")
    return b"".join(chunks)


def hung_up() -> Refused:
    """Nobody waits for an answer any more."""
    return Refused(499, "the client has hung up", "client_left")


def texts_of(body: bytes, name: str) -> list[str]:
    """The texts of a request, or the sentence that says what is wrong with it."""
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        raise Refused(
            400, 'the body is no JSON; send {"input": "text"} or {"input": ["text", ...]}', "not_json"
        ) from None
    if not isinstance(content, dict) or "input" not in content:
        raise Refused(400, 'the body has no "input"; send {"input": "text"}', "missing_input", "input")
    if content.get("model") is not None:
        refuse_other_model(content["model"], name)
    texts = content["input"]
    if isinstance(texts, str):
        texts = [texts]
    if not isinstance(texts, list):
        raise Refused(400, f"input is {_named(texts)}; send a text or a list of texts", "input_type", "input")
    if not texts:
        raise Refused(400, "input is an empty list; send at least one text", "empty_input", "input")
    if len(texts) > MAX_ROWS:
        message = f"input holds {len(texts):,} texts, the limit is {MAX_ROWS}; split it into several requests"
        raise Refused(400, message, "too_many_inputs", "input")
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise Refused(400, f"input[{index}] is {_named(text)}; send a text", "input_type", "input")
        if not text.strip():
            raise Refused(400, f"input[{index}] is an empty text; leave it out", "empty_input", "input")
        if not _is_text(text):
            raise Refused(
                400, f"input[{index}] holds half a surrogate pair; send valid Unicode", "not_unicode", "input"
            )
    return texts


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _named(value: object) -> str:
    kinds = {dict: "an object", list: "a list", bool: "a boolean", int: "a number", float: "a number"}
    return kinds.get(type(value), "null")


def refuse_other_model(asked: object, name: str) -> None:
    if asked != name:
        message = f"model {str(asked)[:80]!r} is not served here; send {name!r} or leave model out"
        raise Refused(404, message, "model_not_found", "model")
