"""llama.cpp on the CPU: runs `model.gguf` through the wheel `xllamacpp`.

llama.cpp's own server loop batches continuously over its slots. It is called in this process, one waiting thread a
slot: every token is a callback, and a callback that returns true cancels the request. No token crosses a socket twice.
The HTTP server that the wheel starts beside it is locked with a key that nobody knows.

llama.cpp tells a token's log-probability only where the token completes a text that can be sent: those before it, half
characters and beginnings of a stop sequence, have none.

Prompts are token ids: the tokenizer and the chat template are the model folder's, not llama.cpp's reading of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import time
from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from deshi.serve.engines.generation import Candidate, GenerationKind, GenerationParams, Slots, Step, TokenLogprob

MODEL_FILE = "model.gguf"
SPIN_COUNT = "1000"
BATCH_TOKENS = 512  # of a prompt between two looks at who has left; llama.cpp's own physical batch


class LlamaCppEngine:
    """A model in llama.cpp's server loop."""

    prompt_logprobs = False

    def __init__(self, server: Any, *, slots: int, context_length: int, max_queued: int) -> None:
        self.context_length = context_length
        self._server = server
        self._slots = Slots(slots, max_queued)
        self._threads = ThreadPoolExecutor(max_workers=slots, thread_name_prefix="slot")
        self._closing = False

    async def submit(self, prompt_ids: Sequence[int], params: GenerationParams) -> AsyncGenerator[Step, None]:
        """See `GenerationEngine`."""
        arrived = time.perf_counter()
        taken = await self._slots.take()
        loop = asyncio.get_running_loop()
        chunks: asyncio.Queue[str | BaseException] = asyncio.Queue()
        left = False

        def told(chunk: str) -> bool:
            loop.call_soon_threadsafe(chunks.put_nowait, chunk)
            return left or self._closing

        def ended(future: Any) -> None:
            # The slot is free when llama.cpp's is, not when the listener has gone.
            with contextlib.suppress(RuntimeError):  # the loop has closed
                loop.call_soon_threadsafe(self._slots.give, taken)
                loop.call_soon_threadsafe(chunks.put_nowait, future.exception() or _ENDED)

        body = json.dumps(_request(prompt_ids, params))
        future = self._threads.submit(self._server.handle_completions, body, told)
        future.add_done_callback(ended)
        queue_ms = (taken - arrived) * 1e3
        try:
            while True:
                chunk = await chunks.get()
                if isinstance(chunk, BaseException):
                    raise chunk
                step = _step(json.loads(chunk), params, queue_ms)
                if step is None:
                    continue
                queue_ms = 0.0
                yield step
                if step.finish_reason is not None:
                    return
        finally:
            left = True

    def close(self) -> None:
        """See `GenerationEngine`."""
        self._closing = True
        self._threads.shutdown(wait=True, cancel_futures=True)
        self._server = None


_ENDED = RuntimeError("llama.cpp ended the request without a reason")


def _request(prompt_ids: Sequence[int], params: GenerationParams) -> dict[str, Any]:
    """The body of llama.cpp's completion request: only the samplers that were asked for."""
    return {
        "prompt": list(prompt_ids),
        "stream": True,
        "n_predict": params.max_tokens,
        "temperature": params.temperature,
        "top_p": params.top_p,
        # The likeliest token needs no softmax over the vocabulary, on the one thread that all slots wait for.
        "samplers": ["temperature", "top_p"] if params.temperature > 0 else ["top_k"],
        "top_k": 1,
        "stop": list(params.stop),
        "ignore_eos": params.ignore_eos,
        # 2^32 - 1 means a random seed.
        "seed": 0xFFFFFFFF if params.seed is None else params.seed % 0xFFFFFFFF,
        # A kept prefix was computed in a batch of another shape, so its last bits differ: enough to tip a draw.
        "cache_prompt": params.seed is None,
        "n_probs": 0 if params.logprobs is None else max(1, params.logprobs),
        # A word after each batch of the prompt, so that who leaves early is noticed early.
        "return_progress": True,
    }


def _step(chunk: dict[str, Any], params: GenerationParams, queue_ms: float) -> Step | None:
    """A chunk of the stream as a step; None where it only tells of the prompt's progress."""
    if "error" in chunk:
        raise RuntimeError(f"llama.cpp: {chunk['error'].get('message', chunk['error'])}")
    choice = chunk["choices"][0] if chunk.get("choices") else {}
    if not choice.get("text") and not choice.get("finish_reason") and not choice.get("logprobs"):
        return None
    logprobs: tuple[TokenLogprob, ...] = ()
    if params.logprobs is not None and choice.get("logprobs"):
        logprobs = tuple(_logprob(entry, params.logprobs) for entry in choice["logprobs"]["content"])
    return Step(
        text=choice["text"],
        logprobs=logprobs,
        finish_reason=choice["finish_reason"],
        completion_tokens=chunk.get("usage", {}).get("completion_tokens", 0),
        queue_ms=queue_ms,
    )


def _logprob(entry: dict[str, Any], top: int) -> TokenLogprob:
    likeliest = tuple(
        Candidate(token=bytes(other["bytes"]), logprob=other["logprob"]) for other in entry["top_logprobs"][:top]
    )
    return TokenLogprob(token=bytes(entry["bytes"]), logprob=entry["logprob"], top=likeliest)


def parameters(model: Path, *, threads: int, slots: int, context_length: int) -> Any:
    """llama.cpp's settings: each slot has a whole context to itself, nothing is kept outside of it."""
    import xllamacpp

    settings = xllamacpp.CommonParams()
    settings.model.path = str(model)
    settings.n_parallel = slots
    settings.n_ctx = slots * context_length
    settings.n_batch = settings.n_ubatch = BATCH_TOKENS
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = threads
    settings.cache_ram_mib = 0  # by default it would keep up to 8 GiB of past prompts
    settings.fit_params = False
    settings.verbosity = -1
    settings.n_threads_http = 1
    settings.ui = False
    settings.endpoint_slots = False
    settings.api_keys = [secrets.token_hex(32)]
    return settings


def load(folder: Path, *, threads: int, slots: int, context_length: int, max_queued: int) -> LlamaCppEngine:
    """Opens `folder`/model.gguf.

    Raises:
        ValueError: if llama.cpp cannot read it.
    """
    # Threads wait for each other hundreds of times a token, by spinning: beside busy processes they spin whole time
    # slices away. So they spin shortly and then sleep, which was as fast on quiet cores.
    os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)
    import xllamacpp

    model = folder / MODEL_FILE
    if not model.is_file():
        raise ValueError(f"{model} does not exist; export the build again")
    settings = parameters(model, threads=threads, slots=slots, context_length=context_length)
    try:
        server = xllamacpp.Server(settings)
    except RuntimeError as error:
        raise ValueError(f"llama.cpp cannot load {model} ({error}); export the build again") from None
    return LlamaCppEngine(server, slots=slots, context_length=context_length, max_queued=max_queued)


def missing() -> str | None:
    """See `GenerationKind`."""
    return None if find_spec("xllamacpp") else "xllamacpp is not installed; pip install xllamacpp"


KIND = GenerationKind(name="llamacpp", schemes=("f16", "q8_0", "q4_0"), load=load, missing=missing)
