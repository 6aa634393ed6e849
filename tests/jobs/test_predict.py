"""`deshi predict`: the answers are the release's own, every row and column is kept, nothing half-written is seen."""

from __future__ import annotations

import asyncio
import csv
import json
import runpy
import shutil
from contextlib import aclosing
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
import ray
from typer.testing import CliRunner

from deshi.jobs import predict as predicting
from deshi.jobs.cli import app
from deshi.jobs.predict import Predicted, predict
from deshi.jobs.predict_actor import turns_of
from deshi.serve import generate_service, release
from deshi.serve.classifier import Classifier
from deshi.serve.engines.generation import GenerationParams
from deshi.serve.kpi import Kpi, Target
from deshi.serve.release import Manifest

SERVED = runpy.run_path(str(Path(__file__).parents[1] / "serve" / "conftest.py"))
DEFAULTS = {"column": None, "target": None, "max_tokens": 8, "despite_verdict": False}
MANIFEST = Manifest(
    name="tiny",
    created="2026-11-27T00:00:00Z",
    decision="ACCEPT",
    kpi=Kpi(),
    targets=(Target(name="onprem", threads=1, price_per_hour=1),),
)


@pytest.fixture(scope="module", autouse=True)
def small_ray():
    """Two CPUs and the one that is left over, without a dashboard: `connect` finds it and starts nothing."""
    ray.init(num_cpus=3, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run of a classifier whose recipe calls the text `question`; its onprem build is static, its edge one ONNX."""
    folder = tmp_path_factory.mktemp("run")
    SERVED["_write_candidate"](folder / "candidate")
    release.write(folder / "candidate", folder / "release", MANIFEST)
    (folder / "evidence.json").write_text(json.dumps({"recipe": {"data": {"text": "question"}}}))
    return folder


def questions(count: int) -> pa.Table:
    rng = np.random.default_rng(0)
    words = [" ".join(rng.choice(["who", "where", "when", "what"], rng.integers(1, 12))) for _ in range(count)]
    words[3], words[7] = "", None
    return pa.table(
        {"id": pa.array(range(count), pa.int32()), "question": words, "day": [None, "monday"] * (count // 2)}
    )


def read(folder: Path) -> pa.Table:
    return ds.dataset(sorted(folder.glob("*.parquet"))).to_table()


def test_the_answers_are_the_classifiers(run, tmp_path):
    table = questions(1500)
    (tmp_path / "in").mkdir()
    for part in range(3):
        pq.write_table(table.slice(500 * part, 500), tmp_path / "in" / f"{part}.parquet", row_group_size=150)
    (tmp_path / "in" / "_SUCCESS").touch()
    made = predict(str(run), str(tmp_path / "in"), str(tmp_path / "out"), **DEFAULTS | {"target": "edge"})
    assert made == Predicted(place=str(tmp_path / "out"), rows=1500, unanswered=2)

    got = read(tmp_path / "out")
    assert got.select(table.column_names).equals(table), "every column and row, in the order of the files"
    asked = [text for text in table["question"].to_pylist() if text]
    classifier = Classifier.load(run / "release", "edge")
    said = np.exp(classifier.log_probabilities(asked))
    answered = got.filter(pa.compute.is_valid(got["answer"]))
    assert answered["answer"].to_pylist() == [classifier.labels[best] for best in said.argmax(1)]
    assert np.allclose(answered["confidence"].to_numpy(), said.max(1), atol=1e-6)
    assert got["answer"][3].as_py() is None and got["confidence"][7].as_py() is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]


def test_csv_and_jsonl_are_read_as_they_stand(run, tmp_path):
    rows = [("007", "who\nwhere who", "1.0"), ("008", "when", "")]
    with (tmp_path / "in.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("id", "text", "score"), *rows])
    assert predict(str(run), str(tmp_path / "in.csv"), str(tmp_path / "a"), **DEFAULTS | {"column": "text"}).rows == 2
    got = read(tmp_path / "a")
    assert [tuple(row.values())[:3] for row in got.to_pylist()] == rows
    assert got["answer"].to_pylist() == ["PERSON", "TIME"]
    lines = [json.dumps({"question": text, "n": number}) for number, (_, text, _) in enumerate(rows)]
    (tmp_path / "in.jsonl").write_text("\n".join(lines))
    predict(str(run), str(tmp_path / "in.jsonl"), str(tmp_path / "b"), **DEFAULTS)
    assert read(tmp_path / "b").select(["n", "answer"]).to_pydict() == {"n": [0, 1], "answer": ["PERSON", "TIME"]}


def test_a_language_model_writes_what_its_endpoint_writes(tmp_path_factory, tmp_path):
    from deshi.jobs.exporters.gguf import export

    folder = tmp_path_factory.mktemp("parrot")
    SERVED["write_parrot"](folder)
    build = folder / "engines" / "llamacpp-f16"
    build.mkdir(parents=True)
    export(folder / "model", build, scheme="f16")
    serving = {"name": "parrot", "task": "generate", "max_length": 64,
               "targets": {"here": {"threads": 1, "slots": 2, "builds": {"all": "llamacpp-f16"}}}}  # fmt: skip
    (folder / "serving.json").write_text(json.dumps(serving))
    asked = ("where is the train", "the station " * 40, "is it the train.")
    talks = [[{"role": "user", "content": words}] for words in asked]
    talks[0].append({"role": "assistant", "content": "here"})
    pq.write_table(pa.table({"messages": talks}), tmp_path / "in.parquet")
    made = predict(str(folder), str(tmp_path / "in.parquet"), str(tmp_path / "out"), **DEFAULTS)
    assert (made.rows, made.unanswered) == (3, 1), "one is longer than the context"

    got = read(tmp_path / "out").to_pylist()
    assert [row["messages"] for row in got] == talks
    service = generate_service.opened(folder, target=None)

    async def endpoint(messages) -> tuple[str, str | None]:
        params = GenerationParams(max_tokens=8, temperature=0.0)
        async with aclosing(service.engine.submit(service.prompts.of_chat(messages), params)) as steps:
            told = [step async for step in steps]
        return "".join(step.text for step in told), told[-1].finish_reason

    for number in (0, 2):
        assert (got[number]["completion"], got[number]["finish_reason"]) == asyncio.run(endpoint(talks[number][:1]))
    assert got[0]["completion"].startswith("Hey") and got[1]["completion"] is got[1]["finish_reason"] is None
    service.engine.close()


def test_what_the_assistant_said_last_is_what_is_asked_for():
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    assert turns_of([*turns, *turns]) == [*turns, turns[0]] and turns_of(turns[1:]) == turns_of(None) == []


REFUSED = {
    "no column": ({"text": ["who"]}, {}, "no column 'question'; it has 'text'"),
    "clash": ({"question": ["who"], "answer": ["x"]}, {}, "has a column 'answer'"),
    "not text": ({"question": [1]}, {}, "holds int64; texts are answered"),
    "no rows": ({"question": pa.array([], pa.string())}, {}, "holds no rows"),
    "target": ({"question": ["who"]}, {"target": "moon"}, "target 'moon' is not in this release"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_refusal_leaves_nothing(run, tmp_path, case):
    columns, changed, message = REFUSED[case]
    pq.write_table(pa.table(columns), tmp_path / "in.parquet")
    with pytest.raises(ValueError, match=message):
        predict(str(run), str(tmp_path / "in.parquet"), str(tmp_path / "out"), **DEFAULTS | changed)
    assert [path.name for path in tmp_path.iterdir()] == ["in.parquet"]


def test_a_run_that_fails_leaves_nothing(run, tmp_path, monkeypatch):
    pq.write_table(questions(20), tmp_path / "in.parquet")

    def dies(*told: object) -> None:
        (Path(str(told[-1])) / "0.parquet").write_bytes(b"half")
        raise RuntimeError("killed")

    monkeypatch.setattr(predicting, "_answer", dies)
    with pytest.raises(RuntimeError, match="killed"):
        predict(str(run), str(tmp_path / "in.parquet"), str(tmp_path / "out"), **DEFAULTS)
    assert [path.name for path in tmp_path.iterdir()] == ["in.parquet"]


def test_files_and_releases_that_may_not_be_used(run, tmp_path, monkeypatch):
    def refused(message: str, source: str = "in", out: str = "out", folder: Path = run, **changed: object) -> None:
        with pytest.raises(ValueError, match=message):
            predict(str(folder), str(tmp_path / source), str(tmp_path / out), **DEFAULTS | changed)

    refused("in does not exist", source="in")
    (tmp_path / "in").mkdir()
    refused("in holds nothing")
    pq.write_table(questions(8), tmp_path / "in" / "a.parquet")
    refused("in exists; remove it", out="in")
    (tmp_path / "in" / "b.csv").write_text("question\nwho\n")
    refused("holds .csv and .parquet")
    for decision, name, message in (
        ("REJECT", "rejected", "was judged REJECT"),
        ("ACCEPT", "changed", "differs from its"),
    ):
        other = tmp_path / name
        shutil.copytree(run / "candidate", other / "candidate")
        release.write(other / "candidate", other / "release", MANIFEST.model_copy(update={"decision": decision}))
        if decision == "ACCEPT":
            (other / "release" / "model" / "config.json").write_text("{}")
        refused(message, source="in/a.parquet", folder=other)
    monkeypatch.setattr(
        predicting, "_answer", lambda *told: pq.write_table(pa.table({"answer": ["x", None]}), f"{told[-1]}/0")
    )
    arguments = [str(tmp_path / "rejected"), str(tmp_path / "in" / "a.parquet"), "-o", str(tmp_path / "out")]
    told = CliRunner().invoke(app, ["predict", *arguments, "--despite-verdict", "--column", "question"])
    assert told.exit_code == 0 and "2 rows, 1 of them without an answer" in told.stdout, told.output
