"""The load generator: open loop at a rate, closed loop with so many clients.

Open loop: the arrivals are drawn beforehand (Poisson, or evenly spaced) and a request is sent when it is due,
whether or not earlier ones have been answered. Its latency counts from the moment it was DUE, so a server that
stalls cannot hide the requests that would have come meanwhile (coordinated omission). The time is split by the
server's own `Server-Timing` header: latency = queue + engine + http, http being all the rest: the client, the
wire, parsing, routing.

The client lives on the server's machine here and takes CPU from it: on 2 cores every figure is that of a
smaller server, for all variants alike. Therefore it speaks HTTP/1.1 over kept-alive connections by itself (a
general HTTP library costs as much per request as the server does) and runs in a process of its own:

    python -m deshi.jobs.evidence.felt.load open --url URL --texts FILE --rps 20 --seconds 5   # prints JSON
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, cast
from urllib.parse import urlsplit

Arrivals = Literal["poisson", "uniform"]
_TIMING = re.compile(rb"(\w+);dur=([0-9.]+)")


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One request; seconds since the run began, and milliseconds. Status 0: the connection broke."""

    scheduled: float
    sent: float
    latency_ms: float
    queue_ms: float | None
    engine_ms: float | None
    http_ms: float | None
    status: int


class Connection(asyncio.Protocol):
    """One kept-alive HTTP/1.1 connection: one request at a time, replies with a Content-Length."""

    def __init__(self) -> None:
        self.closed = False
        self._transport: asyncio.Transport | None = None
        self._received = b""
        self._reply: asyncio.Future[tuple[int, bytes, bytes]] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keeps the transport."""
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Fails the request that waits, if one does."""
        self.closed = True
        if self._reply is not None and not self._reply.done():
            self._reply.set_exception(ConnectionError("the server closed the connection"))

    def data_received(self, data: bytes) -> None:
        """Answers when head and body are there."""
        self._received += data
        end = self._received.find(b"\r\n\r\n")
        if end < 0 or self._reply is None or self._reply.done():
            return
        head = self._received[:end].lower()
        at = head.find(b"\r\ncontent-length:")
        if at < 0:
            self._reply.set_exception(ConnectionError("a reply without Content-Length"))
            return
        length = int(head[at + 17 :].split(b"\r\n", 1)[0])
        if len(self._received) >= end + 4 + length:
            body = self._received[end + 4 : end + 4 + length]
            self._received = b""
            self._reply.set_result((int(head[9:12]), head, body))

    async def ask(self, request: bytes) -> tuple[int, bytes, bytes]:
        """Sends a whole request; returns status, lower-case head, body."""
        self._reply = asyncio.get_running_loop().create_future()
        cast(asyncio.Transport, self._transport).write(request)
        return await self._reply

    def close(self) -> None:
        """Drops the connection."""
        if self._transport is not None:
            self._transport.abort()


class Client:
    """Connections to one URL, reused last in, first out."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme != "http" or parts.hostname is None:
            raise ValueError(f"url {url!r} must be http://HOST:PORT/PATH; the load generator speaks plain HTTP only")
        self._host, self._port = parts.hostname, parts.port or 80
        self._head = f"POST {parts.path or '/'} HTTP/1.1\r\nhost: {parts.netloc}\r\ncontent-type: application/json\r\n"
        self._idle: list[Connection] = []

    def request(self, text: str) -> bytes:
        """The bytes of a request for one text."""
        body = json.dumps({"input": text}).encode()
        return f"{self._head}content-length: {len(body)}\r\n\r\n".encode() + body

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        """Sends on an idle connection or a new one; returns status (0: broken) and the lower-case head."""
        try:
            connection = await self._connection()
            status, head, _ = await connection.ask(request)
        except OSError:
            return 0, b""
        if b"\r\nconnection: close" in head:  # a proxy that reloads says so, and closes once we have read
            connection.close()
        else:
            self._idle.append(connection)
        return status, head

    async def _connection(self) -> Connection:
        while self._idle:
            if not (connection := self._idle.pop()).closed:
                return connection
        return (await asyncio.get_running_loop().create_connection(Connection, self._host, self._port))[1]

    def close(self) -> None:
        """Drops the idle connections."""
        for connection in self._idle:
            connection.close()


async def open_loop(
    url: str, texts: Sequence[str], *, rps: float, seconds: float, seed: int, arrivals: Arrivals = "poisson"
) -> list[Sample]:
    """Sends `rps` requests a second of one text each, for so many seconds, and waits for the last answer."""
    draw = random.Random(seed)  # noqa: S311 - a workload, not a secret
    due, schedule = 0.0, []
    while (due := due + (draw.expovariate(rps) if arrivals == "poisson" else 1 / rps)) < seconds:
        schedule.append((due, draw.choice(texts)))
    client = Client(url)
    requests = [(due, client.request(text)) for due, text in schedule]
    began = time.perf_counter() + 0.05

    async def one(scheduled: float, request: bytes) -> Sample:
        sent = time.perf_counter() - began
        status, head = await client.ask(request)
        return _sample(scheduled, sent, time.perf_counter() - began, status, head)

    tasks = []
    for scheduled, request in requests:
        # asyncio's timers round up to a millisecond: sleep short of it, then yield until it is due.
        while (left := scheduled - (time.perf_counter() - began)) > 0:
            await asyncio.sleep(max(0.0, left - 0.001) if rps <= 100 else left)
        tasks.append(asyncio.create_task(one(scheduled, request)))
    samples = list(await asyncio.gather(*tasks))
    client.close()
    return samples


async def closed_loop(
    url: str, texts: Sequence[str], *, clients: int, seconds: float, seed: int, warmup: float = 1.0
) -> list[Sample]:
    """So many clients, each of which sends its next request when it has its answer; rps is `len / seconds`.

    The requests of the first `warmup` seconds are not returned. `scheduled` is `sent`: latency under a closed
    loop is that of a server that is always full, and says nothing about an open one.
    """
    client = Client(url)
    requests = [client.request(text) for text in texts]
    began = time.perf_counter() + warmup
    samples: list[Sample] = []

    async def one(number: int) -> None:
        draw = random.Random(f"{seed}-{number}")  # noqa: S311
        while (sent := time.perf_counter() - began) < seconds:
            status, head = await client.ask(draw.choice(requests))
            done = time.perf_counter() - began
            if sent >= 0 and done <= seconds:
                samples.append(_sample(sent, sent, done, status, head))
            if status != 200:
                await asyncio.sleep(0.01)  # a refusing server is not to be hammered

    await asyncio.gather(*(one(number) for number in range(clients)))
    client.close()
    return samples


def _sample(scheduled: float, sent: float, done: float, status: int, head: bytes) -> Sample:
    latency = (done - scheduled) * 1e3
    at = head.find(b"\r\nserver-timing:")
    parts = dict(_TIMING.findall(head[at:].split(b"\r\n", 2)[1])) if at >= 0 else {}
    queue, engine = (float(parts[name]) if name in parts else None for name in (b"queue", b"engine"))
    rest = None if queue is None or engine is None else latency - queue - engine
    return Sample(
        scheduled=scheduled,
        sent=sent,
        latency_ms=latency,
        queue_ms=queue,
        engine_ms=engine,
        http_ms=rest,
        status=status,
    )


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of the values do not exceed (no interpolation).

    Raises:
        ValueError: if there are no values.
    """
    if not values:
        raise ValueError("a percentile of no values; was any request answered?")
    ordered = sorted(values)
    return ordered[max(0, -(-int(share * 10_000) * len(ordered) // 10_000) - 1)]


def in_own_process(loop: Literal["open", "closed"], url: str, texts: Sequence[str], **settings: Any) -> list[Sample]:
    """Runs `open_loop` or `closed_loop` in a process of its own, so that no other work disturbs its clock."""
    with tempfile.NamedTemporaryFile("w", suffix=".json", encoding="utf-8") as file:
        json.dump(list(texts), file)
        file.flush()
        flags = [f"--{name}={value}" for name, value in settings.items()]
        command = [
            sys.executable,
            "-m",
            "deshi.jobs.evidence.felt.load",
            loop,
            f"--url={url}",
            f"--texts={file.name}",
        ]
        done = subprocess.run([*command, *flags], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"the load generator failed: {done.stderr.strip().splitlines()[-1]}")
    return [Sample(**row) for row in json.loads(done.stdout)]


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the samples of one run as a JSON list."""
    parser = argparse.ArgumentParser(prog="python -m deshi.jobs.evidence.felt.load", description=__doc__)
    parser.add_argument("loop", choices=("open", "closed"))
    parser.add_argument("--url", required=True)
    parser.add_argument("--texts", type=Path, required=True, help="a JSON list of texts")
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rps", type=float, default=20, help="open loop")
    parser.add_argument("--arrivals", choices=("poisson", "uniform"), default="poisson", help="open loop")
    parser.add_argument("--clients", type=int, default=64, help="closed loop")
    parser.add_argument("--warmup", type=float, default=1, help="closed loop, seconds")
    a = parser.parse_args(arguments)
    texts = json.loads(a.texts.read_text(encoding="utf-8"))
    if a.loop == "open":
        run = open_loop(a.url, texts, rps=a.rps, seconds=a.seconds, seed=a.seed, arrivals=a.arrivals)
    else:
        run = closed_loop(a.url, texts, clients=a.clients, seconds=a.seconds, seed=a.seed, warmup=a.warmup)
    json.dump([asdict(sample) for sample in asyncio.run(run)], sys.stdout)


if __name__ == "__main__":
    main()
