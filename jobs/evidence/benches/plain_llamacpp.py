"""The control of the chat benchmark: what a person writes in ten minutes with llama.cpp and the wheel `xllamacpp`.

Its defaults, the same file, threads, slots and context as the endpoint; nothing of ours. In a process of its own it
starts llama.cpp's HTTP server and prints its address. To each line that comes in, `{"prompt": ids, "n_predict": n}`, it
answers with what its binding (`handle_completions`) took for the same as a stream. It is compared with, never served.

    python -m deshi.jobs.evidence.benches.plain_llamacpp model.gguf --threads 2 --slots 8 --context 512
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Plain:
    """A running control."""

    url: str
    process: subprocess.Popen[str]

    def ask(self, prompt: Sequence[int], tokens: int) -> tuple[float, float]:
        """Asks the binding for so many tokens.

        Returns:
            ms to the first text, and ms a token after the first.
        """
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps({"prompt": list(prompt), "n_predict": tokens}) + "\n")
        self.process.stdin.flush()
        first_ms, per_token_ms = json.loads(self.process.stdout.readline())
        return first_ms, per_token_ms


@contextlib.contextmanager
def plain(model: Path, *, threads: int, slots: int, context_length: int) -> Iterator[Plain]:
    """Starts the control on a GGUF file, and ends it.

    Raises:
        RuntimeError: if it does not start.
    """
    command = [sys.executable, "-m", "deshi.jobs.evidence.benches.plain_llamacpp", str(model)]
    flags = [f"--threads={threads}", f"--slots={slots}", f"--context={context_length}"]
    # A session of its own, as the endpoint has: Linux shares a busy machine out by session.
    process = subprocess.Popen(
        [*command, *flags], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        url = process.stdout.readline().strip()
        if not url.startswith("http://"):
            raise RuntimeError(f"plain llama.cpp did not start on {model}; its own message stands above")
        yield Plain(url=url, process=process)
    finally:
        process.stdin.close()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def timed(server: Any, asked: dict[str, Any]) -> tuple[float, float]:
    """One streamed completion through the binding: ms to the first text, and ms a token after the first."""
    arrivals: list[float] = []
    last = ""

    def told(chunk: str) -> bool:
        nonlocal last
        last = chunk
        # The finishing chunk holds no text; a look at the string is cheaper than reading it.
        if '"text":""' not in chunk:
            arrivals.append(time.perf_counter())
        return False

    body = asked | {"stream": True, "temperature": 0, "ignore_eos": True}
    began = time.perf_counter()
    server.handle_completions(json.dumps(body), told)
    tokens = json.loads(last)["usage"]["completion_tokens"]
    return (arrivals[0] - began) * 1e3, (arrivals[-1] - arrivals[0]) * 1e3 / (tokens - 1)


def main(arguments: Sequence[str] | None = None) -> None:
    """Serves until its standard input ends."""
    import xllamacpp

    parser = argparse.ArgumentParser(prog="python -m deshi.jobs.evidence.benches.plain_llamacpp", description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--slots", type=int, required=True)
    parser.add_argument("--context", type=int, required=True, help="tokens, of each slot")
    a = parser.parse_args(arguments)
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what llama.cpp prints is no answer
    settings = xllamacpp.CommonParams()
    settings.model.path = a.model
    settings.n_parallel, settings.n_ctx = a.slots, a.slots * a.context
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = a.threads
    settings.verbosity = -1
    server = xllamacpp.Server(settings)
    print(server.listening_address, file=out)
    for line in sys.stdin:
        print(json.dumps(timed(server, json.loads(line))), file=out)


if __name__ == "__main__":
    main()
