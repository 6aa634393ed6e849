"""The main job, whole, on a small real recipe: verdict, release, report, resume after kills, refusals before work."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from deshi.jobs.evidence.schema import Evidence
from deshi.serve import release

pytestmark = [pytest.mark.timeout(900), pytest.mark.whole]

RECIPE = {
    "name": "tiny",
    "storage": "runs",
    "data": {"train": "train.parquet", "test": "test.parquet", "max_length": 32},
    "teacher": {"model": "teacher", "steps": 60, "learning_rate": 3.0e-3, "batch_size": 16},
    "student": {"layers": 2},
    "distill": {"steps": 12, "batch_size": 16, "learning_rate": 2.0e-3, "workers": 2, "checkpoint_every": 5},
    "search": {"trials": 5, "minutes": 5, "engines": ["onnxruntime", "static"], "orders": ["prune-distil-quantize"]},
    "resources": {"load_seconds": 2},
    "targets": [{"name": "edge", "threads": 1, "memory_mb": 512, "rtt_ms": 5, "price_per_hour": 3}],
    "kpi": {"quality": {"max_drop": 0.3}, "latency_ms_p95": {"edge": 500}},
}


def lay_out(folder: Path, tiny_rows: Callable, tiny_model: Callable) -> Path:
    tiny_model(folder / "teacher", labels=2)
    pq.write_table(tiny_rows(260, seed=1, unlabelled=200).drop_columns("row"), folder / "train.parquet")
    pq.write_table(tiny_rows(150, seed=2).drop_columns("row"), folder / "test.parquet")
    (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    return folder / "recipe.yaml"


def deshi(folder: Path, *words: str) -> subprocess.Popen:
    env = os.environ | {"DESHI_HOME": str(folder / "home"), "RAY_AUTH_MODE": "disabled", "COLUMNS": "160"}
    return subprocess.Popen(
        [sys.executable, "-m", "deshi.jobs.cli", *words],
        env=env,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finished(process: subprocess.Popen, *, within: float = 600) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=within)
    return process.returncode, out, err


@pytest.fixture(scope="module")
def whole(tmp_path_factory, tiny_rows, tiny_model) -> tuple[Path, str]:
    """One unbroken run."""
    folder = tmp_path_factory.mktemp("whole")
    lay_out(folder, tiny_rows, tiny_model)
    code, out, err = finished(deshi(folder, "poc", "recipe.yaml"))
    assert code == 0, err[-4000:]
    return folder, out


def test_it_ends_with_a_verdict_and_says_what_to_type_next(whole):
    folder, out = whole
    evidence = Evidence.model_validate_json((folder / "runs/tiny/evidence.json").read_text())
    assert out.strip().startswith(evidence.verdict.decision)
    for word in ("deshi serve", "deshi report", "deshi verify"):
        assert f"{word} {folder / 'runs/tiny'}" in out.replace("\n", "")


def test_every_model_of_the_comparison_is_in_the_evidence(whole):
    evidence = Evidence.model_validate_json((whole[0] / "runs/tiny/evidence.json").read_text())
    found = {row.id for row in evidence.models}
    assert {"chosen", "teacher", "undistilled-pretrained", "undistilled-teacher", "static"} <= found | {"quantize-only"}
    assert len({row.quality.score.n for row in evidence.models}) == 1, "all models answer the same test rows"
    assert evidence.data.rows["test"] == 150
    assert len(evidence.front) >= 4
    assert len(pq.read_table(whole[0] / "runs/tiny/trials.parquet")) == 5


def test_the_drop_is_what_the_rows_say(whole):
    """Recomputed from the released engine and the teacher's build, outside the code that wrote the evidence."""
    from deshi.jobs.data.split import Splits
    from deshi.serve.classifier import Classifier

    folder = whole[0]
    evidence = Evidence.model_validate_json((folder / "runs/tiny/evidence.json").read_text())
    test = Splits.read(next((folder / "runs").glob("splits-*"))).table("test")
    model = Classifier.load(folder / "runs/tiny/release")
    answers = [model.labels[row.argmax()] for row in model.log_probabilities(test["text"].to_pylist())]
    right = sum(mine == label for mine, label in zip(answers, test["label"].to_pylist(), strict=True))
    chosen, teacher = evidence.model_row("chosen"), evidence.model_row("teacher")
    assert chosen is not None and teacher is not None and chosen.quality.drop is not None
    assert chosen.quality.score.value == pytest.approx(right / 150)
    assert chosen.quality.drop.value == pytest.approx((teacher.quality.score.value or 0) - right / 150)


def test_verify_names_the_first_file_that_differs(whole, tmp_path):
    folder = whole[0]
    assert finished(deshi(folder, "verify", "runs/tiny"))[0] == 0
    engine = next((folder / "runs/tiny/release").rglob("*.safetensors"))
    content = engine.read_bytes()
    engine.chmod(0o644)
    engine.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    try:
        code, _, err = finished(deshi(folder, "verify", "runs/tiny"))
        assert code == 2 and engine.name in err, err
    finally:
        engine.write_bytes(content)


def test_the_report_is_written_in_both_languages(whole):
    folder = whole[0]
    assert "判定" in (folder / "runs/tiny/report.html").read_text()
    code, out, _ = finished(deshi(folder, "report", "runs/tiny", "--lang", "ja", "--out", "out/page.html"))
    assert code == 0 and (folder / "out/page.html").is_file(), out


def test_running_it_again_does_nothing_twice(whole):
    folder = whole[0]
    before = {path.name: path.stat().st_mtime_ns for path in (folder / "runs").glob("*-*/stage.json")}
    stages = {path.parent.name for path in (folder / "runs").glob("*-*/stage.json")}
    first = Evidence.model_validate_json((folder / "runs/tiny/evidence.json").read_text())
    code, _, err = finished(deshi(folder, "poc", "recipe.yaml"))
    assert code == 0, err[-3000:]
    again = Evidence.model_validate_json((folder / "runs/tiny/evidence.json").read_text())
    assert {path.parent.name for path in (folder / "runs").glob("*-*/stage.json")} == stages
    assert {path.name: path.stat().st_mtime_ns for path in (folder / "runs").glob("*-*/stage.json")} == before
    assert again.models == first.models and again.verdict == first.verdict and again.front == first.front


def test_a_run_killed_at_three_moments_finishes_with_the_same_students(whole, tmp_path_factory, tiny_rows, tiny_model):
    """SIGKILL of the driver while it trains the teacher, while it searches, and while it measures endpoints."""
    folder = tmp_path_factory.mktemp("killed")
    lay_out(folder, tiny_rows, tiny_model)
    runs = folder / "runs"
    moments: tuple[Callable[[], bool], ...] = (
        lambda: bool(list(runs.glob(".work/teacher-*/step-*/sealed.json"))),
        lambda: sum(len(path.read_text().splitlines()) for path in runs.glob("tiny/trials-*.jsonl")) >= 3,
        lambda: bool(list(runs.glob("felt-*/stage.json"))),
    )
    kept: list[list[str]] = []
    for moment in moments:
        process = deshi(folder, "poc", "recipe.yaml")
        deadline = time.monotonic() + 240
        while not moment() and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.05)
        assert moment(), "the moment to kill never came"
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        kept.append([line for path in runs.glob("tiny/trials-*.jsonl") for line in path.read_text().splitlines()])
    code, _, err = finished(deshi(folder, "poc", "recipe.yaml"))
    assert code == 0, err[-3000:]
    lines = [line for path in runs.glob("tiny/trials-*.jsonl") for line in path.read_text().splitlines()]
    assert lines[: len(kept[-1])] == kept[-1], "finished trials are not run again"
    assert len({json.loads(line)["id"] for line in lines}) == len(lines) == 5
    unbroken = [json.loads(line) for path in (whole[0] / "runs").glob("tiny/trials-*.jsonl") for line in path.open()]
    assert {json.loads(line)["id"] for line in lines} == {line["id"] for line in unbroken}
    by_id = {line["id"]: line for line in unbroken}
    for line in map(json.loads, lines):
        assert (line["score"], line["agreement"]) == (by_id[line["id"]]["score"], by_id[line["id"]]["agreement"])
    assert not list((runs / ".partial").glob("*")), "nothing half-written is left"
    release.verify(release.find(runs / "tiny/release") or folder)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"serach": {}}, "unknown key 'serach'"),
        ({"data": {**RECIPE["data"], "label": "colour"}}, "colour"),
        ({"data": {**RECIPE["data"], "test": "train.parquet"}}, "train"),
        ({"search": {"engines": ["abacus"]}}, "abacus"),
        ({"distill": {"loss": "hinge"}}, "distill.loss = 'hinge' is no row of its table"),
        ({"storage": "/proc/nowhere"}, "cannot be written"),
        ({"teacher": {"model": "pickled"}}, "pytorch_model.bin"),
    ],
)
def test_bad_input_is_refused_in_one_sentence_before_any_work(tmp_path, tiny_rows, tiny_model, change, sentence):
    path = lay_out(tmp_path, tiny_rows, tiny_model)
    (tmp_path / "pickled").mkdir()
    for file in (tmp_path / "teacher").iterdir():
        (tmp_path / "pickled" / file.name).write_bytes(file.read_bytes())
    (tmp_path / "pickled/pytorch_model.bin").write_bytes(b"\x80\x04N.")
    path.write_text(yaml.safe_dump(RECIPE | change))
    code, out, err = finished(deshi(tmp_path, "poc", "recipe.yaml"), within=120)
    assert code == 2 and out == ""
    said = [line for line in err.splitlines() if line.startswith("deshi: ")]
    assert len(said) == 1 and sentence in said[0], err[-2000:]
    assert not list(tmp_path.glob("runs/tiny/release*")) and not list(tmp_path.glob("runs/teacher-*"))
