"""Too large a body is read to its end first; a stream ends, and its source with it, when the client goes."""

from __future__ import annotations

import asyncio

import pytest
from fastapi import Request

from deshi.serve.contract import DISCARDED_BYTES, MAX_BODY_BYTES, Refused, read_body
from deshi.serve.event_stream import EventStream, event, while_connected

CHUNK = 1 << 16


def sent(size, told):
    """A request that sends `size` bytes, of which `told` are in its content-length, and how often it was read."""
    reads = []

    async def receive():
        reads.append(min(CHUNK, size - CHUNK * len(reads)))
        return {"type": "http.request", "body": b"x" * reads[-1], "more_body": CHUNK * len(reads) < size}

    headers = [(b"content-length", str(told).encode())] if told else []
    return Request({"type": "http", "method": "POST", "headers": headers}, receive), reads


@pytest.mark.parametrize("told", [True, False])
def test_a_body_is_read_to_its_end_before_it_is_refused(told):
    for size, read in (
        (MAX_BODY_BYTES, MAX_BODY_BYTES),
        (MAX_BODY_BYTES + 1, MAX_BODY_BYTES + 1),
        (10 * MAX_BODY_BYTES, 10 * MAX_BODY_BYTES),
        (100 * MAX_BODY_BYTES, None),
    ):
        request, reads = sent(size, size if told else 0)
        if size <= MAX_BODY_BYTES:
            assert len(asyncio.run(read_body(request, "send less"))) == size
        else:
            with pytest.raises(Refused, match="1,048,576 bytes"):
                asyncio.run(read_body(request, "send less"))
        assert sum(reads) == read or (read is None and sum(reads) < DISCARDED_BYTES + 2 * MAX_BODY_BYTES)


def test_who_goes_while_sending_is_no_error_of_the_server():
    async def receive():
        return {"type": "http.disconnect"}

    with pytest.raises(Refused) as refusal:
        asyncio.run(read_body(Request({"type": "http", "method": "POST", "headers": []}, receive), "send less"))
    assert refusal.value.status == 499


def test_an_event_is_one_line_whatever_it_holds():
    assert event(None) == b"" and event({"a": "b\nü"}) == 'data: {"a":"b\\nü"}\n\n'.encode()


def test_a_stream_ends_with_its_client():
    """The client goes after the second event; the source is closed by then, and nothing is raised."""

    async def stream():
        closed, left, got = [], asyncio.Event(), []

        async def source():
            try:
                for number in range(1000):
                    yield b"%d" % number
                    await asyncio.sleep(0.001)
            finally:
                closed.append(True)

        async def receive():
            await left.wait()
            return {"type": "http.disconnect"}

        async def send(message):
            got.append(message)
            if len(got) == 3:
                left.set()

        await EventStream(source(), {"a": "b"})({"type": "http"}, receive, send)
        return closed, got

    closed, got = asyncio.run(stream())
    assert closed == [True] and [message.get("body") for message in got[:3]] == [None, b"0", b"1"] and len(got) < 20
    assert (b"a", b"b") in got[0]["headers"] and (b"x-accel-buffering", b"no") in got[0]["headers"]


def test_work_is_cancelled_when_its_client_goes():
    async def wait(goes):
        ended = []

        async def receive():
            await asyncio.sleep(0 if goes else 60)
            return {"type": "http.disconnect"}

        async def work():
            try:
                await asyncio.sleep(60 if goes else 0)
                return "done"
            finally:
                ended.append(True)

        try:
            return await while_connected(Request({"type": "http"}, receive), work()), ended
        except Refused as refusal:
            return refusal.status, ended

    assert asyncio.run(wait(False)) == ("done", [True]) and asyncio.run(wait(True)) == (499, [True])
