"""The HTTP face of a release, the same for Ray Serve and for one process.

`POST /classify` has the shape of vLLM's classification endpoint, `GET /v1/models` OpenAI's, errors are
OpenAI's `{"error": {message, type, param, code}}` with a sentence that says what to change. A reply carries
`Server-Timing: queue;dur=<ms>, engine;dur=<ms>`, so that whoever measures can tell the engine from the wire.
The handler reads the body itself: a text is about a millisecond of engine, the frame around it must cost less.
"""

from __future__ import annotations

import html
import json
import uuid
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, cast

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deshi.serve.batching import Answer, Full
from deshi.serve.kpi import Frozen
from deshi.serve.serving import Serving

MAX_BODY_BYTES = 1 << 20
MAX_ROWS = 256


class Info(Frozen):
    """What the service says about itself."""

    created: int = Field(description="Unix seconds")
    target: str
    builds: tuple[str, ...]
    digest: str = Field("", description="of the release's files; empty for a candidate under measurement")
    decision: str = ""


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


def ingress(answer: Callable[[Sequence[str]], Awaitable[Answer]], serving: Serving, info: Info) -> FastAPI:
    """The application.

    Args:
        answer: texts -> probabilities; may raise `Full`. `BoundedQueue.submit`, or anything like it.
        serving: what the model is called and which labels it knows.
        info: what else is told about it.
    """
    app = FastAPI(title=f"Deshi: {serving.name}", version=info.digest[:8] or "0", docs_url=None, redoc_url=None)
    model = {
        "id": serving.name,
        "object": "model",
        "created": info.created,
        "owned_by": "deshi",
        "max_model_len": serving.max_length,
        "labels": list(serving.labels),
        **info.model_dump(mode="json", exclude={"created"}),
    }
    errors: dict[int | str, dict[str, Any]] = {
        status: {"model": ErrorResponse, "description": text}
        for status, text in (
            (400, "the body is not what it should be"),
            (404, "no such model"),
            (413, "the body is too large"),
            (503, "the queue is full; see Retry-After"),
        )
    }
    body = {
        "required": True,
        "content": {"application/json": {"schema": ClassifyRequest.model_json_schema()}},
    }

    @app.post("/classify", response_model=ClassifyResponse, responses=errors, openapi_extra={"requestBody": body})
    async def classify(request: Request) -> Response:
        """The class of one text or of several."""
        texts = _texts(await _body(request), serving.name)
        got = await answer(texts)
        number = request.headers.get("x-request-id") or uuid.uuid4().hex
        timing = f"queue;dur={got.queue_ms:.3f}, engine;dur={got.engine_ms:.3f}"
        return JSONResponse(_reply(got, serving, info.created, number), headers={"server-timing": timing})

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        """What is served here: one model."""
        return {"object": "list", "data": [model]}

    @app.get("/v1/models/{name}", responses={404: {"model": ErrorResponse}})
    async def one_model(name: str) -> dict[str, Any]:
        """The model of that name."""
        _known(name, serving.name)
        return model

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """200 once the model is loaded."""
        return {"status": "ok", "model": serving.name, "digest": info.digest, "decision": info.decision}

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(_page(app.openapi(), serving))

    app.add_exception_handler(Refused, _refused)
    app.add_exception_handler(Full, _full)
    app.add_exception_handler(HTTPException, _no_route)
    app.add_exception_handler(Exception, _broken)
    return app


class WithRequestId:
    """Every reply tells an x-request-id, the client's or a new one, as Ray Serve does it by itself."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Adds the header to the request and to its reply."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        number = next((value for name, value in scope["headers"] if name == b"x-request-id"), None)
        if number is None:
            number = uuid.uuid4().hex.encode()
            scope["headers"] = [*scope["headers"], (b"x-request-id", number)]

        async def tell(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"x-request-id", number)]
            await send(message)

        await self._app(scope, receive, tell)


def curl(host: str, port: int) -> str:
    """What to type."""
    return (
        f"curl -s http://{host}:{port}/classify -H 'content-type: application/json' "
        """-d '{"input": "Who wrote Hamlet?"}'"""
    )


def refuse_open_host(host: str) -> None:
    """No key is asked for yet, so nobody but this machine may ask.

    Raises:
        ValueError: if `host` is not the loopback interface.
    """
    if host not in ("127.0.0.1", "::1", "localhost"):
        raise ValueError(f"host {host!r} would open the endpoint to others without a key; use 127.0.0.1")


async def _body(request: Request) -> bytes:
    """The body, read no further than the limit."""
    length = request.headers.get("content-length", "")
    chunks, size = [], int(length) if length.isdecimal() else 0
    if size <= MAX_BODY_BYTES:
        size = 0
        async for chunk in request.stream():
            size += len(chunk)
            if size > MAX_BODY_BYTES:
                break
            chunks.append(chunk)
    if size > MAX_BODY_BYTES:
        raise Refused(
            413,
            f"the body is larger than {MAX_BODY_BYTES:,} bytes; send fewer texts a request",
            "body_too_large",
        )
    return b"".join(chunks)


def _texts(body: bytes, name: str) -> list[str]:
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
        _known(content["model"], name)
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


def _known(asked: object, name: str) -> None:
    if asked != name:
        message = f"model {str(asked)[:80]!r} is not served here; send {name!r} or leave model out"
        raise Refused(404, message, "model_not_found", "model")


def _reply(got: Answer, serving: Serving, created: int, number: str) -> dict[str, Any]:
    classes = len(serving.labels)
    tokens = int(got.rows.tokens.sum())
    return {
        "id": f"classify-{number}",
        "object": "list",
        "created": created,
        "model": serving.name,
        "data": [
            {"index": index, "label": serving.labels[best], "probs": probs, "num_classes": classes}
            for index, (best, probs) in enumerate(
                zip(got.rows.probabilities.argmax(1).tolist(), got.rows.probabilities.tolist(), strict=True)
            )
        ],
        "usage": {
            "prompt_tokens": tokens,
            "total_tokens": tokens,
            "completion_tokens": 0,
            "truncated_inputs": int(got.rows.truncated.sum()),
        },
    }


def _error(status: int, message: str, kind: str, code: str | None, param: str | None, **headers: str) -> JSONResponse:
    error = {"message": message, "type": kind, "param": param, "code": code}
    return JSONResponse({"error": error}, status, headers=headers)


async def _refused(request: Request, error: Exception) -> Response:
    error = cast(Refused, error)
    return _error(error.status, error.message, "invalid_request_error", error.code, error.param)


async def _full(request: Request, error: Exception) -> Response:
    error = cast(Full, error)
    return _error(503, str(error), "overloaded_error", "queue_full", None, **{"retry-after": str(error.retry_after_s)})


async def _no_route(request: Request, error: Exception) -> Response:
    error = cast(HTTPException, error)
    message = f"{request.method} {request.url.path}: {error.detail}; GET /docs lists what there is"
    return _error(error.status_code, message, "invalid_request_error", "no_route", None, **(error.headers or {}))


async def _broken(request: Request, error: Exception) -> Response:
    return _error(500, "the server failed on this request; its log says why", "server_error", "internal", None)


def _page(schema: dict[str, Any], serving: Serving) -> str:
    """A page that needs nothing from anywhere: FastAPI's own loads its scripts from a CDN."""
    rows = "".join(
        f"<tr><td>{method.upper()}</td><td><code>{html.escape(path)}</code></td><td>{html.escape(route['description'])}</td></tr>"
        for path, methods in schema["paths"].items()
        for method, route in methods.items()
    )
    return (
        "<!doctype html><html lang=en><meta charset=utf-8>"
        f"<title>{html.escape(serving.name)}</title>"
        "<style>body{font:16px sans-serif;max-width:50em;margin:2em auto;padding:0 1em}"
        "td{padding:.2em 1em .2em 0}"
        "pre{background:#eee;padding:1em;overflow:auto}</style>"
        f"<h1>{html.escape(serving.name)}</h1><p>Labels: {html.escape(', '.join(serving.labels))}</p>"
        f"<table>{rows}</table><p>The whole contract: <a href=openapi.json>openapi.json</a></p>"
        "<pre>curl -s -H 'content-type: application/json' -d '{&quot;input&quot;: [&quot;...&quot;]}' "
        "<span id=u></span>/classify</pre><script>u.textContent=location.origin</script></html>"
    )
