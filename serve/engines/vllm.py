"""vLLM on a CUDA device, where it is installed: the peer that our own kernels are timed beside, and may lose to.

It runs the model folder itself (bf16), or a folder of integers in compressed-tensors' layout, the same files that the
engine `triton` runs. Token ids go in and text deltas come out; batching and the paged cache are vLLM's own (Kwon et al.
2023, arXiv 2309.06180). As a service of its own, on several devices, it is `vllm_app.py`.

vLLM has no wheel for this house's development machines: what follows is written against its interface and was not run.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from uuid import uuid4

from deshi.serve.engines.engine import engine_of
from deshi.serve.engines.generation import Candidate, GenerationKind, GenerationParams, Slots, Step, TokenLogprob
from deshi.serve.engines.text_stream import token_bytes
from deshi.serve.engines.triton_model import SCHEMES
from deshi.serve.serving import MODEL_FOLDER

WHOLE = "bf16"  # the scheme of the model folder itself


class VllmEngine:
    """A model in vLLM's own engine process."""

    prompt_logprobs = False

    def __init__(self, engine: Any, tokenizer: Any, *, slots: int, context_length: int, max_queued: int) -> None:
        self.context_length = context_length
        self._engine, self._tokenizer = engine, tokenizer
        self._slots = Slots(slots, max_queued)

    async def submit(self, prompt_ids: Sequence[int], params: GenerationParams) -> AsyncGenerator[Step, None]:
        """See `GenerationEngine`. vLLM aborts a request whose iterator is closed."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        arrived = time.perf_counter()
        taken = await self._slots.take()
        queue_ms, made = (taken - arrived) * 1e3, 0
        outputs = self._engine.generate(
            {"prompt_token_ids": list(prompt_ids)},
            SamplingParams(**sampling(params), output_kind=RequestOutputKind.DELTA),
            uuid4().hex,
        )
        try:
            async for output in outputs:
                part = output.outputs[0]
                made += len(part.token_ids)
                told = () if params.logprobs is None or not part.logprobs else part.logprobs
                yield Step(
                    text=part.text,
                    logprobs=tuple(
                        logprob_of(self._tokenizer, token, among, params.logprobs or 0)
                        for token, among in zip(part.token_ids, told, strict=False)
                    ),
                    finish_reason=part.finish_reason,
                    completion_tokens=made,
                    queue_ms=queue_ms,
                )
                queue_ms = 0.0
                if part.finish_reason is not None:
                    return
        finally:
            await outputs.aclose()
            self._slots.give(taken)

    def close(self) -> None:
        """See `GenerationEngine`."""
        self._engine.shutdown()


def sampling(params: GenerationParams) -> dict[str, Any]:
    """What vLLM's SamplingParams are made of."""
    return {
        "max_tokens": params.max_tokens,
        "temperature": params.temperature,
        "top_p": params.top_p,
        "stop": list(params.stop),
        "seed": params.seed,
        "ignore_eos": params.ignore_eos,
        "logprobs": params.logprobs,
    }


def logprob_of(tokenizer: Any, token: int, among: Mapping[int, Any], top: int) -> TokenLogprob:
    """vLLM tells id -> Logprob of the token that came and of the likeliest ones; best first here."""
    best = sorted(among.items(), key=lambda entry: -entry[1].logprob)[:top]
    likeliest = tuple(Candidate(token=token_bytes(tokenizer, other), logprob=found.logprob) for other, found in best)
    return TokenLogprob(token=token_bytes(tokenizer, token), logprob=among[token].logprob, top=likeliest)


def load(folder: Path, *, threads: int, slots: int, context_length: int, max_queued: int) -> VllmEngine:
    """Opens `engines/vllm-<scheme>/`, or the model folder beside the builds for bf16."""
    from tokenizers import Tokenizer
    from vllm import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    path = folder.parent.parent / MODEL_FOLDER
    whole = folder.name.removeprefix(f"{engine_of(folder.name)}-") == WHOLE
    settings = AsyncEngineArgs(
        model=str(path if whole else folder),
        tokenizer=str(path),
        dtype="bfloat16",
        max_model_len=context_length,
        max_num_seqs=slots,
        # Else it takes nine tenths of the device, and the engines that it is timed beside find no room.
        kv_cache_memory_bytes=cache_bytes(path, slots * context_length),
        load_format="safetensors",
        trust_remote_code=False,
        disable_log_stats=True,
    )
    return VllmEngine(
        AsyncLLM.from_engine_args(settings),
        Tokenizer.from_file(str(path / "tokenizer.json")),
        slots=slots,
        context_length=context_length,
        max_queued=max_queued,
    )


def cache_bytes(model: Path, tokens: int) -> int:
    """What keys and values of twice so many tokens take in 16 bits: vLLM gives them out in blocks."""
    from transformers import AutoConfig

    from deshi.serve.engines.slot_cache import heads_of

    config = AutoConfig.from_pretrained(model, trust_remote_code=False, local_files_only=True)
    heads, size = heads_of(config)
    return 2 * 2 * config.num_hidden_layers * heads * size * 2 * tokens


def missing() -> str | None:
    """See `GenerationKind`."""
    if find_spec("vllm") is None:
        return "vllm is not installed; pip install vllm"
    import torch

    return None if torch.cuda.is_available() else "no CUDA device is here"


KIND = GenerationKind(name="vllm", schemes=(WHOLE, *SCHEMES), load=load, missing=missing)
