"""The mapping file of `deshi serve --speaks`: the endpoint speaks the JSON of the service that it replaces.

    path: /api/v2/categorize                                  # of the old service
    request: '{"input": {{ body.question.text | tojson }}}'   # its body -> ours
    # our reply -> its
    response: '{"category": {{ reply.data[0].label | tojson }}, "score": {{ reply.data[0].probs | max }}}'
    # optional; OpenAI's shape if left out
    error: '{"code": {{ status }}, "message": {{ message | tojson }}}'

A request to `path` becomes one to `POST /classify`, or of a language model to `POST /v1/chat/completions`, as a whole
answer; the own routes stay. `response` may read `body` too, for what the old service echoes; `error` reads `status`,
`message` and `code`.

The templates are those of `json_template.py`: whatever they put out is written as JSON, with or without `tojson`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import yaml
from fastapi import FastAPI, Request
from fastapi.responses import Response
from pydantic import Field, ValidationError, ValidationInfo, field_validator
from starlette.types import Message

from deshi.serve.batching import Full
from deshi.serve.contract import MAX_ROWS, Refused, read_body
from deshi.serve.json_template import NotThere, check, names_in, parsed, rendered, unknown
from deshi.serve.kpi import Frozen
from deshi.serve.one_sentence import one_sentence
from deshi.serve.serving import Serving

log = logging.getLogger(__name__)

READS = {"request": {"body"}, "response": {"reply", "body"}, "error": {"status", "message", "code"}}
# Of either task, and Ray Serve's own under "/-"; a test holds the list to the applications' routes.
OWN_ROUTES = ("/classify", "/v1", "/healthz", "/docs", "/openapi.json", "/-")


class WireMapping(Frozen):
    """A mapping file."""

    path: str = Field(
        pattern=r"^(/|(/[A-Za-z0-9._~:@-]+)+/?)$", description="of the old service; its requests are answered there"
    )
    request: str = Field(description="template: the old service's body as `body` -> a body of ours")
    response: str = Field(description="template: our reply as `reply`, and `body` -> a reply of the old service")
    error: str | None = Field(None, description="template: `status`, `message`, `code` -> an error of the old service")

    @field_validator("path")
    @classmethod
    def _is_free(cls, path: str) -> str:
        for own in OWN_ROUTES:
            if path == own or path.startswith(f"{own}/"):
                raise ValueError(f"{path} would hide the endpoint's own {own}; the old service's path must be another")
        return path

    @field_validator("request", "response", "error")
    @classmethod
    def _compiles(cls, source: str | None, info: ValidationInfo) -> str | None:
        if source is not None:
            check(source, READS[str(info.field_name)])
        return source

    @classmethod
    def read(cls, path: Path, serving: Serving) -> WireMapping:
        """Reads a mapping file and tries it on a reply such as this service gives.

        Raises:
            ValueError: in one sentence, for anything that the file may not say.
        """
        try:
            raw = yaml.safe_load(path.read_text(encoding="utf-8"))
        except OSError:
            raise ValueError(f"mapping {path} cannot be read; give the path of a mapping.yaml") from None
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ValueError(f"mapping {path} is not YAML ({' '.join(str(error).split())}); mend that line") from None
        if not isinstance(raw, dict):
            raise ValueError(f"mapping {path} holds no keys; it takes {', '.join(cls.model_fields)}")
        try:
            mapping = cls.model_validate(raw)
        except ValidationError as error:
            told = one_sentence(error, keys=f"it takes {', '.join(cls.model_fields)}")
            raise ValueError(f"mapping {path}: {told}") from None
        mapping._try_out(path, serving)
        return mapping

    def _try_out(self, path: Path, serving: Serving) -> None:
        """A key that our replies do not have would fail every request."""
        reply = {"reply": specimen(serving), "body": unknown()}
        for name, values in (("response", reply), ("error", {"status": 400, "message": "a", "code": "b"})):
            if (source := getattr(self, name)) is None:
                continue
            try:
                rendered(source, **values)
            except ValueError as error:
                if "body" in names_in(source) and not isinstance(error, NotThere):
                    continue  # it may fit once the body is known
                raise ValueError(f"mapping {path}: {name} does not fit this service's replies: {error}") from None

    def speak(self, app: FastAPI, own: Callable[[Request], Awaitable[Response]]) -> None:
        """Adds the old service's route to an application.

        Args:
            app: the ingress.
            own: the route's handler that answers in our own shape.
        """

        @app.post(self.path, response_model=None)
        async def spoken(request: Request) -> Response:
            """The same in the JSON of the service that was here before."""
            try:
                return await self._answered(request, own)
            except Refused as error:
                return self._told(error, error.status, error.message, error.code)
            except Full as error:
                later = {"retry-after": str(error.retry_after_s)}
                return self._told(error, 503, str(error), "queue_full", later)
            except Exception as error:
                reply = self._told(error, 500, "the server failed on this request; its log says why", "internal")
                log.exception("POST %s failed", self.path)
                return reply

    async def _answered(self, request: Request, own: Callable[[Request], Awaitable[Response]]) -> Response:
        try:
            body = parsed(await read_body(request, "send a smaller one"))
        except (ValueError, RecursionError):
            raise Refused(400, f"the body is no JSON; send what {self.path} takes", "not_json") from None
        ours = await own(_with_body(request, self.asked(body)))
        try:
            text = rendered(self.response, reply=json.loads(bytes(ours.body)), body=body)
        except ValueError as error:
            log.error("the mapping of %s cannot tell a reply: %s", self.path, error)
            message = "the reply cannot be told in the old service's shape; the server's log says why"
            raise Refused(500, message, "mapping_response") from None
        timing = {name: value for name, value in ours.headers.items() if name == "server-timing"}
        return _json_reply(text, ours.status_code, timing)

    def asked(self, body: Any) -> bytes:
        """Our body for one of the old service.

        Raises:
            Refused: if the template cannot read it.
        """
        try:
            text = rendered(self.request, body=body)
        except ValueError as error:
            message = f"the body is not what {self.path} takes: {error}"
            raise Refused(400, message, "mapping_request") from None
        ours = json.loads(text)
        if isinstance(ours, dict) and ours.get("stream"):
            raise Refused(400, f"{self.path} answers whole; leave stream out", "mapping_stream", "stream")
        return text.encode("utf-8", errors="surrogatepass")  # half a pair is refused like any other

    def _told(
        self, error: Exception, status: int, message: str, code: str, headers: dict[str, str] | None = None
    ) -> Response:
        if self.error is None:
            raise error  # the application's own handlers tell it
        text = rendered(self.error, status=status, message=message, code=code)
        return _json_reply(text, status, headers)


def specimen(serving: Serving) -> dict[str, Any]:
    """A reply as the own route gives it, to try a template on."""
    if serving.task == "generate":
        message = {"role": "assistant", "content": "a", "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
        counted = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        about = {"id": "chatcmpl-0", "object": "chat.completion", "created": 0, "model": serving.name}
        return about | {"choices": [choice], "usage": counted}
    row = {
        "label": serving.labels[0],
        "probs": [1 / len(serving.labels)] * len(serving.labels),
        "num_classes": len(serving.labels),
    }
    counted = {"prompt_tokens": 1, "total_tokens": 1, "completion_tokens": 0, "truncated_inputs": 0}
    about = {"id": "classify-0", "object": "list", "created": 0, "model": serving.name}
    return about | {"data": [{"index": index, **row} for index in range(MAX_ROWS)], "usage": counted}


def _with_body(request: Request, body: bytes) -> Request:
    """The same request with another body; that the client hangs up is still seen."""
    given = False

    async def receive() -> Message:
        nonlocal given
        if given:
            return await request.receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return Request(request.scope, receive)


def _json_reply(text: str, status: int, headers: dict[str, str] | None) -> Response:
    # Half a surrogate pair that a template echoes has no bytes.
    return Response(text.encode("utf-8", errors="replace"), status, headers, media_type="application/json")
