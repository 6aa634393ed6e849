"""The load generator for a model that writes: streamed answers, in an open loop at a rate or a closed loop of clients.

As in load.py a request of the open loop is sent when it is due, whether or not earlier ones have been answered, and all
its times count from the moment it was DUE. A request is the body of a chat completion or of a completion, without
`stream`; what is measured of its answer stands in chat_stream.py.

    python -m deshi.jobs.evidence.felt.chat_load open --url URL --requests FILE --rps 1 --seconds 20   # prints JSON
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from deshi.jobs.evidence.felt.chat_stream import ChatSample, Client, Exchange, sample_of


async def ask_once(base: str, request: dict[str, Any]) -> ChatSample:
    """One request alone."""
    client, began = Client(base, [request]), time.perf_counter()
    return sample_of(0.0, 0.0, await client.ask(client.requests[0]), began)


async def open_loop(
    base: str, requests: Sequence[dict[str, Any]], *, rps: float, seconds: float, seed: int
) -> list[ChatSample]:
    """Sends `rps` requests a second (Poisson) of those given, for so many seconds; waits for the last answer."""
    client = Client(base, requests)
    draw = random.Random(seed)  # noqa: S311 - a workload, not a secret
    due, schedule = 0.0, []
    while (due := due + draw.expovariate(rps)) < seconds:
        schedule.append((due, draw.choice(client.requests)))
    began = time.perf_counter() + 0.05

    async def one(scheduled: float, request: bytes) -> tuple[float, float, Exchange]:
        sent = time.perf_counter() - began
        return scheduled, sent, await client.ask(request)

    tasks = []
    for scheduled, request in schedule:
        if (left := scheduled - (time.perf_counter() - began)) > 0:
            await asyncio.sleep(left)
        tasks.append(asyncio.create_task(one(scheduled, request)))
    return [sample_of(*done, began) for done in await asyncio.gather(*tasks)]


async def closed_loop(
    base: str, requests: Sequence[dict[str, Any]], *, clients: int, seconds: float, seed: int
) -> list[ChatSample]:
    """So many clients, each of which sends its next request when it has its answer, until `seconds` have passed.

    The last answers are waited for, so that there are always `clients` at work before; see `tokens_per_second`.
    """
    client = Client(base, requests)
    began = time.perf_counter()
    done: list[tuple[float, float, Exchange]] = []

    async def one(number: int) -> None:
        draw = random.Random(f"{seed}-{number}")  # noqa: S311
        while (sent := time.perf_counter() - began) < seconds:
            exchange = await client.ask(draw.choice(client.requests))
            done.append((sent, sent, exchange))
            if b" 200 " not in exchange.received[:16]:
                await asyncio.sleep(0.05)  # a refusing server is not to be hammered

    await asyncio.gather(*(one(number) for number in range(clients)))
    return [sample_of(*each, began) for each in done]


def tokens_per_second(samples: Sequence[ChatSample], begin: float, end: float) -> list[float]:
    """Tokens that arrived in each of the whole seconds between `begin` and `end` (seconds since the run began).

    An answer's tokens are spread over its events evenly.
    """
    counts = [0.0] * max(1, int(end - begin))
    for sample in samples:
        each = sample.tokens / max(1, len(sample.arrivals))
        for arrival in sample.arrivals:
            if begin <= arrival < begin + len(counts):
                counts[int(arrival - begin)] += each
    return counts


def in_own_process(
    loop: Literal["open", "closed"], base: str, requests: Sequence[dict[str, Any]], **settings: Any
) -> list[ChatSample]:
    """Runs `open_loop` or `closed_loop` in a process of its own, so that no other work disturbs its clock."""
    with tempfile.NamedTemporaryFile("w", suffix=".json", encoding="utf-8") as file:
        json.dump(list(requests), file)
        file.flush()
        flags = [f"--{name}={value}" for name, value in settings.items()]
        command = [sys.executable, "-m", "deshi.jobs.evidence.felt.chat_load", loop, f"--url={base}"]
        done = subprocess.run([*command, f"--requests={file.name}", *flags], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"the load generator failed: {done.stderr.strip().splitlines()[-1]}")
    return [ChatSample(**row) for row in json.loads(done.stdout)]


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the samples of one run as a JSON list."""
    parser = argparse.ArgumentParser(prog="python -m deshi.jobs.evidence.felt.chat_load", description=__doc__)
    parser.add_argument("loop", choices=("open", "closed"))
    parser.add_argument("--url", required=True, help="http://HOST:PORT")
    parser.add_argument("--requests", type=Path, required=True, help="a JSON list of bodies of requests")
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rps", type=float, default=1, help="open loop")
    parser.add_argument("--clients", type=int, default=8, help="closed loop")
    a = parser.parse_args(arguments)
    requests = json.loads(a.requests.read_text(encoding="utf-8"))
    if a.loop == "open":
        run = open_loop(a.url, requests, rps=a.rps, seconds=a.seconds, seed=a.seed)
    else:
        run = closed_loop(a.url, requests, clients=a.clients, seconds=a.seconds, seed=a.seed)
    json.dump([asdict(sample) for sample in asyncio.run(run)], sys.stdout)


if __name__ == "__main__":
    main()
