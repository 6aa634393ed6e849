"""The HTTP face of a language model, the same for Ray Serve and for one process: OpenAI's API.

`POST /v1/chat/completions` and `/v1/completions`, whole or as a stream of server-sent events, `GET /v1/models` and
`/healthz`. Errors are OpenAI's `{"error": {message, type, param, code}}` with a sentence that says what to change.
A client that hangs up ends its generation, whether it waits for a stream, for a whole answer or in the queue.

A reply carries `Server-Timing: queue;dur=<ms>, engine;dur=<ms>`; a stream's head is sent with its first token, so its
`engine` is the time to that.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncGenerator, Sequence
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from pydantic.json_schema import models_json_schema

from deshi.serve.chat_template import Prompts
from deshi.serve.contract import Refused, read_body
from deshi.serve.endpoint import Info, bare, errors, timing
from deshi.serve.engines.generation import GenerationEngine, GenerationParams, Step
from deshi.serve.event_stream import EventStream, event, while_connected
from deshi.serve.openai_contract import (
    ChatRequest,
    CompletionRequest,
    parameters,
    plain,
    prompts_of,
    read_request,
)
from deshi.serve.openai_reply import Answer, ChatReply, CompletionReply, usage
from deshi.serve.serving import Serving

if TYPE_CHECKING:
    from deshi.serve.mapping import WireMapping

Reply = ChatReply | CompletionReply
SHORTER = "send a shorter prompt"


def chat_ingress(
    engine: GenerationEngine, prompts: Prompts, serving: Serving, info: Info, mapping: WireMapping | None = None
) -> FastAPI:
    """The application.

    Args:
        engine: what writes.
        prompts: the tokenizer and chat template.
        serving: what the model is called.
        info: what else is told about it.
        mapping: of an old service, whose JSON is spoken too, in whole answers to chats.
    """
    app = bare(
        serving,
        info,
        about=f"OpenAI's API; the context holds {serving.max_length:,} tokens, the prompt and the answer together.",
        example='{"messages": [{"role": "user", "content": "Hello!"}], "stream": true} /v1/chat/completions',
        max_model_len=engine.context_length,
        chat_template=prompts.chats,
        prompt_logprobs=engine.prompt_logprobs,
    )
    refusals = errors("the body is not what it should be, or the prompt is over the context")

    @app.post("/v1/chat/completions", responses=refusals, openapi_extra=_body(ChatRequest))
    async def chat_completions(request: Request) -> Response:
        """The next turn of a conversation."""
        asked = read_request(ChatRequest, await read_body(request, SHORTER), serving.name)
        if not prompts.chats:
            message = "this model has no chat template; use POST /v1/completions"
            raise Refused(400, message, "no_chat_template", "messages")
        try:
            ids = prompts.of_chat(plain(asked.messages))
        except ValueError as error:
            raise Refused(400, str(error), "chat_template", "messages") from None
        params = parameters(asked, prompt_tokens=len(ids), context=engine.context_length)
        reply = ChatReply(_number("chatcmpl", request), serving.name)
        return await _answered(request, engine, [(ids, params)], reply, asked)

    @app.post("/v1/completions", responses=refusals, openapi_extra=_body(CompletionRequest))
    async def completions(request: Request) -> Response:
        """The text that follows a text; of several, each one's."""
        asked = read_request(CompletionRequest, await read_body(request, SHORTER), serving.name)
        wanted: list[tuple[list[int], GenerationParams]] = []
        for prompt in prompts_of(asked, prompts.vocabulary):
            ids = prompts.of_text(prompt) if isinstance(prompt, str) else prompt
            wanted.append((ids, parameters(asked, prompt_tokens=len(ids), context=engine.context_length)))
        if wanted[0][1].prompt_logprobs and not engine.prompt_logprobs:
            message = "this engine tells no logprobs of the prompt; leave echo or logprobs out"
            raise Refused(400, message, "no_prompt_logprobs", "echo")
        echoed = [prompts.text(ids) for ids, _ in wanted] if asked.echo else [""] * len(wanted)
        reply = CompletionReply(_number("cmpl", request), serving.name, echoed)
        return await _answered(request, engine, wanted, reply, asked)

    if mapping is not None:
        mapping.speak(app, chat_completions)
    _tell_schemas(app)
    return app


async def _answered(
    request: Request,
    engine: GenerationEngine,
    wanted: Sequence[tuple[list[int], GenerationParams]],
    reply: Reply,
    asked: ChatRequest | CompletionRequest,
) -> Response:
    if not asked.stream:
        began = time.perf_counter()
        answers = await while_connected(request, _gathered(engine, wanted))
        queue_ms = max(answer.queue_ms for answer in answers)
        engine_ms = (time.perf_counter() - began) * 1e3 - queue_ms
        return JSONResponse(reply.whole(answers), headers=timing(queue_ms, engine_ms))
    ids, params = wanted[0]
    began = time.perf_counter()
    steps = engine.submit(ids, params)
    first = await while_connected(request, anext(steps))  # what is refused has no stream yet to be told in
    engine_ms = (time.perf_counter() - began) * 1e3 - first.queue_ms
    counted = bool(asked.stream_options and asked.stream_options.include_usage)
    events = _events(first, steps, reply, len(ids), counted)
    return EventStream(events, timing(first.queue_ms, engine_ms))


async def _gathered(engine: GenerationEngine, wanted: Sequence[tuple[list[int], GenerationParams]]) -> list[Answer]:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_collected(engine, ids, params)) for ids, params in wanted]
    return [task.result() for task in tasks]


async def _collected(engine: GenerationEngine, ids: list[int], params: GenerationParams) -> Answer:
    async with contextlib.aclosing(engine.submit(ids, params)) as steps:
        return Answer.of(len(ids), [step async for step in steps])


async def _events(
    first: Step, steps: AsyncGenerator[Step, None], reply: Reply, prompt_tokens: int, counted: bool
) -> AsyncGenerator[bytes, None]:
    """The body of a stream, event by event."""
    async with contextlib.aclosing(steps):
        yield event(reply.opening(counted)) + event(reply.chunk(first, counted))
        step = first
        try:
            while step.finish_reason is None:
                step = await anext(steps)
                yield event(reply.chunk(step, counted))
        except Exception:
            message = "the server failed on this request; its log says why"
            error = {"message": message, "type": "server_error", "param": None, "code": "internal"}
            yield event({"error": error})
            raise
    if counted:
        yield event(reply.closing(usage(prompt_tokens, step.completion_tokens)))
    yield b"data: [DONE]\n\n"


def _number(kind: str, request: Request) -> str:
    return f"{kind}-{request.headers.get('x-request-id') or uuid.uuid4().hex}"


def _body(kind: type[ChatRequest | CompletionRequest]) -> dict[str, Any]:
    schema = {"$ref": f"#/components/schemas/{kind.__name__}"}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def _tell_schemas(app: FastAPI) -> None:
    """FastAPI does not see the bodies, which the handlers read themselves: they are told here."""
    kinds = [(ChatRequest, "validation"), (CompletionRequest, "validation")]
    _, told = models_json_schema(kinds, ref_template="#/components/schemas/{model}")  # type: ignore[arg-type]
    made = app.openapi

    def openapi() -> dict[str, Any]:
        schema = made()
        schema["components"]["schemas"].update(told["$defs"])
        return schema

    app.openapi = openapi  # type: ignore[method-assign]
