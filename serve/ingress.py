"""The HTTP face of a release, the same for Ray Serve and for one process.

`POST /classify` has the shape of vLLM's classification endpoint, `GET /v1/models` OpenAI's, errors are
OpenAI's `{"error": {message, type, param, code}}` with a sentence that says what to change. A reply carries
`Server-Timing: queue;dur=<ms>, engine;dur=<ms>`, so that whoever measures can tell the engine from the wire.
The bodies are in `contract.py`. The handler reads them itself: a text is about a millisecond of engine, the frame
around it must cost less.
"""

from __future__ import annotations

import html
import uuid
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, cast

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response
from pydantic import Field
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deshi.serve.batching import Answer, Full
from deshi.serve.contract import (
    ClassifyRequest,
    ClassifyResponse,
    ErrorResponse,
    Refused,
    read_body,
    refuse_other_model,
    texts_of,
)
from deshi.serve.kpi import Frozen
from deshi.serve.serving import Serving


class Info(Frozen):
    """What the service says about itself."""

    created: int = Field(description="Unix seconds")
    target: str
    builds: tuple[str, ...]
    digest: str = Field("", description="of the release's files; empty for a candidate under measurement")
    decision: str = ""


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
        texts = texts_of(await read_body(request, "send fewer texts a request"), serving.name)
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
        refuse_other_model(name, serving.name)
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
