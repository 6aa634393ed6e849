"""A reply that is a stream of server-sent events, and the end of the work when the client hangs up.

The client's leaving is heard whether it waits for a stream, for a whole answer or in the queue: `receive` of the ASGI
scope tells it, and the work that nobody waits for any more is cancelled.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Awaitable, Coroutine
from typing import Any, TypeVar

from fastapi import Request
from fastapi.responses import Response
from starlette.types import Receive, Scope, Send

from deshi.serve.contract import hung_up

T = TypeVar("T")


def event(content: dict[str, Any] | None) -> bytes:
    """One event; nothing of nothing."""
    if content is None:
        return b""
    return b"data: " + json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


class EventStream(Response):
    """Events, until they end or the client hangs up; then the generator is closed."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[bytes, None], headers: dict[str, str]) -> None:
        self._events = events
        self.status_code = 200
        self.background = None
        # A proxy that gathers the events would undo the stream.
        self.init_headers({**headers, "cache-control": "no-cache", "x-accel-buffering": "no"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See `Response`."""
        with contextlib.suppress(_Left):  # an ordinary end: nobody is there to be told
            await _or_left(receive, self._send(send))

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async with contextlib.aclosing(self._events):
            async for part in self._events:
                await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class _Left(Exception):
    """The client has hung up."""


async def while_connected(request: Request, work: Awaitable[T]) -> T:
    """The result of `work`, which is cancelled if the client hangs up: then nobody reads the error.

    Raises:
        Refused: if the client has hung up.
    """

    async def run() -> T:
        return await work

    try:
        return await _or_left(request.receive, run())
    except _Left:
        raise hung_up() from None
    except ExceptionGroup as group:
        raise group.exceptions[0] from None


async def _or_left(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`.

    Raises:
        _Left: once `receive` tells that the client has hung up; `work` has been cancelled by then.
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise _Left
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
