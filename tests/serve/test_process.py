"""The one process: started as a user starts it, with ONNX Runtime, and looked at from outside."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from deshi.jobs.evidence.felt.load import in_own_process, percentile
from deshi.jobs.evidence.felt.memory import process_tree_peak
from deshi.serve import command, release
from deshi.serve.kpi import Kpi, Target
from deshi.serve.process import serve_in_process
from deshi.serve.run import free_port


@pytest.fixture(scope="module")
def server(tiny):
    port = free_port()
    command = [sys.executable, "-m", "deshi.serve.process", str(tiny), "--target", "edge", "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    with process_tree_peak(process.pid) as memory:
        yield process, process.stdout.readline(), f"http://127.0.0.1:{port}", memory
    process.kill()
    process.wait()


def ask(url, body):
    request = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as reply:
        return json.load(reply), reply.headers


def test_what_it_prints_can_be_typed(server):
    _, printed, url, _ = server
    told = subprocess.run(["bash", "-c", printed], capture_output=True, text=True, timeout=10, check=True).stdout
    assert url in printed and json.loads(told)["object"] == "list"


def test_it_answers(server):
    body, headers = ask(server[2] + "/classify", {"input": ["who", "where", "when when"]})
    assert [row["label"] for row in body["data"]] == ["PERSON", "PLACE", "TIME"]
    assert re.match(r"queue;dur=", headers["server-timing"]) and len(headers.get_all("x-request-id")) == 1


def test_64_clients_then_an_open_loop_within_512_mb(server):
    _, _, url, memory = server
    texts = ["who is it", "where", "when do we leave for the station"]
    samples = in_own_process("closed", url + "/classify", texts, clients=64, seconds=1.5, warmup=0.2, seed=0)
    assert len(samples) > 64 and {sample.status for sample in samples} == {200}
    samples = in_own_process("open", url + "/classify", texts, rps=40, seconds=1, seed=0)
    assert {sample.status for sample in samples} == {200}
    assert percentile([sample.engine_ms for sample in samples], 0.5) < 50
    assert all(sample.http_ms >= 0 for sample in samples)
    assert 20 < memory.peak_mb < 512, memory


def test_it_maps_no_torch_and_no_ray(server):
    mapped = Path(f"/proc/{server[0].pid}/maps").read_text()
    assert "onnxruntime" in mapped
    assert not [name for name in ("libtorch", "ray/_raylet", "transformers") if name in mapped]


def test_sigterm_stops_it_cleanly(tiny):
    port = free_port()
    command = [sys.executable, "-m", "deshi.serve.process", str(tiny), "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    began = time.monotonic()
    _, errors = process.communicate(timeout=20)
    assert time.monotonic() - began < 10 and process.returncode == 0 and not errors
    with pytest.raises(urllib.error.URLError):
        ask(f"http://127.0.0.1:{port}/classify", {"input": "who"})


def test_what_may_not_be_served_is_refused_in_one_sentence(tiny, tmp_path, capsys):
    target = Target(name="edge", threads=1, price_per_hour=3)
    manifest = release.Manifest(
        name="tiny", created="2026-11-24T00:00:00Z", decision="REJECT", kpi=Kpi(), targets=(target,)
    )
    folder = release.write(tiny, tmp_path / "release", manifest)
    for arguments, sentence in (
        ([str(folder)], "judged REJECT"),
        ([str(folder), "--target", "moon", "--despite-verdict"], "target 'moon' is not in this release"),
        ([str(tmp_path)], "serving.json does not exist"),
    ):
        with pytest.raises(SystemExit) as stopped:
            command.run(serve_in_process, prog="deshi.serve.process", description="", arguments=arguments)
        assert stopped.value.code == 2 and sentence in capsys.readouterr().err
