"""OpenAI's API over llama.cpp, started as a user starts it and asked with the official client."""

from __future__ import annotations

import asyncio
import json
import re
import select
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import openai
import pytest

from deshi.serve import generate_service
from deshi.serve.run import free_port

pytestmark = pytest.mark.timeout(120)
SAYS = "Hey 😀ü!"
HELLO = [{"role": "user", "content": "hello"}]


def started(folder, target, **options):
    port = free_port()
    command = [sys.executable, "-m", "deshi.serve.process", str(folder), "--target", target, "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **options)
    return process, process.stdout.readline(), f"http://127.0.0.1:{port}"


def stopped(process):
    process.terminate()
    try:
        process.wait(timeout=20)
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def server(parrot):
    process, printed, url = started(parrot, "eight")
    yield process, printed, url
    stopped(process)


@pytest.fixture(scope="module")
def one_slot(parrot):
    process, _, url = started(parrot, "one")
    yield url
    stopped(process)


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=server[2] + "/v1", api_key="none", max_retries=0, timeout=60) as it:
        yield it


def test_what_it_prints_can_be_typed(server):
    told = subprocess.run(["bash", "-c", server[1]], capture_output=True, text=True, timeout=20, check=True).stdout
    assert 1 <= json.loads(told)["usage"]["completion_tokens"] <= 32, "it may draw the end"


def test_a_chat(client):
    answer = client.chat.completions.create(model="parrot", messages=HELLO, max_tokens=22, temperature=0)
    assert answer.choices[0].message.content == SAYS * 2 and answer.choices[0].message.role == "assistant"
    assert answer.choices[0].finish_reason == "length" and answer.object == "chat.completion"
    # by hand: <|im_start|> u s e r \n h e l l o <|im_end|> \n <|im_start|> a s s i s t a n t \n, less what is merged
    assert answer.usage.completion_tokens == 22 and answer.usage.total_tokens == answer.usage.prompt_tokens + 22
    assert 20 <= answer.usage.prompt_tokens <= 25


def test_a_streamed_chat_never_sends_half_a_character(client):
    stream = client.chat.completions.create(
        model="parrot",
        messages=HELLO,
        max_completion_tokens=11,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    *said, last = chunks
    texts = [chunk.choices[0].delta.content for chunk in said if chunk.choices[0].delta.content]
    assert texts == ["H", "e", "y", " ", "😀", "ü", "!"]
    assert said[0].choices[0].delta.role == "assistant" and said[-1].choices[0].finish_reason == "length"
    assert not last.choices and last.usage.completion_tokens == 11 and all(chunk.usage is None for chunk in said)
    assert len({chunk.id for chunk in chunks}) == 1


def test_the_stream_on_the_wire(server):
    body = {"messages": HELLO, "max_tokens": 2, "temperature": 0, "stream": True}
    request = urllib.request.Request(server[2] + "/v1/chat/completions", json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=30) as reply:
        assert reply.headers["content-type"].startswith("text/event-stream")
        assert reply.headers["server-timing"].startswith("queue;dur=") and reply.headers["x-request-id"]
        text = reply.read().decode()
    events = text.split("\n\n")
    assert events[-1] == "" and events[-2] == "data: [DONE]" and all(one.startswith("data: ") for one in events[:-1])
    assert "usage" not in text


def test_a_completion_ends_where_the_model_ends_it(client):
    answer = client.completions.create(model="parrot", prompt="so it is.", max_tokens=5, temperature=0)
    assert answer.choices[0].text == "" and answer.choices[0].finish_reason == "stop"
    longer = client.completions.create(
        model="parrot", prompt="so it is.", max_tokens=5, temperature=0, extra_body={"ignore_eos": True}
    )
    assert longer.usage.completion_tokens == 5 and longer.choices[0].finish_reason == "length"


def test_echo_several_prompts_and_ids(client):
    answer = client.completions.create(model="parrot", prompt=["ab", "c"], max_tokens=1, temperature=0, echo=True)
    assert [choice.text for choice in answer.choices] == ["abH", "cH"] and [c.index for c in answer.choices] == [0, 1]
    ids = client.completions.create(model="parrot", prompt=[100, 101], max_tokens=3, temperature=0)
    assert ids.choices[0].text == "Hey" and ids.usage.prompt_tokens == 2


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_sequence_across_the_borders_of_tokens(client, stream):
    asked = {"messages": HELLO, "max_tokens": 60, "temperature": 0, "model": "parrot", "stop": ["never", "ü!He"]}
    if stream:
        chunks = list(client.chat.completions.create(**asked, stream=True))
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        reason = chunks[-1].choices[0].finish_reason
    else:
        choice = client.chat.completions.create(**asked).choices[0]
        text, reason = choice.message.content, choice.finish_reason
    assert text == "Hey 😀" and reason == "stop"


def test_the_same_seed_says_the_same(client):
    def said(seed, **more):
        return (
            client.completions.create(
                model="parrot",
                prompt="x",
                max_tokens=40,
                temperature=2,
                seed=seed,
                extra_body={"ignore_eos": True},
                **more,
            )
            .choices[0]
            .text
        )

    assert said(3) == said(3) and len({said(seed) for seed in range(4)}) == 4
    assert said(3, top_p=0.01).startswith("Hey "), "the likeliest alone is left"


def test_logprobs_are_the_models(client):
    """By hand: one logit of 8, the others 0."""
    import math

    best = -math.log1p(269 * math.exp(-8))
    answer = client.chat.completions.create(
        model="parrot", messages=HELLO, max_tokens=11, temperature=0, logprobs=True, top_logprobs=2
    )
    content = answer.choices[0].logprobs.content
    # A character of several tokens is one entry, with its last token's logprob: llama.cpp tells none of the others.
    assert [bytes(entry.bytes).decode() for entry in content] == ["H", "e", "y", " ", "😀", "ü", "!"]
    for entry in content:
        assert entry.logprob == pytest.approx(best, abs=2e-3) and len(entry.top_logprobs) == 2
        assert entry.top_logprobs[1].logprob == pytest.approx(best - 8, abs=2e-2)
    lists = client.completions.create(model="parrot", prompt="x", max_tokens=2, temperature=0, logprobs=1).choices[0]
    assert lists.logprobs.tokens == ["H", "e"] and lists.logprobs.text_offset == [0, 1]
    assert lists.logprobs.top_logprobs[0] == {"H": pytest.approx(best, abs=2e-3)}
    hot = client.completions.create(model="parrot", prompt="x", max_tokens=1, temperature=2, logprobs=1, top_p=0.01)
    assert hot.choices[0].logprobs.token_logprobs[0] == pytest.approx(best, abs=2e-3), "before the temperature"


def test_eight_streams_at_once(server):
    async def ask():
        async with openai.AsyncOpenAI(base_url=server[2] + "/v1", api_key="none", max_retries=0) as client:

            async def one(number):
                stream = await client.chat.completions.create(
                    model="parrot", messages=HELLO, max_tokens=11 * number, temperature=0, stream=True
                )
                return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

            return await asyncio.gather(*(one(number) for number in range(1, 13)))

    assert asyncio.run(ask()) == [SAYS * number for number in range(1, 13)]


def hang_up(url, body, after):
    """Opens a stream, reads `after` lines and closes the connection."""
    request = urllib.request.Request(url, json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=30) as reply:
        for _ in range(after):
            reply.readline()


def test_who_hangs_up_frees_the_slot(one_slot):
    """One slot, and a stream that would hold it for much longer than the next one waits."""
    url = one_slot + "/v1/chat/completions"
    endless = {"messages": HELLO, "max_tokens": 16000, "temperature": 0, "ignore_eos": True}
    client = openai.OpenAI(base_url=one_slot + "/v1", api_key="none", max_retries=0)
    began = time.monotonic()
    whole = client.chat.completions.create(model="parrot", messages=HELLO, max_tokens=2000, temperature=0)
    taken = (time.monotonic() - began) * 8
    assert whole.usage.completion_tokens == 2000
    began = time.monotonic()
    hang_up(url, endless | {"stream": True}, after=6)
    answer = client.chat.completions.create(model="parrot", messages=HELLO, max_tokens=3, temperature=0)
    assert answer.choices[0].message.content == "Hey"
    assert time.monotonic() - began < taken / 3, "the stream went on without a listener"
    for more in ({}, {"logprobs": True}):  # nor does it write on for one who waited for the whole answer
        impatient = client.with_options(timeout=0.3).chat.completions
        with pytest.raises(openai.APITimeoutError):
            impatient.create(model="parrot", messages=HELLO, max_tokens=16000, extra_body={"ignore_eos": True}, **more)
        began = time.monotonic()
        client.chat.completions.create(model="parrot", messages=HELLO, max_tokens=3, temperature=0)
        assert time.monotonic() - began < taken / 3


def test_a_full_queue_is_a_503_with_retry_after(one_slot):
    """One answers, 64 wait, the next is refused; when all have hung up, who comes again as told is answered."""
    host, _, port = one_slot.removeprefix("http://").partition(":")
    body = json.dumps({"messages": HELLO, "max_tokens": 16000, "stream": True, "ignore_eos": True}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n".encode()
    waiting = []
    client = openai.OpenAI(base_url=one_slot + "/v1", api_key="none", max_retries=0)
    try:
        for _ in range(1 + generate_service.MAX_QUEUED + 1):
            waiting.append(socket.create_connection((host, int(port))))
            waiting[-1].sendall(head + body)
        assert until_refused(waiting).count(b"503") == 1
        with pytest.raises(openai.InternalServerError) as refusal:
            client.chat.completions.create(model="parrot", messages=HELLO, max_tokens=1)
    finally:
        for connection in waiting:
            connection.close()
    assert refusal.value.status_code == 503 and refusal.value.code == "queue_full"
    assert int(refusal.value.response.headers["retry-after"]) >= 1
    patient = client.with_options(max_retries=5)  # the server may hear of those who left after it hears of the next
    assert patient.chat.completions.create(model="parrot", messages=HELLO, max_tokens=1).usage.completion_tokens == 1


def until_refused(connections):
    """The statuses of the replies that have begun when the first 503 is there."""
    statuses = {}
    until = time.monotonic() + 60
    while b"503" not in statuses.values() and time.monotonic() < until:
        for connection in select.select(connections, [], [], 1)[0]:
            statuses.setdefault(connection, connection.recv(1 << 16)[9:12])
    return list(statuses.values())


def test_sigterm_stops_it_cleanly(parrot):
    process, _, url = started(parrot, "one", stderr=subprocess.PIPE)
    hang_up(url + "/v1/chat/completions", {"messages": HELLO, "stream": True}, after=2)
    process.terminate()
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 0 and not errors


CHATS = [
    ({"messages": []}, 400, "messages is \\[\\]; List should have at least 1 item"),
    ({}, 400, "messages is missing"),
    ({"messages": [{"role": "user"}]}, 400, r"messages\[0\]\.content is missing"),
    ({"messages": [{"role": "robot", "content": "a"}]}, 400, r'messages\[0\]\.role is "robot"'),
    ({"messages": HELLO, "max_tokens": -1}, 400, "max_tokens is -1; it should be greater than or equal to 0"),
    ({"messages": HELLO, "max_tokens": 0}, 400, "max_tokens = 0"),
    ({"messages": HELLO, "max_tokens": "5"}, 400, 'max_tokens is "5"; it should be a valid integer'),
    ({"messages": HELLO, "temperature": 3}, 400, "temperature is 3; it should be less than or equal to 2"),
    ({"messages": HELLO, "top_p": 0}, 400, "top_p is 0; it should be greater than 0"),
    ({"messages": HELLO, "n": 2}, 400, "n = 2 is not served here"),
    ({"messages": HELLO, "tools": [{"type": "function"}]}, 400, "tools = .* is not served here"),
    ({"messages": HELLO, "top_k": 5}, 400, "top_k is not known here"),
    ({"messages": HELLO, "stop": ["a"] * 5}, 400, "stop holds 5 texts"),
    ({"messages": HELLO, "stop": ""}, 400, "none of them empty"),
    ({"messages": HELLO, "top_logprobs": 2}, 400, "needs logprobs"),
    ({"messages": HELLO, "stream_options": {}}, 400, "is for streams"),
    ({"messages": HELLO, "model": "gpt"}, 404, "model 'gpt' is not served here; send 'parrot'"),
    (
        {"messages": [{"role": "user", "content": "x" * 20000}]},
        400,
        "the context holds 16,384 tokens.*the prompt has 20,0",
    ),
    ({"messages": HELLO, "max_tokens": 20000}, 400, "the context holds 16,384 tokens.*asks for 20,000"),
    ({"messages": [{"role": "user", "content": "\ud800"}]}, 400, "half a surrogate pair"),
    ([1], 400, "the body is \\[1\\]; send an object"),
]


@pytest.mark.parametrize(("body", "status", "sentence"), CHATS, ids=[sentence for _, _, sentence in CHATS])
def test_a_bad_chat_is_told_what_to_change(server, body, status, sentence):
    assert_refused(server[2] + "/v1/chat/completions", json.dumps(body).encode(), status, sentence)


COMPLETIONS = [
    (b"{", 400, "no JSON"),
    (b'{"prompt": ""}', 400, "the prompt is empty"),
    (b'{"prompt": []}', 400, "empty list"),
    (b'{"prompt": 5}', 400, "prompt is 5"),
    (b'{"prompt": [270]}', 400, "token id 270; ids are 0 to 269"),
    (b'{"prompt": ["a", "b"], "stream": true}', 400, "several prompts cannot be streamed"),
    (b'{"prompt": "a", "echo": true, "logprobs": 1}', 400, "tells no logprobs of the prompt"),
    (b'{"prompt": "a", "logprobs": 21}', 400, "logprobs is 21; it should be less than or equal to 20"),
    (b'{"prompt": "' + b"a" * (1 << 20) + b'"}', 413, "larger than 1,048,576 bytes"),
]


@pytest.mark.parametrize(("body", "status", "sentence"), COMPLETIONS, ids=[sentence for _, _, sentence in COMPLETIONS])
def test_a_bad_completion_is_told_what_to_change(server, body, status, sentence):
    assert_refused(server[2] + "/v1/completions", body, status, sentence)


def assert_refused(url, body, status, sentence):
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(urllib.request.Request(url, body), timeout=20)
    error = json.load(caught.value)["error"]
    assert caught.value.code == status and re.search(sentence, error["message"]), error["message"]
    assert error.keys() == {"message", "type", "param", "code"} and error["type"] == "invalid_request_error"


def test_the_client_raises_openais_errors(client):
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="parrot", messages=[{"role": "user", "content": "x" * 20000}])
    assert caught.value.code == "context_length_exceeded" and caught.value.param == "messages"
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="gpt", messages=HELLO)


def test_models_health_and_pages(server, client):
    (model,) = client.models.list().data
    assert model.id == "parrot" and model.max_model_len == 16384 and client.models.retrieve("parrot") == model
    with urllib.request.urlopen(server[2] + "/healthz", timeout=10) as reply:
        assert json.load(reply)["status"] == "ok"
    with urllib.request.urlopen(server[2] + "/docs", timeout=10) as reply:
        page = reply.read().decode()
    assert "/v1/chat/completions" in page and "//" not in page.replace("<!doctype", "")
    with urllib.request.urlopen(server[2] + "/openapi.json", timeout=10) as reply:
        schema = json.load(reply)
    asked = schema["paths"]["/v1/chat/completions"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert "messages" in schema["components"]["schemas"][asked["$ref"].rpartition("/")[2]]["properties"]


def test_it_maps_no_torch_and_no_ray(server):
    mapped = Path(f"/proc/{server[0].pid}/maps").read_text()
    assert "xllamacpp" in mapped
    assert not [name for name in ("libtorch", "ray/_raylet", "transformers") if name in mapped]
