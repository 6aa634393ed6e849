"""What llama.cpp makes of a GGUF file: its token ids for a text, and its log-probabilities of a row of tokens.

Read with `runpy.run_path`, as plain modules beside tests are. The server is started as `serve/engines/llamacpp.py`
starts it; log-probabilities are asked of it token by token, since it tells them of the next token only.
"""

from __future__ import annotations

import contextlib
import json
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from deshi.jobs.data.gguf_header import read_header
from deshi.serve.engines.llamacpp import parameters

KEY = "a test's own"


@contextlib.contextmanager
def server(gguf_file: Path, *, context_length: int = 512) -> Iterator[Any]:
    """llama.cpp with the file, one slot, until the block ends."""
    import xllamacpp

    settings = parameters(gguf_file, threads=1, slots=1, context_length=context_length)
    settings.api_keys = [KEY]
    running = xllamacpp.Server(settings)
    try:
        yield running
    finally:
        del running


def token_ids(running: Any, text: str, *, special: bool = True) -> list[int]:
    """llama.cpp's ids for the text, special tokens in it parsed, with what it adds at the ends if `special`."""
    body = json.dumps({"content": text, "add_special": special, "parse_special": True}).encode()
    request = urllib.request.Request(
        f"{running.listening_address}/tokenize",
        data=body,
        headers={"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)["tokens"]


def llamacpp_log_probs(gguf_file: Path, ids: Sequence[int], *, context_length: int = 512) -> list[float]:
    """ln p(ids[i] | ids[:i]) for i >= 1, llama.cpp's own distribution before any sampler.

    A bias makes the next token the one that is sampled, and llama.cpp tells how likely it was without the bias. Of a
    token that ends the answer or is no whole character it tells nothing: there a letter is sampled instead, and the
    token is looked up in the list of all tokens.
    """
    vocabulary = read_header(gguf_file).metadata["tokenizer.ggml.tokens"]
    letter = vocabulary.index("a")
    with server(gguf_file, context_length=context_length) as running:
        said = []
        for at in range(1, len(ids)):
            told = _next(running, ids[:at], ids[at], listed=1)
            told = told if ids[at] in told else _next(running, ids[:at], letter, listed=len(vocabulary))
            said.append(told[ids[at]])
        return said


def _next(running: Any, prompt: Sequence[int], sampled: int, *, listed: int) -> dict[int, float]:
    """Log-probability by token id of the sampled token and the `listed` likeliest ones."""
    asked = {
        "prompt": list(prompt),
        "n_predict": 1,
        "n_probs": listed,
        "post_sampling_probs": False,
        "logit_bias": [[sampled, 1e6]],
        "samplers": ["top_k"],
        "top_k": 1,
        "cache_prompt": True,
        "stream": False,
    }
    logprobs = running.handle_completions(asked)["choices"][0].get("logprobs")
    entries = logprobs["content"] if logprobs else []
    return {other["id"]: other["logprob"] for entry in entries for other in (entry, *entry["top_logprobs"])}
