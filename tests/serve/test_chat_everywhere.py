"""The same contract through each way to serve and each engine, with the official client.

`test_chat.py` looks at one process over llama.cpp in detail; here are what another engine or Ray Serve with HAProxy in
front could break: streams that arrive token by token, seeds, stops, log-probabilities, errors, and who hangs up.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass

import openai
import pytest

from deshi.serve.run import free_port

pytestmark = pytest.mark.timeout(240)
SAYS = "Hey 😀ü!"
ASKED = {"model": "parrot", "messages": [{"role": "user", "content": "hello"}], "temperature": 0}
WAYS = {
    "process torch": ("process", "torch"),
    "process triton": ("process", "triton"),
    "ray llamacpp": ("run", "one"),
    "ray torch": ("run", "torch"),
}


@dataclass(frozen=True, kw_only=True)
class Way:
    client: openai.OpenAI
    slots: int
    whole_logprobs: bool  # of each token, where llama.cpp tells one a character
    process: subprocess.Popen[str]
    printed: str


@pytest.fixture(scope="module", params=WAYS)
def way(request, parrot):
    module, target = WAYS[request.param]
    port = free_port()
    command = [sys.executable, "-m", f"deshi.serve.{module}", str(parrot), "--target", target, "--port", str(port)]
    env = os.environ | {"DESHI_REFERENCE_KERNELS": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env)
    try:
        printed = process.stdout.readline()
        with openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0, timeout=60) as client:
            yield Way(
                client=client,
                slots=1 if target == "one" else 2,
                whole_logprobs=target != "one",
                process=process,
                printed=printed,
            )
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0


def test_what_it_prints_can_be_typed(way):
    assert "/v1/chat/completions" in way.printed
    told = subprocess.run(["bash", "-c", way.printed], capture_output=True, text=True, timeout=20, check=True).stdout
    assert '"chat.completion"' in told


def test_a_chat_whole_and_as_a_stream(way):
    whole = way.client.chat.completions.create(**ASKED, max_tokens=22)
    assert whole.choices[0].message.content == SAYS * 2 and whole.choices[0].finish_reason == "length"
    assert whole.usage.completion_tokens == 22 and whole.usage.total_tokens == whole.usage.prompt_tokens + 22
    options = {"include_usage": True}
    *said, last = way.client.chat.completions.create(**ASKED, max_tokens=22, stream=True, stream_options=options)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in said) == SAYS * 2
    assert said[0].choices[0].delta.role == "assistant" and said[-1].choices[0].finish_reason == "length"
    assert last.usage == whole.usage and not last.choices


def test_a_stream_arrives_token_by_token(way):
    """The first token is there long before the last one is made: nothing on the way gathers them."""
    began = time.monotonic()
    stream = way.client.chat.completions.create(**ASKED, max_tokens=1500, stream=True, extra_body={"ignore_eos": True})
    came = [time.monotonic() - began for chunk in stream if chunk.choices[0].delta.content]
    assert len(came) > 600 and came[0] < came[-1] / 4 and came[len(came) // 2] < 0.8 * came[-1]


def test_stops_and_seeds(way):
    stopped = way.client.chat.completions.create(**ASKED, max_tokens=60, stop=["never", "ü!He"]).choices[0]
    assert (stopped.message.content, stopped.finish_reason) == ("Hey 😀", "stop")

    def said(seed):
        asked = {"model": "parrot", "prompt": "x", "max_tokens": 40, "temperature": 2, "seed": seed}
        return way.client.completions.create(**asked, extra_body={"ignore_eos": True}).choices[0].text

    assert said(3) == said(3) and len({said(seed) for seed in range(4)}) == 4


def test_logprobs(way):
    """By hand: one logit of 8, 269 of 0."""
    import math

    best = -math.log1p(269 * math.exp(-8))
    answer = way.client.chat.completions.create(**ASKED, max_tokens=11, logprobs=True, top_logprobs=2)
    content = answer.choices[0].logprobs.content
    assert len(content) == (11 if way.whole_logprobs else len(SAYS))
    assert b"".join(bytes(entry.bytes) for entry in content).decode() == SAYS
    for entry in content:
        assert entry.logprob == pytest.approx(best, abs=2e-3) and len(entry.top_logprobs) == 2


def test_errors_keep_their_sentence_and_shape(way):
    for change, kind, code, sentence in (
        (
            {"messages": [{"role": "user", "content": "x" * 20000}]},
            openai.BadRequestError,
            "context_length_exceeded",
            "the context holds 16,384 tokens",
        ),
        ({"max_tokens": 20000}, openai.BadRequestError, "context_length_exceeded", "asks for 20,000"),
        ({"n": 3}, openai.BadRequestError, "unsupported_parameter", "n = 3 is not served here"),
        ({"model": "gpt"}, openai.NotFoundError, "model_not_found", "send 'parrot'"),
        (
            {"messages": [{"role": "user", "content": "x" * (1 << 20)}]},
            openai.APIStatusError,
            "body_too_large",
            "1,048,576 bytes",
        ),
    ):
        for stream in (False, True):
            with pytest.raises(kind, match=sentence) as caught:
                way.client.chat.completions.create(**ASKED | change, stream=stream)
            assert caught.value.code == code and caught.value.type == "invalid_request_error"


def test_more_streams_than_slots(way):
    async def ask():
        async with openai.AsyncOpenAI(base_url=way.client.base_url, api_key="none", max_retries=0) as client:

            async def one(number):
                stream = await client.chat.completions.create(**ASKED, max_tokens=11 * number, stream=True)
                return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

            return await asyncio.gather(*(one(number) for number in range(1, way.slots + 4)))

    assert asyncio.run(ask()) == [SAYS * number for number in range(1, way.slots + 4)]


def test_who_hangs_up_frees_the_slot(way):
    """All slots taken by answers much longer than the next one waits, by streams and by who waits for the whole."""
    endless = {**ASKED, "max_tokens": 16000, "extra_body": {"ignore_eos": True}}
    began = time.monotonic()
    way.client.chat.completions.create(**endless | {"max_tokens": 1000})
    taken = 16 * (time.monotonic() - began)

    def next_one():
        began = time.monotonic()
        answer = way.client.chat.completions.create(**ASKED, max_tokens=3)
        assert answer.choices[0].message.content == "Hey"
        assert time.monotonic() - began < taken / 2, "it was written on for nobody"

    streams = [way.client.chat.completions.create(**endless, stream=True) for _ in range(way.slots)]
    for stream in streams:
        next(stream)
        stream.close()
    next_one()
    with pytest.raises(openai.APITimeoutError):
        way.client.with_options(timeout=0.3).chat.completions.create(**endless)
    next_one()
    body = json.dumps({name: value for name, value in endless.items() if name != "extra_body"} | {"ignore_eos": True})
    for _ in range(6):
        for _ in range(way.slots):
            ask_in_two_packets_and_leave(way.client.base_url.port, body.encode())
        next_one()


def ask_in_two_packets_and_leave(port, body):
    """As clients send a request, head and body apart; a proxy may then overlook that they are gone."""
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body)
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(head)
        time.sleep(0.005)
        connection.sendall(body)
        time.sleep(0.05)
