"""The old service's JSON through the real applications, and every mapping file that is refused."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from starlette.routing import Route
from starlette.testclient import TestClient

from deshi.serve import generate_service, service
from deshi.serve.app import Args, build
from deshi.serve.batching import BoundedQueue, Full, Gatherer
from deshi.serve.ingress import ingress
from deshi.serve.mapping import OWN_ROUTES, WireMapping, specimen
from deshi.serve.process import serve_in_process
from deshi.serve.run import serve_with_ray
from deshi.serve.serving import Serving

OLD = {
    "path": "/api/v2/categorize",
    "request": '{"input": {{ body.items | map(attribute="text") | list }} }',
    "response": '{"ticket": {{ body.ticket | tojson }}, "results": [{% for row in reply.data %}'
    '{"category": {{ row.label }}, "score": {{ row.probs | max }}}{% if not loop.last %},{% endif %}{% endfor %}]}',
    "error": '{"code": {{ status }}, "message": {{ message | tojson }}}',
}
PATH = OLD["path"]


@pytest.fixture(scope="module")
def opened(tiny):
    return service.opened(tiny, target="edge")


def client_of(opened, mapping, answer=None):
    async def really(texts):
        gatherer = Gatherer(opened.run, max_batch_size=4, wait_s=0.0)
        try:
            return await BoundedQueue(gatherer.part, max_batch_size=4, max_queued=256).submit(texts)
        finally:
            gatherer.close()

    app = ingress(answer or really, opened.serving, opened.info, mapping)
    return TestClient(app, raise_server_exceptions=False)


@pytest.fixture(scope="module")
def client(opened):
    with client_of(opened, WireMapping(**OLD)) as it:
        yield it


def asked(*texts, **other):
    return {"items": [{"text": text} for text in texts], "ticket": 7, **other}


def test_the_old_json_is_answered_and_the_own_route_stays(client):
    reply = client.post(PATH, json=asked("who", "where", ticket='<"7"&'))
    told, own = reply.json(), client.post("/classify", json={"input": ["who", "where"]}).json()
    assert reply.status_code == 200 and reply.headers["content-type"] == "application/json"
    assert told == {
        "ticket": '<"7"&',
        "results": [{"category": row["label"], "score": max(row["probs"])} for row in own["data"]],
    }
    assert [row["category"] for row in told["results"]] == ["PERSON", "PLACE"]
    assert "engine;dur=" in reply.headers["server-timing"]
    assert PATH in client.get("/docs").text


def test_the_example_speaks(opened):
    mapping = WireMapping.read(Path(__file__).parents[2] / "examples" / "trec" / "mapping.yaml", opened.serving)
    with client_of(opened, mapping) as client:
        told = client.post(mapping.path, json={"id": 7, "question": {"text": "who"}}).json()
        assert told["id"] == 7 and told["result"]["category"] == "PERSON" and told["result"]["score"] > 0.9
        assert client.post(mapping.path, json={"id": 7}).json()["code"] == 400


def test_no_text_breaks_out_of_its_place(opened):
    mapping = WireMapping(**OLD | {"request": '{"input": {{ body.q }}}', "response": '{"q": {{ body.q }}}'})
    with client_of(opened, mapping) as client:
        for text in ('who", "model": "other', "{{ 7 * 7 }}", "誰\n\t\\ 😀</script>"):
            assert client.post(PATH, json={"q": text}).json() == {"q": text}


BAD = [
    (b"{", 400, "the body is no JSON; send what /api/v2/categorize takes"),
    (b'{"items": NaN}', 400, "the body is no JSON"),
    (b"[" * 100_000, 400, "the body is no JSON"),
    (b"{}", 400, "the body is not what /api/v2/categorize takes: "),
    (b"[1]", 400, "the body is not what /api/v2/categorize takes: "),
    (b'{"items": [{"txt": "who"}]}', 400, "'dict object' has no attribute 'text'"),
    (b'{"items": [{"text": {}}], "ticket": 1}', 400, "input[0] is an object; send a text"),
    (b'{"items": [{"text": "\\ud800"}], "ticket": 1}', 400, "half a surrogate pair"),
    (b'{"items": [], "ticket": 1}', 400, "input is an empty list"),
    (b'{"items": [{"text": "' + b"a" * (1 << 20) + b'"}]}', 413, "larger than 1,048,576 bytes"),
]


@pytest.mark.parametrize(("body", "status", "sentence"), BAD, ids=[sentence for _, _, sentence in BAD])
def test_errors_have_the_old_shape(opened, client, body, status, sentence):
    reply = client.post(PATH, content=body)
    told = reply.json()
    assert (reply.status_code, told["code"]) == (status, status) and sentence in told["message"]
    assert told.keys() == {"code", "message"} and "\n" not in told["message"]
    with client_of(opened, WireMapping(**OLD | {"error": None})) as plain:
        assert sentence in plain.post(PATH, content=body).json()["error"]["message"], "else OpenAI's shape"


@pytest.mark.parametrize("error", [OLD["error"], None])
def test_a_full_queue_a_broken_engine_and_a_reply_that_cannot_be_told(opened, caplog, error):
    def failing(raised):
        async def answer(texts):
            await asyncio.sleep(0)
            raise raised

        return answer

    for answer, status, said in (
        (failing(Full(3)), 503, "the queue is full"),
        (failing(RuntimeError("secret path")), 500, "its log says why"),
        (None, 500, "cannot be told in the old service's shape"),
    ):
        with client_of(opened, WireMapping(**OLD | {"error": error}), answer) as client:
            reply = client.post(PATH, json={"items": [{"text": "who"}]})  # without the ticket
        assert reply.status_code == status and "secret" not in reply.text and "ticket" not in reply.text
        told = reply.json()
        assert said in (told["message"] if error else told["error"]["message"])
        assert reply.headers.get("retry-after") == ("3" if status == 503 else None)
    assert "'dict object' has no attribute 'ticket'" in caplog.text


def test_a_chat_is_mapped_by_the_same_file(parrot):
    opened = generate_service.opened(parrot, target="one")
    mapping = WireMapping(
        path="/talk",
        request='{"messages": [{"role": "user", "content": {{ body.say }}}], "max_tokens": 11, "temperature": 0,'
        ' "stream": {{ body.stream | default(false) }}}',
        response='{"answer": {{ reply.choices[0].message.content }}, "tokens": {{ reply.usage.completion_tokens }}}',
    )
    mapping._try_out("talk.yaml", opened.serving)
    try:
        with TestClient(opened.application(mapping)) as client:
            assert client.post("/talk", json={"say": "hello"}).json() == {"answer": "Hey 😀ü!", "tokens": 11}
            whole = client.post("/talk", json={"say": "hello", "stream": True}).json()["error"]
            assert whole["message"] == "/talk answers whole; leave stream out"
            reply = client.post(
                "/v1/chat/completions", json={"messages": [{"role": "user", "content": "a"}], "max_tokens": 1}
            )
            assert keys(reply.json()) == keys(specimen(opened.serving))
            assert_own_routes_are_known(client.app)
    finally:
        opened.engine.close()


def keys(value):
    if isinstance(value, dict):
        return {name: keys(below) for name, below in value.items()}
    return [keys(value[0])] if isinstance(value, list) and value else None


def assert_own_routes_are_known(app):
    own = {route.path for route in app.routes if isinstance(route, Route)} - {"/talk", PATH}
    assert own and all(any(path == one or path.startswith(f"{one}/") for one in OWN_ROUTES) for path in own), own


def test_specimens_and_own_routes_are_the_applications(client, opened):
    assert keys(client.post("/classify", json={"input": "who"}).json()) == keys(specimen(opened.serving))
    assert_own_routes_are_known(client.app)


def written(tmp_path, **changes):
    path = tmp_path / "mapping.yaml"
    kept = {name: value for name, value in (OLD | changes).items() if value is not None}
    path.write_text(json.dumps(kept), encoding="utf-8")  # JSON is YAML
    return path


REFUSED = [
    ({"path": "/classify"}, "/classify would hide the endpoint's own /classify"),
    ({"path": "/classify/"}, "own /classify"),
    ({"path": "/v1/models/tiny"}, "own /v1"),
    ({"path": "/-/healthz"}, "own /-"),
    ({"path": "api"}, "path = 'api' is not allowed"),
    ({"path": "/api/{name}"}, "is not allowed"),
    ({"path": None}, "path is missing; add it"),
    ({"response": None}, "response is missing; add it"),
    ({"answer": "x"}, "unknown key 'answer'"),
    ({"request": 5}, "request = 5 is not allowed"),
    ({"request": '{"input": {{ body.text }'}, "the template does not compile (line 1: "),
    ({"request": '{"input": {{ body.text | shout }}}'}, "No filter named 'shout'"),
    ({"request": '{"input": {{ text }}}'}, "reads 'text', which is not there; it has body"),
    ({"request": '{% include "/etc/passwd" %}'}, "includes another one"),
    (
        {"response": '{"score": {{ reply.data[0].score }}}'},
        "response does not fit this service's replies: 'dict object'",
    ),
    ({"response": '{"id": {{ body.a[0].b }}, "score": {{ reply.score }}}'}, "'dict object' has no attribute 'score'"),
    ({"response": '{"label": "{{ reply.data[0].label }}"}'}, "the template gives no JSON"),
    ({"response": "{{ reply.__class__.__mro__ }}"}, "does not fit"),
    ({"error": "{{ status }} {{ message }}"}, "error does not fit"),
]


@pytest.mark.parametrize(("changes", "sentence"), REFUSED, ids=[sentence for _, sentence in REFUSED])
def test_a_mapping_that_cannot_work_is_refused_when_it_is_read(tiny, tmp_path, changes, sentence):
    path = written(tmp_path, **changes)
    with pytest.raises(ValueError, match="mapping") as refused:
        WireMapping.read(path, Serving.read(tiny))
    assert sentence in str(refused.value) and "\n" not in str(refused.value) and str(path) in str(refused.value)


def test_what_hangs_on_the_body_alone_is_let_through(tiny, tmp_path):
    told = '{"id": {{ body.a[0].b }}, "next": {{ body.n + 1 }}, "label": {{ reply.data[0].label }}}'
    assert WireMapping.read(written(tmp_path, response=told), Serving.read(tiny)).response == told


def test_no_file_no_yaml_and_no_keys_are_refused_by_every_way_to_serve(tiny, tmp_path):
    (none := tmp_path / "none.yaml").write_text("a: [")
    (words := tmp_path / "words.yaml").write_text("hello")
    for path, sentence in ((tmp_path / "gone.yaml", "cannot be read"), (none, "is not YAML"), (words, "holds no keys")):
        for start in (
            lambda path: serve_in_process(tiny, speaks=path),
            lambda path: serve_with_ray(tiny, speaks=path),
            lambda path: build(Args(release=str(tiny), speaks=str(path))),
        ):
            with pytest.raises(ValueError, match=sentence):
                start(path)
