"""`deshi diff` between a small real HTTP server, which stands for the old service, and a real release."""

from __future__ import annotations

import json
import math
import runpy
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from typer.testing import CliRunner

from deshi.jobs import diff
from deshi.jobs.cli import app
from deshi.jobs.evidence.migration import replay
from deshi.jobs.evidence.migration.diff_schema import Diff
from deshi.jobs.evidence.migration.json_difference import WHOLE, differences
from deshi.jobs.finished_run import ANSWERS_FILE, EVIDENCE_FILE, TRIALS_FILE
from deshi.jobs.storage import file_digest
from deshi.serve import release
from deshi.serve.kpi import Kpi, Target

write_candidate = runpy.run_path(str(Path(__file__).parents[1] / "serve" / "conftest.py"))["_write_candidate"]
MAPPING = """
path: /api/v2/categorize
request: '{"input": {{ body.question.text }}}'
response: >-
  {"result": {"category": {{ reply.data[0].label }}, "score": {{ reply.data[0].probs | max }}}, "id": {{ body.id }}}
error: '{"code": {{ status }}, "message": {{ message }}}'
"""
SECRET = "s3cret-t0ken"
MAIL = "taro@example.com"
SCORE = math.exp(4) / (math.exp(4) + 2)  # by hand: the logit of a known word is 4, the others' 0


def old_reply(text: str, number: int):
    """What the old service says: status and body."""
    known, _, wanted = text.partition(" ")
    result = {"category": {"who": "PERSON", "where": "PLACE", "when": "TIME"}.get(known), "score": SCORE + 1e-4}
    told = {"result": result, "id": number}
    return {
        "other": (200, {"result": result | {"category": MAIL}, "id": number}),
        "shape": (200, {"result": result | {"score": "high", "reasons": ["a"]}, "id": number}),
        "broken": (500, {"error": "out of order"}),
        "words": (200, "<html>"),
        "none": (400, {"code": 400, "message": "no text"}),
    }.get(wanted or ("none" if not text else ""), (200, told))


class Old(BaseHTTPRequestHandler):
    """Remembers what it was asked."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    seen: list[tuple[str, str, str | None]] = []  # noqa: RUF012 - one for the module

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.seen.append((self.path, body["question"]["text"], self.headers.get("x-key")))
        status, told = old_reply(body["question"]["text"], body["id"])
        content = told.encode() if isinstance(told, str) else json.dumps(told).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def old():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Old)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def run(tmp_path) -> Path:
    """A run that verifies, of a real candidate that was rejected; the evidence is a stand-in."""
    write_candidate(tmp_path / "candidate")
    folder = tmp_path / "runs" / "tiny"
    folder.mkdir(parents=True)
    for name in (EVIDENCE_FILE, TRIALS_FILE, ANSWERS_FILE):
        (folder / name).write_text("{}")
    digests = {"evidence": EVIDENCE_FILE, "trials": TRIALS_FILE, "test_answers": ANSWERS_FILE}
    target = Target(name="onprem", threads=1, price_per_hour=3, server="process")
    lineage = {"splits": "splits-0123456789abcdef"} | {key: file_digest(folder / name) for key, name in digests.items()}
    manifest = release.Manifest(
        name="tiny", created="2026-11-24T00:00:00Z", decision="REJECT", kpi=Kpi(), targets=(target,), lineage=lineage
    )
    release.write(tmp_path / "candidate", folder / "release", manifest)
    return folder


def files(tmp_path, texts):
    (mapping := tmp_path / "mapping.yaml").write_text(MAPPING, encoding="utf-8")
    lines = [json.dumps({"question": {"text": text}, "id": number}) for number, text in enumerate(texts)]
    (requests := tmp_path / "requests.jsonl").write_text("\n\n".join(lines), encoding="utf-8")
    return str(requests), str(mapping)


def test_same_value_shape_and_failure_are_told_apart(run, old, tmp_path):
    texts = ["who", "where", "when", "when other", "when shape", "when broken", "when words", ""]
    requests, mapping = files(tmp_path, texts)
    before = {path: file_digest(path) for path in run.rglob("*") if path.is_file()}
    command = ["diff", old, str(run), "--requests", requests, "--mapping", mapping, "--header", f"X-Key: {SECRET}"]
    told = CliRunner().invoke(app, [*command, "--tolerance", "0.001", "--ignore", "message"])
    assert told.exit_code == 0, told.output

    rows = [json.loads(line) for line in (run / "diff.jsonl").read_text(encoding="utf-8").splitlines()]
    expected = ["same", "same", "same", "value", "shape", "failed", "failed", "same"]
    assert [row["outcome"] for row in rows] == expected
    assert [row["line"] for row in rows] == [1, 3, 5, 7, 9, 11, 13, 15], "of the file, where every second line is empty"
    assert [(row["old_status"], row["new_status"]) for row in rows[5:]] == [(500, 200), (200, 200), (400, 400)]
    assert rows[3]["differences"] == [{"key": "result.category", "kind": "value", "old": "[MAIL]", "new": "TIME"}]
    assert {(each["key"], each["kind"]) for each in rows[4]["differences"]} == {
        ("result.score", "type"),
        ("result.reasons", "missing"),
    }
    assert rows[5]["why"] == "status 500 and 200" and rows[6]["why"] == "old: the reply is no JSON"
    assert (run / "diff.jsonl").stat().st_mode & 0o777 == 0o600

    found = Diff.model_validate_json((run / "diff.json").read_text(encoding="utf-8"))
    wilson = stats.binomtest(2, 8).proportion_ci(0.95, method="wilson")  # independent of statsmodels
    failed = found.outcomes["failed"]
    assert (failed.value, failed.n) == (0.25, 8) and (failed.low, failed.high) == pytest.approx(tuple(wilson))
    assert (found.mapping_keys.value, found.review_rows.value, found.decision) == (2, 1, "REJECT")
    assert found.statuses == {"400/400": 1, "500/200": 1} and found.url == old
    assert (found.old.p50.n, found.new.p50.n) == (6, 7) and 0 < found.new.p50.value <= found.new.p95.value
    assert found.rows_file == {file_digest(run / "diff.jsonl"): "diff.jsonl"}
    assert [key.key for key in found.keys] == ["result.category", "result.reasons", "result.score"]

    assert all(path == "/api/v2/categorize" and key == SECRET for path, _, key in Old.seen)
    assert [text for _, text, _ in Old.seen] == texts
    written = (run / "diff.json").read_text() + (run / "diff.jsonl").read_text() + told.output
    assert SECRET not in written and "result.category" in told.output
    assert not any(word in told.output for word in (MAIL, "[MAIL]", "TIME", '"high"')), "no value without --show"
    assert "differ in shape (work on the mapping): 2\n" in told.output and "requests that failed" in told.output
    assert "differ in value alone (people review them): 1\n" in told.output and "95% interval" in told.output
    assert {path: file_digest(path) for path in before} == before, "evidence and release are as they were"


def test_show_unmasked_out_and_a_second_time(run, old, tmp_path):
    requests, mapping = files(tmp_path, ["who", "when other"])
    out = tmp_path / "elsewhere.jsonl"
    command = ["diff", f"{old}/a/path?k=1", str(run), "--requests", requests, "--mapping", mapping, "--out", str(out)]
    for _ in range(2):
        told = CliRunner().invoke(app, [*command, "--show", "--unmasked"])
        assert told.exit_code == 0, told.output
    assert f'"{MAIL}" -> "TIME"' in told.output and MAIL in out.read_text() and not (run / "diff.json").exists()
    found = Diff.model_validate_json(out.with_suffix(".json").read_text())
    assert {(key.key, key.rows) for key in found.keys} == {("result.score", 2), ("result.category", 1)}
    assert Old.seen[-1][0] == "/a/path?k=1" and found.url == f"{old}/a/path"


def test_what_cannot_be_compared_is_refused_before_the_release_is_started(run, old, tmp_path, monkeypatch):
    monkeypatch.setattr(diff, "running", lambda *args, **options: pytest.fail("it was started"))
    requests, mapping = files(tmp_path, ["who"])
    (empty := tmp_path / "empty.jsonl").write_text("\n \n")
    (listed := tmp_path / "listed.jsonl").write_text('{"a": 1}\n[1]\n')
    (broken := tmp_path / "broken.jsonl").write_text('{"a": 1}\n\n{"a": 1\n')
    (latin := tmp_path / "latin.jsonl").write_bytes('{"a": "é"}'.encode("latin-1"))
    (other := tmp_path / "other.yaml").write_text(MAPPING.replace(".label", ".klass"))
    (tmp_path / "kept.json").write_text("{}")
    closed = f"http://127.0.0.1:{old.rpartition(':')[2]}"
    cases = [
        ({"url": "ftp://host"}, "give http(s)://HOST"),
        ({"url": "http://"}, "give http(s)://HOST"),
        ({"url": f"ftp://user:{SECRET}@host"}, "'host'"),
        ({"requests": tmp_path / "gone.jsonl"}, "cannot be read"),
        ({"requests": empty}, "holds no request"),
        ({"requests": listed}, "line 2 is no JSON object"),
        ({"requests": broken}, "line 3 is no JSON object"),
        ({"requests": latin}, "is not UTF-8"),
        ({"headers": ["a: b", f"bad name: {SECRET}"]}, "header 2 is no 'name: value'"),
        ({"headers": [SECRET]}, "header 1 is no 'name: value'"),
        ({"mapping": other}, "does not fit this service's replies"),
        ({"target": "moon"}, "target 'moon'"),
        ({"tolerance": -1.0}, "give 0 or more"),
        ({"rate": 0.0}, "the most requests a second"),
        ({"out": tmp_path / "rows.txt"}, "must end in .jsonl"),
        ({"out": Path(requests)}, "is there and is no earlier diff"),
        ({"out": tmp_path / "kept.jsonl"}, "is there and is no earlier diff"),
        ({"out": run / "evidence.jsonl"}, "evidence.json is there and is no earlier diff"),
        ({"out": tmp_path / "no" / "a.jsonl"}, "is no folder"),
    ]
    for changes, sentence in cases:
        asked = {"url": closed, "requests": Path(requests), "mapping": Path(mapping)} | changes
        with pytest.raises(ValueError, match=r"\w") as refused:
            diff.run(asked.pop("url"), str(run), asked.pop("requests"), **asked)
        assert sentence in str(refused.value) and "\n" not in str(refused.value) and SECRET not in str(refused.value)
    (run / "trials.parquet").write_text("changed")
    with pytest.raises(ValueError, match=r"trials\.parquet is not the file that the release was judged by"):
        diff.run(closed, str(run), Path(requests), mapping=Path(mapping))
    shutil.rmtree(run / "release")
    with pytest.raises(ValueError, match="holds no release"):
        diff.run(closed, str(run), Path(requests), mapping=Path(mapping))
    assert not [path for path in tmp_path.rglob("*") if "diff" in path.name]


def test_a_service_that_is_not_there_or_falls_silent(monkeypatch):
    gone = ThreadingHTTPServer(("127.0.0.1", 0), Old)
    url = f"http://user:{SECRET}@127.0.0.1:{gone.server_address[1]}"
    gone.server_close()
    monkeypatch.setattr(replay, "CONNECT_RETRIES", 0)
    with replay.Service(url, path="/a") as service:
        with pytest.raises(ValueError, match=r"^http://127.*cannot be reached \(ConnectError") as refused:
            service.greet()
        asked = replay.Asked(line=4, path=None, body=b"{}")
        for _ in range(replay.GONE_AFTER - 1):
            assert service.ask(asked).status == 0
        with pytest.raises(ValueError, match="10 requests in a row, the last on line 4"):
            service.ask(asked)
    assert SECRET not in str(refused.value)


def test_paths_order_and_rate(tmp_path, monkeypatch):
    (file := tmp_path / "r.jsonl").write_text(
        '{"path": "/x", "body": [1]}\n{"path": "/x", "more": 1, "body": 2}\n{"a": 1}\n'
    )
    requests = replay.requests_of(file)
    assert [(asked.path, asked.body[:6]) for asked in requests] == [
        ("/x", b"[1]"),
        (None, b'{"path'),
        (None, b'{"a": '),
    ]
    asked, slept, now = [], [], [0.0]
    monkeypatch.setattr(replay.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(replay.time, "sleep", lambda s: (slept.append(s), now.__setitem__(0, now[0] + s)))

    class Told:
        def __init__(self, name):
            self.name = name

        def ask(self, one):
            asked.append((self.name, one.line))
            return replay.Got(status=200, ms=1.0, reply=self.name)

    pairs = list(replay.replay(requests, Told("old"), Told("new"), rate=2))
    assert asked == [("old", 1), ("new", 1), ("new", 2), ("old", 2), ("old", 3), ("new", 3)]
    assert [(pair.old.reply, pair.new.reply) for pair in pairs] == [("old", "new")] * 3 and slept == [0.0, 0.5, 0.5]


def test_places_that_differ():
    old = {"a": 1, "b": {"c": [1, 2, 3], "d": None}, "e": [{"f": 1.0}, {"f": "x"}], "g": True, "h": 0.8}
    new = {"a": 1.0, "b": {"c": [1, 5], "d": "n"}, "e": [{"f": 1}, {"f": "y", "i": 0}], "g": 1, "h": 0.7}

    def told(**options):
        return [(each.key, each.kind) for each in differences(old, new, **options)]

    assert told() == [
        ("b.c[]", "missing"), ("b.c[]", "value"), ("b.d", "type"), ("e[].f", "value"), ("e[].i", "extra"),
        ("g", "type"), ("h", "value"),
    ]  # fmt: skip
    assert ("h", "value") not in told(tolerance=0.1) and ("h", "value") in told(tolerance=0.0999)
    assert told(ignore={"b", "e[].i", "g"}) == [("e[].f", "value"), ("h", "value")]
    assert [(each.key, each.detail) for each in differences([], {})] == [(WHOLE, "list -> object")]
    assert differences(10**400, 0.5, tolerance=1)[0].kind == "value"


JSON = st.recursive(
    st.sampled_from([None, False, True, 0, 1, 0.5, 1.0, "a", "1.0"]),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.sampled_from("xyz"), below, max_size=3),
    max_leaves=3,
)


def leaves(value, place=()):
    """Every place of a value with what is there; 1 and 1.0 are the same number, and true is none."""
    if isinstance(value, dict):
        return {(place, "object")}.union(*(leaves(below, (*place, name)) for name, below in value.items()))
    if isinstance(value, list):
        return {(place, "list")}.union(*(leaves(below, (*place, at)) for at, below in enumerate(value)))
    return {(place, repr(float(value)) if type(value) in (int, float) else json.dumps(value))}


@settings(max_examples=400, deadline=None)
@given(JSON, JSON)
def test_no_difference_means_the_same_json(old, new):
    assert (not differences(old, new)) == (leaves(old) == leaves(new))
    assert len(differences(old, new)) == len(differences(new, old)) and not differences(old, old)
