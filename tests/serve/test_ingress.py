"""The ingress over a real engine: vLLM's shape, OpenAI's errors, and every bad input with its sentence."""

from __future__ import annotations

import asyncio
import json
import re

import numpy as np
import pytest
from starlette.testclient import TestClient

from deshi.serve import service
from deshi.serve.batching import BoundedQueue, Full, Gatherer
from deshi.serve.command import refuse_open_host
from deshi.serve.contract import MAX_ROWS
from deshi.serve.endpoint import WithRequestId
from deshi.serve.ingress import ingress


@pytest.fixture(scope="module")
def opened(tiny):
    return service.opened(tiny, target="edge")


@pytest.fixture(scope="module")
def client(opened):
    async def answer(texts):
        gatherer = Gatherer(opened.run, max_batch_size=4, wait_s=0.0)
        try:
            return await BoundedQueue(gatherer.part, max_batch_size=4, max_queued=MAX_ROWS).submit(texts)
        finally:
            gatherer.close()

    with TestClient(WithRequestId(ingress(answer, opened.serving, opened.info)), raise_server_exceptions=False) as it:
        yield it


def test_vllm_shape_and_the_right_classes(client):
    reply = client.post("/classify", json={"model": "tiny", "input": ["who", "where", "nothing known"]})
    assert reply.status_code == 200
    body = reply.json()
    assert body["object"] == "list" and body["model"] == "tiny" and body["id"].startswith("classify-")
    assert isinstance(body["created"], int)
    assert [row["label"] for row in body["data"][:2]] == ["PERSON", "PLACE"]
    assert [row["index"] for row in body["data"]] == [0, 1, 2]
    expected = np.exp([4, 0, 0]) / np.exp([4, 0, 0]).sum()  # by hand: the logit of the known word is 4
    np.testing.assert_allclose(body["data"][0]["probs"], expected, rtol=1e-6)
    np.testing.assert_allclose(body["data"][2]["probs"], [1 / 3] * 3, rtol=1e-6)
    assert all(row["num_classes"] == 3 for row in body["data"])
    assert body["usage"] == {"prompt_tokens": 4, "total_tokens": 4, "completion_tokens": 0, "truncated_inputs": 0}


def test_one_text_and_a_list_of_one_are_the_same(client):
    one, listed = (client.post("/classify", json={"input": value}).json() for value in ("when", ["when"]))
    assert one["data"] == listed["data"] and one["data"][0]["label"] == "TIME"


def test_long_texts_are_cut_and_told(client):
    texts = ["who " * 8, "who " * 9, "who"]  # max_length is 8
    usage = client.post("/classify", json={"input": texts}).json()["usage"]
    assert usage["prompt_tokens"] == 8 + 8 + 1 and usage["truncated_inputs"] == 1


def test_headers(client):
    reply = client.post("/classify", json={"input": "who"}, headers={"x-request-id": "mine"})
    assert reply.headers["x-request-id"] == "mine" and reply.json()["id"] == "classify-mine"
    assert re.fullmatch(r"queue;dur=[0-9.]+, engine;dur=[0-9.]+", reply.headers["server-timing"])
    assert len(client.get("/nowhere").headers["x-request-id"]) == 32


def test_models_health_and_pages(client):
    listed = client.get("/v1/models").json()
    assert listed["object"] == "list" and listed["data"][0]["id"] == "tiny"
    assert listed["data"][0] == client.get("/v1/models/tiny").json()
    assert listed["data"][0]["labels"] == ["PERSON", "PLACE", "TIME"] and listed["data"][0]["target"] == "edge"
    assert client.get("/healthz").json()["status"] == "ok"
    page = client.get("/docs").text
    assert "/classify" in page and "//" not in page.replace("<!doctype", ""), "the page loads nothing from elsewhere"
    schema = client.get("/openapi.json").json()
    assert {"200", "400", "413", "503"} <= schema["paths"]["/classify"]["post"]["responses"].keys()
    assert "input" in json.dumps(schema["paths"]["/classify"]["post"]["requestBody"])


BAD = [
    (b"", 400, "no JSON"),
    (b"{", 400, "no JSON"),
    (b"\xff\xfe", 400, "no JSON"),
    (b"[" * 100_000, 400, "no JSON"),
    (b'["a"]', 400, 'no "input"'),
    (b'{"inputs": "a"}', 400, 'no "input"'),
    (b'{"input": []}', 400, "empty list"),
    (b'{"input": ""}', 400, r"input\[0\] is an empty text"),
    (b'{"input": ["a", " \\n"]}', 400, r"input\[1\] is an empty text"),
    (b'{"input": null}', 400, "input is null"),
    (b'{"input": 5}', 400, "input is a number"),
    (b'{"input": {"text": "a"}}', 400, "input is an object"),
    (b'{"input": ["a", true]}', 400, r"input\[1\] is a boolean"),
    (b'{"input": ["a", ["b"]]}', 400, r"input\[1\] is a list"),
    (b'{"input": "\\ud800"}', 400, "half a surrogate pair"),
    (b'{"input": "a", "model": "gpt"}', 404, "model 'gpt' is not served here; send 'tiny'"),
    (b'{"input": "a", "model": 7}', 404, "model '7' is not served"),
    (json.dumps({"input": ["a"] * (MAX_ROWS + 1)}).encode(), 400, "257 texts, the limit is 256"),
    (b'{"input": "' + b"a" * (1 << 20) + b'"}', 413, "larger than 1,048,576 bytes"),
]


@pytest.mark.parametrize(("body", "status", "sentence"), BAD, ids=[sentence for _, _, sentence in BAD])
def test_bad_input_is_told_what_to_change(client, body, status, sentence):
    reply = client.post("/classify", content=body)
    error = reply.json()["error"]
    assert reply.status_code == status and re.search(sentence, error["message"])
    assert error.keys() == {"message", "type", "param", "code"} and error["type"] == "invalid_request_error"


def test_a_body_without_length_is_cut_off_too(client):
    sent = 0

    def chunks():
        nonlocal sent
        for _ in range(64):
            sent += 1 << 16
            yield b"a" * (1 << 16)

    assert client.post("/classify", content=chunks()).status_code == 413


def test_other_routes_and_methods(client):
    for reply, status in ((client.get("/nowhere"), 404), (client.get("/classify"), 405)):
        assert reply.status_code == status and "GET /docs" in reply.json()["error"]["message"]
    assert client.get("/v1/models/gpt").status_code == 404


@pytest.mark.parametrize(("error", "status"), [(Full(3), 503), (RuntimeError("secret path"), 500)])
def test_a_full_queue_and_a_broken_engine(opened, error, status):
    async def answer(texts):
        await asyncio.sleep(0)
        raise error

    with TestClient(ingress(answer, opened.serving, opened.info), raise_server_exceptions=False) as client:
        reply = client.post("/classify", json={"input": "who"})
    assert reply.status_code == status and "secret" not in reply.text
    assert reply.headers.get("retry-after") == ("3" if status == 503 else None)


def test_only_the_loopback_interface_is_served():
    refuse_open_host("127.0.0.1")
    with pytest.raises(ValueError, match=r"0\.0\.0\.0.*use 127\.0\.0\.1"):
        refuse_open_host("0.0.0.0")
