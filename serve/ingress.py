"""The HTTP face of a classifier's release, the same for Ray Serve and for one process.

`POST /classify` has the shape of vLLM's classification endpoint; the rest is in `endpoint.py`. A reply carries
`Server-Timing: queue;dur=<ms>, engine;dur=<ms>`, so that whoever measures can tell the engine from the wire.
The bodies are in `contract.py`. The handler reads them itself: a text is about a millisecond of engine, the frame
around it must cost less.
"""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

from deshi.serve.batching import Answer
from deshi.serve.contract import ClassifyRequest, ClassifyResponse, read_body, texts_of
from deshi.serve.endpoint import Info, bare, errors, timing
from deshi.serve.serving import Serving

if TYPE_CHECKING:
    from deshi.serve.mapping import WireMapping


def ingress(
    answer: Callable[[Sequence[str]], Awaitable[Answer]],
    serving: Serving,
    info: Info,
    mapping: WireMapping | None = None,
) -> FastAPI:
    """The application.

    Args:
        answer: texts -> probabilities; may raise `Full`. `BoundedQueue.submit`, or anything like it.
        serving: what the model is called and which labels it knows.
        info: what else is told about it.
        mapping: of an old service, whose JSON is spoken too.
    """
    app = bare(
        serving,
        info,
        about=f"Labels: {', '.join(serving.labels)}",
        example='{"input": ["..."]} /classify',
        max_model_len=serving.max_length,
        labels=list(serving.labels),
    )
    body = {
        "required": True,
        "content": {"application/json": {"schema": ClassifyRequest.model_json_schema()}},
    }

    @app.post(
        "/classify",
        response_model=ClassifyResponse,
        responses=errors("the body is not what it should be"),
        openapi_extra={"requestBody": body},
    )
    async def classify(request: Request) -> Response:
        """The class of one text or of several."""
        texts = texts_of(await read_body(request, "send fewer texts a request"), serving.name)
        got = await answer(texts)
        number = request.headers.get("x-request-id") or uuid.uuid4().hex
        headers = timing(got.queue_ms, got.engine_ms)
        return JSONResponse(_reply(got, serving, info.created, number), headers=headers)

    if mapping is not None:
        mapping.speak(app, classify)
    return app


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
