"""What is said over the wire to a language model: the bodies of OpenAI's two endpoints, and each way in which one is
refused.

What OpenAI's API knows and this server does not do is refused by name, not left out silently; so is a parameter that
nobody knows.
"""

from __future__ import annotations

import json
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from deshi.serve.contract import Refused, refuse_other_model
from deshi.serve.engines.generation import GenerationParams

MAX_PROMPTS = 64
MAX_STOPS = 4
MAX_TOP_LOGPROBS = 20

# Served only with the values that ask for nothing.
NOT_SERVED: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "suffix": ("",),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "reasoning_effort": ("none",),
}


class StreamOptions(BaseModel):
    """How a stream ends."""

    include_usage: bool = Field(False, description="one more chunk, with the usage and without choices")
    include_obfuscation: bool | None = Field(None, description="ignored")


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    model: str | None = Field(None, description="optional; the name that GET /v1/models tells")
    max_tokens: int | None = Field(None, ge=0)
    temperature: float | None = Field(None, ge=0, le=2, description="1 if left out; 0 takes the likeliest token")
    top_p: float | None = Field(None, gt=0, le=1)
    stop: str | list[str] | None = Field(None, description=f"at most {MAX_STOPS} texts; none of them is in the answer")
    seed: int | None = Field(None, description="the same seed and request give the same answer")
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    ignore_eos: bool = Field(False, description="write on to max_tokens (not OpenAI's: for measurements)")
    # Said by clients, of no effect here.
    user: Any = None
    metadata: Any = None
    store: Any = None
    service_tier: Any = None
    safety_identifier: Any = None
    prompt_cache_key: Any = None
    parallel_tool_calls: Any = None
    # See NOT_SERVED.
    n: Any = None
    best_of: Any = None
    tools: Any = None
    tool_choice: Any = None
    functions: Any = None
    function_call: Any = None
    response_format: Any = None
    frequency_penalty: Any = None
    presence_penalty: Any = None
    logit_bias: Any = None
    suffix: Any = None
    modalities: Any = None
    audio: Any = None
    prediction: Any = None
    reasoning_effort: Any = None


class TextPart(BaseModel):
    """A piece of a message."""

    type: Literal["text"]
    text: str


class Message(BaseModel):
    """One turn of the conversation; what the client library adds to an answer is ignored."""

    model_config = ConfigDict(extra="ignore", strict=True)

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]
    name: str | None = None


class ChatRequest(_Request):
    """Body of POST /v1/chat/completions."""

    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1, description="as max_tokens, which OpenAI has deprecated")
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=MAX_TOP_LOGPROBS)


class CompletionRequest(_Request):
    """Body of POST /v1/completions."""

    prompt: str | list[str] | list[int] | list[list[int]] = Field(
        description=f"a text, or token ids, or 1 to {MAX_PROMPTS} of either"
    )
    logprobs: int | None = Field(None, ge=0, le=MAX_TOP_LOGPROBS)
    echo: bool | None = Field(None, description="the prompt first; with logprobs, the prompt's too if the engine can")


Body = TypeVar("Body", ChatRequest, CompletionRequest)


def read_request(kind: type[Body], body: bytes, name: str) -> Body:
    """The request, or the sentence that says what is wrong with it."""
    try:
        content = json.loads(body)
        json.dumps(content, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise Refused(400, "the body holds half a surrogate pair; send valid Unicode", "not_unicode") from None
    except (ValueError, RecursionError):
        raise Refused(400, "the body is no JSON; GET /docs shows an example", "not_json") from None
    try:
        request = kind.model_validate(content)
    except ValidationError as error:
        raise _sentence(error) from None
    if request.model is not None:
        refuse_other_model(request.model, name)
    for parameter, neutral in NOT_SERVED.items():
        value = getattr(request, parameter)
        if value is not None and value not in neutral:
            message = f"{parameter} = {_short(value)} is not served here; leave {parameter} out"
            raise Refused(400, message, "unsupported_parameter", parameter)
    stops = _stops(request)
    if len(stops) > MAX_STOPS or "" in stops:
        message = f"stop holds {len(stops)} texts; send 1 to {MAX_STOPS}, none of them empty"
        raise Refused(400, message, "invalid_stop", "stop")
    if request.stream_options is not None and not request.stream:
        raise Refused(400, "stream_options is for streams; send stream = true too", "invalid_value", "stream_options")
    return request


def parameters(request: ChatRequest | CompletionRequest, *, prompt_tokens: int, context: int) -> GenerationParams:
    """What the engine is asked, with a number of tokens that fits the context."""
    if prompt_tokens == 0:
        raise Refused(400, "the prompt is empty; send at least one token", "empty_prompt", "prompt")
    chat = isinstance(request, ChatRequest)
    asked = request.max_tokens
    if isinstance(request, ChatRequest):
        if request.top_logprobs is not None and not request.logprobs:
            raise Refused(400, "top_logprobs needs logprobs = true", "invalid_value", "top_logprobs")
        asked = request.max_completion_tokens or request.max_tokens
        logprobs = (request.top_logprobs or 0) if request.logprobs else None
    else:
        logprobs = request.logprobs
    room = context - prompt_tokens
    if room < 1 or (asked is not None and asked > room):
        wanted = "" if asked is None else f" and max_tokens asks for {asked:,}"
        raise Refused(
            400,
            f"the context holds {context:,} tokens, the prompt and the answer together: the prompt has "
            f"{prompt_tokens:,}{wanted}; shorten the prompt or ask for fewer tokens",
            "context_length_exceeded",
            "messages" if chat else "prompt",
        )
    if asked == 0 and (chat or not getattr(request, "echo", False)):
        raise Refused(400, "max_tokens = 0 leaves nothing to answer; send at least 1", "invalid_value", "max_tokens")
    default = room if chat else min(16, room)  # OpenAI's
    return GenerationParams(
        max_tokens=default if asked is None else asked,
        temperature=1.0 if request.temperature is None else request.temperature,
        top_p=1.0 if request.top_p is None else request.top_p,
        stop=_stops(request),
        seed=request.seed,
        logprobs=logprobs,
        prompt_logprobs=logprobs is not None and bool(getattr(request, "echo", False)),
        ignore_eos=request.ignore_eos,
    )


def plain(messages: list[Message]) -> list[dict[str, str]]:
    """Messages as a chat template wants them: the parts of a content are one text."""
    return [
        {
            "role": message.role,
            "content": message.content
            if isinstance(message.content, str)
            else "".join(part.text for part in message.content),
        }
        for message in messages
    ]


def prompts_of(request: CompletionRequest, vocabulary: int) -> list[str] | list[list[int]]:
    """The prompts, each a text or token ids below `vocabulary`."""
    prompt = request.prompt
    if isinstance(prompt, str):
        return [prompt]
    if not prompt:
        raise Refused(400, "prompt is an empty list; send a text", "empty_prompt", "prompt")
    prompts: Any = [prompt] if isinstance(prompt[0], int) else prompt
    if len(prompts) > MAX_PROMPTS:
        message = f"prompt holds {len(prompts):,} prompts, the limit is {MAX_PROMPTS}; split it into several requests"
        raise Refused(400, message, "too_many_prompts", "prompt")
    for ids in prompts:
        if not isinstance(ids, str) and (wrong := [one for one in ids if not 0 <= one < vocabulary]):
            message = f"prompt holds the token id {wrong[0]}; ids are 0 to {vocabulary - 1:,}"
            raise Refused(400, message, "unknown_token", "prompt")
    if len(prompts) > 1 and request.stream:
        raise Refused(400, "several prompts cannot be streamed; send one, or stream = false", "invalid_value", "stream")
    return list(prompts)


def _stops(request: _Request) -> tuple[str, ...]:
    return (request.stop,) if isinstance(request.stop, str) else tuple(request.stop or ())


def _sentence(error: ValidationError) -> Refused:
    """pydantic's first finding, as one sentence that names the value."""
    first = error.errors(include_url=False)[0]
    place = [part for part in first["loc"] if isinstance(part, int) or part.isidentifier()]
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).lstrip(".")
    # A union tells of each of its members; the member is no place in the body.
    path = path.removesuffix(".str")
    param = str(place[0]) if place else None
    if not place:
        return Refused(400, f"the body is {_short(first['input'])}; send an object", "body_type")
    if first["type"] == "missing":
        return Refused(400, f"{path} is missing; GET /docs shows an example", "missing", param)
    if first["type"] == "extra_forbidden":
        return Refused(400, f"{path} is not known here; leave it out", "unknown_parameter", param)
    rule = first["msg"].replace("Input should", "it should")
    return Refused(400, f"{path} is {_short(first['input'])}; {rule}", "invalid_value", param)


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else text[:77] + "..."
