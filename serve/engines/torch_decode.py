"""Batched decode of a transformers causal language model over a static cache with slots, in a thread of its own.

One thread runs the loop. Between two steps requests leave and join; a step is

    prefill   of the newest request, at most `PREFILL_TOKENS` of its prompt, beside
    decode    one token of every running request, one batch

so a long prompt delays the others by one piece of it at a time. What is drawn depends on the request alone: each has
its own generator, seeded by itself, and its own row of the batch.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from functools import partial
from typing import Any

from deshi.serve.engines.generation import Candidate, FinishReason, GenerationParams, Slots, Step, TokenLogprob
from deshi.serve.engines.text_stream import TextStream, token_bytes

PREFILL_TOKENS = 256


class _Request:
    """A request in the loop: `length` tokens of it are in the cache, `ids` are those that are to be read next."""

    def __init__(
        self,
        prompt_ids: Sequence[int],
        params: GenerationParams,
        text: TextStream,
        tell: Callable[[Step | BaseException], None],
        leave: Callable[[], None],
    ) -> None:
        import torch

        self.ids, self.params, self.text, self.tell, self.leave = list(prompt_ids), params, text, tell, leave
        self.length = 0
        self.made = 0
        self.prompt: list[TokenLogprob] = []  # that are to be told yet
        self.left = False
        self.generator = torch.Generator()
        if params.seed is None:
            self.generator.seed()
        else:
            self.generator.manual_seed(params.seed % 2**63)

    @property
    def reading(self) -> bool:
        """Whether the prompt is not read yet, but for its last token."""
        return len(self.ids) > 1


class TorchGenerateEngine:
    """A transformers causal language model, its cache, and the thread that steps it."""

    prompt_logprobs = True

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        threads: int,
        slots: int,
        context_length: int,
        max_queued: int,
        eos: frozenset[int],
        cache: Callable[..., Any] | None = None,
        step: Callable[[Any, Any], Callable[[Any, Any], Any]] | None = None,
    ) -> None:
        """Allocates the cache and starts the loop.

        `cache` makes the cache, of the arguments of `SlotCache`, which it is by default. `step(model, cache)`, such as
        `DecodeGraphs`, makes what gives the logits [n, 1, vocabulary] of ids and positions [n, 1] in the rows [0, n).
        """
        from deshi.serve.engines.slot_cache import SlotCache

        self.context_length = context_length
        self._model, self._tokenizer, self._eos = model, tokenizer, eos
        self._slots = Slots(slots, max_queued)
        self._cache = (cache or SlotCache)(
            model.config, slots=slots, context_length=context_length, dtype=model.dtype, device=model.device
        )
        self._step = step(model, self._cache) if step is not None else partial(self._forward, 0)
        self._joining: queue.SimpleQueue[_Request | None] = queue.SimpleQueue()
        self._running: list[_Request] = []
        self._loop = threading.Thread(target=self._run, args=(threads,), name="engine", daemon=True)
        self._loop.start()

    async def submit(self, prompt_ids: Sequence[int], params: GenerationParams) -> AsyncGenerator[Step, None]:
        """See `GenerationEngine`."""
        arrived = time.perf_counter()
        taken = await self._slots.take()
        loop = asyncio.get_running_loop()
        steps: asyncio.Queue[Step | BaseException] = asyncio.Queue()

        def later(call: Callable[..., object], argument: object) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has closed
                loop.call_soon_threadsafe(call, argument)

        request = _Request(
            prompt_ids,
            params,
            TextStream(self._tokenizer, prompt_ids, params.stop),
            lambda step: later(steps.put_nowait, step),
            lambda: later(self._slots.give, taken),
        )
        if params.prompt_logprobs:
            request.prompt = [TokenLogprob(token=token_bytes(self._tokenizer, prompt_ids[0]), logprob=None)]
        self._joining.put(request)
        try:
            first = True
            while True:
                step = await steps.get()
                if isinstance(step, BaseException):
                    raise step
                if first:
                    step = Step(**{**vars(step), "queue_ms": (taken - arrived) * 1e3})
                    first = False
                yield step
                if step.finish_reason is not None:
                    return
        finally:
            request.left = True

    def close(self) -> None:
        """See `GenerationEngine`."""
        self._joining.put(None)
        self._loop.join()

    def _run(self, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        with torch.inference_mode():
            while self._join():
                self._drop(lambda request: request.left)
                try:
                    if self._running and self._running[-1].reading:
                        self._prefill(len(self._running) - 1)
                    if ready := sum(not request.reading for request in self._running):
                        self._decode(ready)
                except Exception as error:
                    for request in self._running:
                        request.tell(RuntimeError(f"the engine failed: {error}"))
                        request.left = True

    def _join(self) -> bool:
        """Lets one request in if no other's prompt is still being read; waits where there is nothing to do."""
        if self._running and (self._running[-1].reading or self._joining.empty()):
            return True
        request = self._joining.get()
        if request is not None:
            self._running.append(request)
        return request is not None

    def _drop(self, gone: Callable[[_Request], bool]) -> None:
        """Takes requests out and closes the holes: what is being read stays the last row."""
        for row in reversed(range(len(self._running))):
            request = self._running[row]
            if not gone(request):
                continue
            last = len(self._running) - 1
            for source in (last - self._running[last].reading, last):
                if source > row:
                    self._cache.move(source, row, self._running[source].length)
                    self._running[row] = self._running[source]
                    row = source
            self._running.pop()
            request.leave()

    def _prefill(self, row: int) -> None:
        """Reads a piece of the prompt; its last token is left to the decode step, which all requests share."""
        import torch

        request = self._running[row]
        piece = request.ids[: min(PREFILL_TOKENS, len(request.ids) - 1)]
        positions = torch.arange(len(piece))[None] + request.length
        logits = self._forward(row, torch.tensor([piece]), positions, 0 if request.params.prompt_logprobs else 1)
        if request.params.prompt_logprobs:
            following = request.ids[1 : len(piece) + 1]
            told = torch.log_softmax(logits[0].float().cpu(), -1)
            top = request.params.logprobs or 0
            request.prompt += [self._logprob(told[at], token, top) for at, token in enumerate(following)]
        request.ids = request.ids[len(piece) :]
        request.length += len(piece)

    def _decode(self, rows: int) -> None:
        import torch

        running = self._running[:rows]
        ids = torch.tensor([request.ids for request in running])
        logits = self._step(ids, torch.tensor([[request.length] for request in running]))[:, -1].float().cpu()
        done = set()
        for at, (request, row, is_nan) in enumerate(zip(running, logits, logits.isnan().any(-1).tolist(), strict=True)):
            request.length += 1
            if is_nan:
                # What lies in its row of the cache would reach whoever gets the row next, through a mask of zeros.
                self._cache.clear(at)
                request.tell(RuntimeError("the model's answer is not a number (NaN); its weights or its type overflow"))
                done.add(id(request))
            elif self._answer(request, row):
                done.add(id(request))
        self._drop(lambda request: id(request) in done)

    def _forward(self, first: int, ids: Any, positions: Any, keep: int = 0) -> Any:
        """Logits [rows, tokens, vocabulary]: of the last `keep` tokens, or of all."""
        device = self._model.device
        positions = positions.to(device)
        mask = self._cache.point(first, positions)
        return self._model(
            input_ids=ids.to(device),
            attention_mask=mask,
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=keep,
        ).logits

    def _answer(self, request: _Request, logits: Any) -> bool:
        """Draws the next token and tells of it; True if it was the last."""
        import torch

        params = request.params
        token = draw(logits, params, request.generator) if params.max_tokens else None
        logprobs: tuple[TokenLogprob, ...] = ()
        reason: FinishReason | None = None
        text = ""
        if token is None or (token in self._eos and not params.ignore_eos):
            reason = "length" if token is None else "stop"
        else:
            text = request.text.push(token)
            if params.logprobs is not None:
                logprobs = (self._logprob(torch.log_softmax(logits, -1), token, params.logprobs),)
            reason = "stop" if request.text.stopped else "length" if request.made + 1 >= params.max_tokens else None
        request.made += token is not None
        if reason is not None:
            text += request.text.rest()
        request.tell(
            Step(
                text=text,
                logprobs=logprobs,
                finish_reason=reason,
                completion_tokens=request.made,
                prompt_logprobs=tuple(request.prompt),
            )
        )
        request.prompt = []
        request.ids = [] if token is None else [token]
        return reason is not None

    def _logprob(self, told: Any, token: int, top: int) -> TokenLogprob:
        best = told.topk(top)
        likeliest = tuple(
            Candidate(token=token_bytes(self._tokenizer, other), logprob=value)
            for other, value in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        )
        return TokenLogprob(token=token_bytes(self._tokenizer, token), logprob=float(told[token]), top=likeliest)


def draw(logits: Any, params: GenerationParams, generator: Any) -> int:
    """One token from logits [vocabulary]: softmax(logits / temperature), cut to the likeliest that make up top_p."""
    import torch

    if params.temperature == 0:
        return int(logits.argmax())
    probabilities = torch.softmax(logits / params.temperature, -1)
    if params.top_p < 1:
        ordered, order = probabilities.sort(descending=True)
        ordered[ordered.cumsum(-1) - ordered >= params.top_p] = 0  # the one that crosses top_p stays
        return int(order[torch.multinomial(ordered, 1, generator=generator)])
    return int(torch.multinomial(probabilities, 1, generator=generator))
