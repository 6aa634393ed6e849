"""A vendor's URL, a real small server that answers by keyword, through the verdict: garbage, 429, a kill, refusals."""

from __future__ import annotations

import contextlib
import math
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest
import uvicorn
import yaml
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from deshi.jobs import finished_run, judge, judge_url
from deshi.jobs.contender import Contender
from deshi.jobs.data.split import split_rows
from deshi.jobs.evidence.felt.endpoint import Felt
from deshi.jobs.evidence.felt.latency import LatencyRow
from deshi.jobs.evidence.figure import Figure
from deshi.jobs.evidence.migration.replacement import hourly_cost
from deshi.jobs.evidence.page.link_check import check
from deshi.jobs.evidence.schema import Evidence, LatencyParts
from deshi.jobs.evidence.vendor import asking
from deshi.jobs.evidence.vendor.vendor import Vendor
from deshi.jobs.finalist import Finalist
from deshi.jobs.ledger import Ledger
from deshi.jobs.progress import Progress
from deshi.jobs.recipe import Recipe
from deshi.jobs.run_folder import RunFolder
from deshi.jobs.stages import builds
from deshi.jobs.stages.candidate import Candidate
from deshi.jobs.stages.lesson import Lesson
from deshi.jobs.storage import Output, Storage
from deshi.serve.serving import SHAPE_CLASSES, ServedTarget, Serving
from deshi.serve.texts import recorded
from tests.jobs.conftest import ASKED

LABELS = ("PERSON", "PLACE", "TIME")
KEY = "sk-very-secret-1234"
SYSTEM = asking.prompt_of(LABELS)


def by_keyword(text: str) -> str:
    begins = {label: tuple(form.partition("{}")[0] for form in forms) for label, forms in ASKED.items()}
    return next(label for label, words in begins.items() if text.startswith(words))


class Endpoint:
    """What it was sent (`seen`), and how it answers: `reply(n, text)` gives content, or a status and its headers."""

    def __init__(self, reply=None, *, key: str | None = None, logprobs: bool = True) -> None:
        self.seen: list[tuple[dict, dict]] = []
        self.reply = reply or (lambda n, text: f" {by_keyword(text).lower()}\n")
        self.lock = threading.Lock()
        app = FastAPI()

        @app.get("/v1/models")
        def models(request: Request):
            if key is not None and request.headers.get("authorization") != f"Bearer {key}":
                return JSONResponse({"error": {"message": f"wrong key {KEY}"}}, 401)
            return {"object": "list", "data": [{"id": "words-1", "object": "model", "created": 0, "owned_by": "v"}]}

        @app.post("/v1/chat/completions")
        async def chat(request: Request):
            body = await request.json()
            with self.lock:
                self.seen.append((dict(request.headers), body))
                number = len(self.seen)
            if body.get("logprobs") and not logprobs:
                return JSONResponse({"error": {"message": "logprobs is not known here"}}, 400)
            said = self.reply(number, body["messages"][1]["content"])
            if isinstance(said, tuple):
                return JSONResponse({"error": {"message": "no"}}, said[0], headers=said[1])
            tokens = [{"token": said, "logprob": math.log(0.95), "top_logprobs": []}]
            return {
                "id": "1",
                "object": "chat.completion",
                "created": 0,
                "model": "words-1",
                "choices": [
                    {
                        "index": 0,
                        "finish_reason": "stop",
                        "message": {"role": "assistant", "content": said},
                        "logprobs": {"content": tokens} if body.get("logprobs") else None,
                    }
                ],
                "usage": {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11},
            }

        self.app = app

    @contextlib.contextmanager
    def running(self):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        server = uvicorn.Server(uvicorn.Config(self.app, host="127.0.0.1", port=port, log_level="warning"))
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.02)
        try:
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            server.should_exit = True
            thread.join()

    def texts(self) -> list[str]:
        return [body["messages"][1]["content"] for _, body in self.seen]


def ask(url: str, folder: Path, texts: list[str], *, at_once: int = 4) -> list[dict]:
    with Vendor(url, model="words-1") as vendor:
        return asking.ask(
            vendor, texts, LABELS, Ledger(Storage(str(folder)), "asked.jsonl"), at_once=at_once, say=lambda _: None
        )


TEXTS = [f"where is the {n}" for n in range(12)]


def test_an_answer_is_a_label_only_as_a_whole():
    assert {asking.matched(said, LABELS) for said in ("place", "  PLACE\n", "Place")} == {"PLACE"}
    assert {asking.matched(said, LABELS) for said in ("Place.", "PLACE TIME", "", "the PLACE")} == {None}
    assert asking.matched("a", ("A", "a")) == "a" and asking.matched(" Ä ", ("A", "a", "ä")) == "ä"
    assert asking.matched("É", ("e", "É", "é")) == "É" and asking.matched("aB", ("AB", "ab")) is None


def test_what_is_sent_and_what_is_kept(tmp_path):
    endpoint = Endpoint()
    with endpoint.running() as url:
        lines = ask(url, tmp_path, TEXTS)
    assert sorted(endpoint.texts()) == sorted(TEXTS)
    headers, body = endpoint.seen[-1]
    assert body["messages"][0] == {"role": "system", "content": SYSTEM} and all(label in SYSTEM for label in LABELS)
    assert body["temperature"] == 0 and body["max_tokens"] == 16 and body["model"] == "words-1"
    assert "authorization" not in headers
    assert [line["text"] for line in lines] == [" place\n"] * 12
    assert [line["logprob"] for line in lines] == pytest.approx([math.log(0.95)] * 12)
    assert all(0 < line["ms"] < 5000 for line in lines)


def test_a_busy_endpoint_is_asked_again_when_it_says_and_its_last_try_is_timed(tmp_path):
    endpoint = Endpoint(lambda n, text: (429, {"retry-after": "0.6"}) if n in (3, 4) else "TIME")
    with endpoint.running() as url:
        began = time.perf_counter()
        lines = ask(url, tmp_path, TEXTS, at_once=1)
    assert time.perf_counter() - began >= 1.2
    assert len(endpoint.seen) == 14 and sum(line["tries"] - 1 for line in lines) == 2
    assert max(line["ms"] for line in lines) < 500, "the pause is the endpoint's wish, not its latency"


def test_an_endpoint_that_gives_out_leaves_what_it_answered(tmp_path):
    endpoint = Endpoint(lambda n, text: (402, {}) if n > 5 else "TIME")
    with endpoint.running() as url:
        with pytest.raises(ValueError, match=r"answers 402 .*; 5 of 12 answers are kept, so the same command goes on"):
            ask(url, tmp_path, TEXTS, at_once=1)
        endpoint.reply, before = (lambda n, text: "PLACE"), len(endpoint.seen)
        lines = ask(url, tmp_path, TEXTS, at_once=1)
    assert [line["text"] for line in lines] == ["TIME"] * 5 + ["PLACE"] * 7
    assert len(endpoint.seen) - before == 7


def test_without_probabilities_and_with_a_text_that_it_will_not_answer(tmp_path):
    endpoint = Endpoint(lambda n, text: (400, {}) if text.endswith(" 7") else "TIME", logprobs=False)
    with endpoint.running() as url:
        lines = ask(url, tmp_path, TEXTS)
        assert ask(url, tmp_path, TEXTS) == lines
    assert {line["logprob"] for line in lines} == {None}
    assert [line["text"] for line in lines].count("") == 1 and lines[7]["ms"] is None
    assert len(endpoint.seen) == 13, "the first text twice, with and without the question for probabilities"


CHILD = """
from deshi.jobs.evidence.vendor import asking
from deshi.jobs.evidence.vendor.vendor import Vendor
from deshi.jobs.ledger import Ledger
from deshi.jobs.storage import Storage
texts = [f"where is the {{n}}" for n in range(200)]
with Vendor({url!r}, model="words-1") as vendor:
    asking.ask(vendor, texts, {labels}, Ledger(Storage({folder!r}), "asked.jsonl"), at_once=4, say=print)
"""


def test_a_killed_run_asks_nothing_twice_but_what_was_under_way(tmp_path):
    endpoint = Endpoint(lambda n, text: time.sleep(0.02) or "TIME")
    texts = [f"where is the {n}" for n in range(200)]
    with endpoint.running() as url:
        code = CHILD.format(url=url, folder=str(tmp_path), labels=LABELS)
        child = subprocess.Popen([sys.executable, "-c", code])
        while len(endpoint.seen) < 40 and child.poll() is None:
            time.sleep(0.02)
        assert child.poll() is None, "killed before it was done"
        child.send_signal(signal.SIGKILL)
        child.wait()
        lines = ask(url, tmp_path, texts)
    assert len(lines) == 200 and {line["text"] for line in lines} == {"TIME"}
    assert set(endpoint.texts()) == set(texts)
    assert 200 <= len(endpoint.seen) <= 204


@pytest.mark.parametrize(
    ("url", "options", "words"),
    [
        ("http://vendor.example/v1", {}, "unencrypted; give an https URL"),
        ("ftp://vendor.example/v1", {}, "is no URL to ask"),
        ("https://me:secret@vendor.example/v1", {}, "more than host, port and path"),
        ("https://vendor.example/v1?key=secret", {}, "more than host, port and path"),
        ("https://vendor.example/v1", {"model": None}, "give --model NAME"),
        ("https://vendor.example/v1", {"price_per_1000": -1.0}, "-1.0 is no price"),
        ("https://vendor.example/v1", {"at_once": 0}, "--concurrency 0 is not from 1 to 64"),
        ("https://vendor.example/v1", {"key_variable": "NO_SUCH_KEY"}, "NO_SUCH_KEY: no such environment variable"),
        ("http://127.0.0.1:9/v1", {}, "cannot be reached"),
    ],
)
def test_refused_before_any_work(tmp_path, monkeypatch, url, options, words):
    monkeypatch.setattr(judge, "judgement", lambda *a, **k: pytest.fail("work was begun"))
    with pytest.raises(ValueError, match=words) as refused:
        judge_url.run(url, recipe_file(tmp_path), **({"model": "words-1", "at_once": 4} | options))
    assert "\n" not in str(refused.value) and "secret" not in str(refused.value)


def test_a_wrong_key_and_an_unknown_model_are_refused_without_the_key(tmp_path, monkeypatch):
    monkeypatch.setattr(judge, "judgement", lambda *a, **k: pytest.fail("work was begun"))
    monkeypatch.setenv("VENDOR_KEY", KEY)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    recipe = recipe_file(tmp_path)
    with Endpoint(key="right").running() as url:
        for variable in ("VENDOR_KEY", None):
            with pytest.raises(ValueError, match="answers 401: it wants a key") as refused:
                judge_url.run(url, recipe, model="words-1", at_once=4, key_variable=variable)
            assert KEY not in str(refused.value)
    with Endpoint(key=KEY).running() as url:
        with pytest.raises(ValueError, match=r"--model 'words-2' is not served at .*; use one of words-1"):
            judge_url.run(url, recipe, model="words-2", at_once=4, key_variable="VENDOR_KEY")
        with pytest.raises(ValueError, match="task generate is judged by KL and perplexity"):
            judge_url.run(
                url, recipe_file(tmp_path, task="generate"), model="words-1", at_once=4, key_variable="VENDOR_KEY"
            )
    silent = Endpoint()
    with silent.running() as url, pytest.raises(ValueError, match="is no list of models"):
        silent.app.router.routes.pop(-2)
        silent.app.get("/v1/models")(lambda: "hello")
        judge_url.run(url, recipe_file(tmp_path), model="words-1", at_once=4)


def recipe_file(folder: Path, *, task: str = "classify") -> Path:
    asked = {"name": "tiny", "storage": str(folder / "runs"), "task": task, "teacher": {"model": "teacher"}, "kpi": {}}
    asked |= {"data": {"train": "a.csv", "test": "b.csv", "max_length": 32}}
    asked |= {"targets": [{"name": "onprem", "threads": 1, "price_per_hour": 1}]}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(asked))
    return folder / "recipe.yaml"


@pytest.fixture
def ground(tiny_model, tiny_rows, tmp_path, monkeypatch) -> judge.Judgement:
    """What `judge.judgement` yields, with a tiny teacher whose speed is INVENTED: none is measured here."""
    recipe = Recipe(
        name="tiny-words-1",
        storage=str(tmp_path / "runs"),
        data={"train": "train.csv", "test": "test.csv", "max_length": 32},
        teacher={"model": "teacher"},
        targets=[{"name": "onprem", "threads": 1, "price_per_hour": 10, "memory_mb": 512, "rtt_ms": 5}],
        business={
            "requests_per_month": 500_000,
            "error_cost": {a: {b: 2 + (b == "TIME") for b in LABELS if b != a} for a in LABELS},
            "today": {"price_per_1000": 40},
        },
        kpi={
            "quality": {"max_drop": 0.1},
            "latency_ms_p95": {"onprem": 2000},
            "size_mb": 10,
            "cost_per_1000": {"onprem": 30},
        },
    )
    storage = Storage(recipe.storage)
    rows = split_rows(tiny_rows(60, seed=1, unlabelled=120), tiny_rows(80, seed=2), seed=0)
    splits = storage.stage("splits", {}, rows.write)
    teacher = storage.stage("teacher", {}, lambda out: tiny_model(out / "model", labels=3, layers=2))
    lesson = Lesson(recipe=recipe, storage=storage, splits_key=splits.key, precision="fp32", teacher_key=teacher.key)
    beside = served(lesson)
    monkeypatch.setattr(judge.Judgement, "others", lambda self, bench: (beside, []))
    with RunFolder.taken(recipe, storage) as folder:
        yield judge.Judgement(
            folder=folder, lesson=lesson, machine=SimpleNamespace(nodes=1), said=Progress(), live=None
        )


def served(lesson: Lesson) -> Contender:
    build, model = "onnxruntime-fp32", Output(key=lesson.teacher_key, storage=lesson.storage)

    def lay_out(out) -> None:
        made = builds.export(lesson, model, [build]).path
        for part in ("model", "engines"):
            (out / part).symlink_to(made / part)
        targets = {"onprem": ServedTarget(threads=1, builds=dict.fromkeys(SHAPE_CLASSES, build))}
        Serving(name="teacher", labels=lesson.splits.labels, max_length=32, targets=targets).write(out)

    folder = lesson.storage.stage("finalist", {}, lay_out)
    ms = Figure(value=1.0, unit="ms", n=9, low=0.9, high=1.1)
    latency = LatencyParts(p50=ms, p95=ms, engine_p95=ms, queue_p95=ms, http_p95=ms, network=ms)
    rate, size = Figure(value=50.0, unit="1/s", low=45.0, high=55.0), Figure(value=9.0, unit="MB")
    felt = Felt(latency=latency, throughput_rps=rate, memory_mb=size, startup_s=ms, energy_j=ms)
    row = LatencyRow(
        engine=build, shape="1x16", median_ms=1.0, low=0.9, high=1.1, n=9,
        ratio_to_reference=1.0, ratio_low=1.0, ratio_high=1.0,
    )  # fmt: skip
    return Contender(
        id="teacher",
        candidate=Candidate(order="quantize-only", layers=2, scheme="fp32"),
        finalist=Finalist(id="teacher", model=model, folder=folder, latency={"onprem": [row]}),
        felt={"onprem": felt},
    )


def published(at: judge.Judgement, url: str, *, price: float | None = 4.0) -> tuple[str, Evidence]:
    bench = SimpleNamespace(yardstick_key=at.lesson.teacher_key)
    with Vendor(url, model="words-1", key_variable="VENDOR_KEY") as vendor:
        told = judge_url.compared(at, vendor, bench, price=price, at_once=4, against=None)
    at.folder.publish_judged(told, at.lesson, bench)
    at.said.verdict(told.evidence, str(at.folder.path), None)
    return str(at.folder.path), told.evidence


def test_a_vendor_is_judged_as_a_folder_is(ground, monkeypatch, capsys):
    """Right by keyword but for two garbled answers, each a wrong one; told, verified, traced, not served."""
    monkeypatch.setenv("VENDOR_KEY", KEY)
    monkeypatch.setenv("OPENAI_ORG_ID", "another")
    garbled = set(ground.lesson.splits.test["text"].to_pylist()[:2])
    endpoint = Endpoint(lambda n, text: "I think: TIME" if text in garbled else by_keyword(text), key=KEY)
    with endpoint.running() as url:
        run, evidence = published(ground, url)
    assert {headers["authorization"] for headers, _ in endpoint.seen} == {f"Bearer {KEY}"}
    assert not any("openai-organization" in headers for headers, _ in endpoint.seen)
    truth = ground.lesson.splits.test["label"].to_pylist()
    n, chosen, teacher = len(truth), evidence.model_row("chosen"), evidence.model_row("teacher")
    assert chosen.quality.score.value == pytest.approx((n - 2) / n)
    assert chosen.quality.drop.value == pytest.approx(teacher.quality.score.value - (n - 2) / n)
    assert chosen.quality.measures["unmatched"].value == pytest.approx(2 / n)
    assert chosen.quality.calibration_error.value == pytest.approx(abs(0.95 - (n - 2) / n))
    assert (chosen.quality.kl.value, chosen.quality.kl.basis) == (None, "not measured")
    place = chosen.targets[0]
    assert place.latency.p95.n == n and 0 < place.latency.p50.value <= place.latency.p95.value
    assert (place.size_mb.value, place.throughput_rps, place.cost_per_1000.value) == (None, None, 4.0)
    limits = {row.name: (row.limit, row.verdict) for row in evidence.kpis}
    assert limits["cost_per_1000.onprem"] == (30, "PASS") and limits["drop"][1] == "PASS"
    assert limits["memory_mb.onprem"] == (None, "NO TARGET"), "nothing of it lies on the target"
    assert evidence.verdict.decision == "ACCEPT", evidence.verdict.reasons
    case = evidence.business[0]
    assert (case.monthly[0].today.value, case.monthly[0].new.value) == (pytest.approx(20_000), pytest.approx(2000))
    assert case.inference_saving_share.value == pytest.approx(0.9)
    assert {each.name for each in case.assumptions}.isdisjoint({"throughput_rps", "target.price_per_hour", "peak_rps"})
    worst = [3.0 if label != "TIME" else 2.0 for label in truth[:2]]  # the dearest error of the label
    assert evidence.risk.error_cost_per_1000.value == pytest.approx(1000 * sum(worst) / n)
    codes = {row.code for row in evidence.risk.ledger}
    assert {"vendor", "vendor_calibration", "confident_wrong", "explanations"} <= codes and "removed" not in codes

    hows = [
        evidence.how["asked"],
        *(f.how for f in vars(place).values() if isinstance(f, Figure)),
        place.latency.p95.how,
    ]
    hows += [place.latency.http_p95.how, chosen.quality.kl.how, chosen.quality.measures["unmatched"].how]
    hows += [chosen.quality.calibration_error.how, case.monthly[0].new.how]
    assert not [how for how in hows if recorded(how, "ja") == how], "the Japanese page has no English sentence"
    hourly = hourly_cost(ground.lesson.recipe, chosen)
    assert hourly.value == pytest.approx(4.0 * 500 / 730) and recorded(hourly.how, "ja") != hourly.how

    said = finished_run.verify(run)
    assert "a model behind a URL, so no release; verdict ACCEPT" in said
    for number in ("score", "drop", "agreement", "flips_to_wrong"):
        assert finished_run.traced(run, f"/models/0/quality/{number}").agrees is True
    assert finished_run.traced(run, "/models/0/quality/kl").agrees is None
    assert finished_run.traced(run, "/business/0/npv").agrees is True
    with pytest.raises(ValueError, match="judged a model behind a URL, so there is nothing here to serve"):
        finished_run.release_of(run)
    written = pq.read_table(Path(run) / "written-answers.parquet").to_pylist()
    assert [row["text"] for row in written[:2]] == ["I think: TIME"] * 2
    page = (Path(run) / "report.html").read_text()
    links = check(page, evidence)
    assert links.share == 1, links.missing
    assert "http://127.0.0.1" in page and "提供元のモデル" in page
    assert KEY not in capsys.readouterr().out
    for path in Path(run).iterdir():
        assert KEY.encode() not in path.read_bytes(), path
    with (Path(run) / "test-answers.parquet").open("ab") as file:
        file.write(b" ")
    with pytest.raises(ValueError, match=r"test-answers\.parquet is not the file"):
        finished_run.verify(run)


def test_garbage_alone_is_rejected_and_without_a_price_there_is_no_account(ground, monkeypatch):
    monkeypatch.setenv("VENDOR_KEY", KEY)
    endpoint = Endpoint(lambda n, text: "", logprobs=False)
    with endpoint.running() as url:
        run, evidence = published(ground, url, price=None)
    chosen = evidence.model_row("chosen")
    assert chosen.quality.score.value == 0 and chosen.quality.measures["unmatched"].value == 1
    assert chosen.quality.calibration_error.basis == "not measured" and evidence.risk.confident_wrong is None
    assert evidence.business == () and chosen.targets[0].cost_per_1000 is None
    limits = {row.name: row.verdict for row in evidence.kpis}
    assert limits["cost_per_1000.onprem"] == "INCONCLUSIVE" and limits["calibration_error"] == "NO TARGET"
    assert finished_run.traced(run, "/models/0/quality/drop").agrees is True
    from deshi.jobs.evidence.risk.changes import write_changes

    page = write_changes(run)
    assert "–" in page.read_text()
