"""One streamed answer of a model: the request, what came when, and what that says.

    first_token_ms   until the first event that holds text has arrived
    per_token_ms     (last such event - first) / (tokens - 1): the mean time of a token after the first
    latency_ms       until the stream's last event

all from the moment the request was DUE. The tokens are those of the stream's own `usage`: a token that ends inside a
character comes with the next one's event. `queue_ms` is the server's own word (`Server-Timing`, sent with the first
token), http_ms what is left of the first token's time without queue and engine: client, wire, parsing, chat template.
A server that is not ours sends no such header; then both are None.

The client shares the server's cores. It notes the moment of each packet and reads none of them until it is asked to;
each request has a connection of its own, which costs a fraction of a millisecond where an answer takes hundreds.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import urlsplit

ROUTES = {"messages": "/v1/chat/completions", "prompt": "/v1/completions"}  # by what a request holds
ANSWER_LIMIT_S = 300.0  # a server that hangs must not hang the run
_TIMING = re.compile(rb"\r\nserver-timing: queue;dur=([0-9.]+), engine;dur=([0-9.]+)")
_STREAM = {"stream": True, "stream_options": {"include_usage": True}}


@dataclass(frozen=True, kw_only=True)
class ChatSample:
    """One request; seconds since the run began, and milliseconds. Status 0: the connection or the stream broke."""

    scheduled: float
    sent: float
    latency_ms: float
    first_token_ms: float | None
    per_token_ms: float | None
    tokens: int
    queue_ms: float | None
    http_ms: float | None
    status: int
    text: str
    arrivals: list[float]  # of the events that hold text


@dataclass(kw_only=True)
class Exchange(asyncio.Protocol):
    """One request on a connection of its own: what came, and how many bytes had come by when."""

    request: bytes
    gone: asyncio.Future[None]
    received: bytearray = field(default_factory=bytearray)
    marks: list[tuple[int, float]] = field(default_factory=list)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Sends."""
        cast(asyncio.Transport, transport).write(self.request)

    def data_received(self, data: bytes) -> None:
        """Notes the moment; the work is left for later."""
        self.received += data
        self.marks.append((len(self.received), time.perf_counter()))

    def connection_lost(self, exc: Exception | None) -> None:
        """The server closes behind its reply, as it is asked to."""
        if not self.gone.done():
            self.gone.set_result(None)


class Client:
    """Sends requests to one server; encoded beforehand."""

    def __init__(self, base: str, requests: Sequence[dict[str, Any]]) -> None:
        parts = urlsplit(base)
        if parts.scheme != "http" or parts.hostname is None:
            raise ValueError(f"url {base!r} must be http://HOST:PORT; the load generator speaks plain HTTP only")
        if not requests:
            raise ValueError("there are no requests to send; give at least one")
        self._at = parts.hostname, parts.port or 80
        self.requests = [self._encoded(request, parts.netloc) for request in requests]

    def _encoded(self, request: dict[str, Any], host: str) -> bytes:
        route = next((route for key, route in ROUTES.items() if key in request), None)
        if route is None:
            raise ValueError(f"a request holds {', '.join(request) or 'nothing'}; give it {' or '.join(ROUTES)}")
        body = json.dumps(request | _STREAM).encode()
        head = f"host: {host}\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
        return f"POST {route} HTTP/1.1\r\n{head}\r\n\r\n".encode() + body

    async def ask(self, request: bytes) -> Exchange:
        """Whatever came until the connection was closed; nothing where there was none."""
        loop = asyncio.get_running_loop()
        exchange = Exchange(request=request, gone=loop.create_future())
        try:
            transport, _ = await loop.create_connection(lambda: exchange, *self._at)
        except OSError:
            return exchange
        try:
            async with asyncio.timeout(ANSWER_LIMIT_S):
                await exchange.gone
        except TimeoutError:
            pass
        finally:
            transport.abort()
        return exchange


def sample_of(scheduled: float, sent: float, exchange: Exchange, began: float) -> ChatSample:
    """Reads what was received; `began` is the run's zero on the clock of the marks."""
    end = exchange.received.find(b"\r\n\r\n")
    head = bytes(exchange.received[: max(end, 0)]).lower()
    status = int(head[9:12]) if head[9:12].isdigit() else 0
    marks = [(size, moment - began) for size, moment in exchange.marks]
    last = marks[-1][1] if marks else time.perf_counter() - began
    tokens, texts, arrivals = 0, [], []
    if status == 200:
        events = _events(bytes(exchange.received), end + 4, marks)
        status, last = (200, events[-1][1]) if events and events[-1][0] == b"[DONE]" else (0, last)
        for content, moment in events:
            event = {} if content == b"[DONE]" else json.loads(content)
            tokens = (event.get("usage") or {}).get("completion_tokens", tokens)
            text = "".join(
                choice.get("text") or choice.get("delta", {}).get("content") or ""
                for choice in event.get("choices", ())
            )
            status = 0 if "error" in event else status
            if text:
                texts.append(text)
                arrivals.append(moment)
    first_ms = (arrivals[0] - scheduled) * 1e3 if arrivals else None
    timing = _TIMING.search(head)
    queue_ms, engine_ms = (float(part) for part in timing.groups()) if timing else (None, None)
    return ChatSample(
        scheduled=scheduled,
        sent=sent,
        latency_ms=(last - scheduled) * 1e3,
        first_token_ms=first_ms,
        per_token_ms=(arrivals[-1] - arrivals[0]) * 1e3 / (tokens - 1) if arrivals and tokens > 1 else None,
        tokens=tokens,
        queue_ms=queue_ms,
        http_ms=None if first_ms is None or queue_ms is None or engine_ms is None else first_ms - queue_ms - engine_ms,
        status=status,
        text="".join(texts),
        arrivals=arrivals,
    )


def _events(received: bytes, at: int, marks: Sequence[tuple[int, float]]) -> list[tuple[bytes, float]]:
    """The data of each whole server-sent event of a chunked body that begins at `at`, and when its chunk was whole."""
    sizes = [size for size, _ in marks]
    body, events = b"", []
    while (line := received.find(b"\r\n", at)) >= 0 and (length := int(received[at:line].split(b";")[0], 16)):
        at = line + 2 + length + 2
        if at > len(received):
            break
        body += received[line + 2 : at - 2]
        *whole, body = body.split(b"\n\n")
        moment = marks[bisect_left(sizes, at)][1]
        events += [(event[6:], moment) for event in whole if event.startswith(b"data: ")]
    return events
