"""What every endpoint has, whatever it answers: models, health, a page of its routes, request ids, errors.

`GET /v1/models` and the errors have OpenAI's shape: `{"error": {message, type, param, code}}` with a sentence that says
what to change.
"""

from __future__ import annotations

import html
import uuid
from typing import Any, cast

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response
from pydantic import Field
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deshi.serve.batching import Full
from deshi.serve.contract import ErrorResponse, Refused, refuse_other_model
from deshi.serve.kpi import Frozen
from deshi.serve.serving import Serving


class Info(Frozen):
    """What the service says about itself."""

    created: int = Field(description="Unix seconds")
    target: str
    builds: tuple[str, ...]
    digest: str = Field("", description="of the release's files; empty for a candidate under measurement")
    decision: str = ""


def bare(serving: Serving, info: Info, *, about: str, example: str, **facts: Any) -> FastAPI:
    """An application without the route that answers.

    Args:
        serving: what the model is called.
        info: what else is told about it.
        about: a sentence for the page of routes.
        example: the body and, after a space, the route of a request that can be typed.
        facts: more of what GET /v1/models tells.
    """
    app = FastAPI(title=f"Deshi: {serving.name}", version=info.digest[:8] or "0", docs_url=None, redoc_url=None)
    model = {
        "id": serving.name,
        "object": "model",
        "created": info.created,
        "owned_by": "deshi",
        **facts,
        **info.model_dump(mode="json", exclude={"created"}),
    }

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
        return HTMLResponse(_page(app.openapi(), serving.name, about, example))

    app.add_exception_handler(Refused, _refused)
    app.add_exception_handler(Full, _full)
    app.add_exception_handler(HTTPException, _no_route)
    app.add_exception_handler(Exception, _broken)
    return app


def errors(bad_body: str) -> dict[int | str, dict[str, Any]]:
    """For the OpenAPI page: the errors of a route that answers; `bad_body` says what a 400 means there."""
    described = {
        400: bad_body,
        404: "no such model",
        413: "the body is too large",
        503: "the queue is full; see Retry-After",
    }
    return {status: {"model": ErrorResponse, "description": words} for status, words in described.items()}


def timing(queue_ms: float, engine_ms: float) -> dict[str, str]:
    """The header that parts a reply's time."""
    return {"server-timing": f"queue;dur={queue_ms:.3f}, engine;dur={engine_ms:.3f}"}


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


def _page(schema: dict[str, Any], name: str, about: str, example: str) -> str:
    """A page that needs nothing from anywhere: FastAPI's own loads its scripts from a CDN."""
    rows = "".join(
        f"<tr><td>{method.upper()}</td><td><code>{html.escape(path)}</code></td>"
        f"<td>{html.escape(route['description'])}</td></tr>"
        for path, methods in schema["paths"].items()
        for method, route in methods.items()
    )
    body, _, route = example.rpartition(" ")
    return (
        "<!doctype html><html lang=en><meta charset=utf-8>"
        f"<title>{html.escape(name)}</title>"
        "<style>body{font:16px sans-serif;max-width:50em;margin:2em auto;padding:0 1em}"
        "td{padding:.2em 1em .2em 0}"
        "pre{background:#eee;padding:1em;overflow:auto}</style>"
        f"<h1>{html.escape(name)}</h1><p>{html.escape(about)}</p>"
        f"<table>{rows}</table><p>The whole contract: <a href=openapi.json>openapi.json</a></p>"
        f"<pre>curl -s -H 'content-type: application/json' -d '{html.escape(body)}' "
        f"<span id=u></span>{route}</pre><script>u.textContent=location.origin</script></html>"
    )
