"""`verify` recomputes a run down to its rows, and a run on a remote storage is fetched once for each state."""

from __future__ import annotations

import runpy
from pathlib import Path

import fsspec
import pytest

from deshi.jobs import finished_run
from deshi.jobs.data.split import split_rows
from deshi.jobs.storage import Output, Storage, file_digest
from deshi.serve import release
from deshi.serve.kpi import Kpi, Target
from deshi.serve.release import Manifest

build_evidence = runpy.run_path(str(Path(__file__).parent / "evidence" / "evidence_fixture.py"))["build_evidence"]


@pytest.fixture
def run(tmp_path, tiny_rows) -> tuple[Path, Output]:
    """A run folder and the splits beside it, laid out as `publish` does; the model is a stand-in of two files."""
    storage = Storage(str(tmp_path / "runs"))
    rows = split_rows(tiny_rows(240, seed=1, unlabelled=200), tiny_rows(60, seed=2), seed=0)
    splits = storage.stage("splits", {}, rows.write)
    folder = tmp_path / "runs" / "trec"
    folder.mkdir()
    evidence = build_evidence()
    evidence = evidence.model_copy(update={"data": rows.facts()})
    (folder / "evidence.json").write_text(evidence.model_dump_json(), encoding="utf-8")
    (folder / "trials.parquet").write_bytes(b"trials")
    (folder / "test-answers.parquet").write_bytes(b"answers")
    served = tmp_path / "served"
    (served / "model").mkdir(parents=True)
    (served / "model" / "tokenizer.json").write_text("{}", encoding="utf-8")
    target = {"threads": 1, "builds": dict.fromkeys(("1x16", "1x128", "32x16", "32x128"), "static-fp32")}
    (served / "engines" / "static-fp32").mkdir(parents=True)
    (served / "engines" / "static-fp32" / "model.txt").write_text("engine", encoding="utf-8")
    serving = {"name": "trec", "labels": ["a", "b"], "max_length": 8, "targets": {"edge": target}}
    from deshi.serve.serving import Serving

    Serving.model_validate(serving).write(served)
    manifest = Manifest(
        name="trec",
        created="2026-11-24T00:00:00Z",
        decision="ACCEPT",
        kpi=Kpi(),
        targets=(Target(name="edge", threads=1, price_per_hour=1),),
        lineage={
            "splits": splits.key,
            "teacher": "teacher-0123456789abcdef",
            "evidence": file_digest(folder / "evidence.json"),
            "trials": file_digest(folder / "trials.parquet"),
            "test_answers": file_digest(folder / "test-answers.parquet"),
        },
    )
    release.write(served, folder / "release", manifest)
    return folder, splits


def test_a_whole_run_is_verified_and_what_is_gone_is_said(run):
    folder, _ = run
    said = finished_run.verify(str(folder))
    assert (
        "verdict ACCEPT" in said and "1 of 2 outputs" in said and "not there any more: teacher-0123456789abcdef" in said
    )


def test_given_by_its_release_a_run_is_verified_down_to_the_same_rows(run):
    folder, _ = run
    assert "1 of 2 outputs" in finished_run.verify(str(folder / "release"))


@pytest.mark.parametrize("name", ["evidence.json", "trials.parquet", "release/engines/static-fp32/model.txt"])
def test_a_changed_file_is_named(run, name):
    folder, _ = run
    with (folder / name).open("a", encoding="utf-8") as file:
        file.write(" ")
    with pytest.raises(ValueError, match=Path(name).name):
        finished_run.verify(str(folder))


def test_a_report_is_made_only_from_the_evidence_that_a_release_was_judged_by(run):
    folder, _ = run
    (folder / "release").rename(folder / "release-reject-01234567")
    for place in (folder, folder / "release-reject-01234567"):
        assert finished_run.write_report(str(place), lang="ja", out=None) == str(folder / "report.html")
    (folder / "report.html").unlink()
    with (folder / "evidence.json").open("a", encoding="utf-8") as file:
        file.write(" ")
    for form in ("html", "md", "json", "xlsx"):
        with pytest.raises(ValueError, match="evidence that verifies only; run the recipe again"):
            finished_run.write_report(str(folder), lang="ja", out=None, form=form)
    assert not list(folder.glob("report*"))


def test_a_changed_source_is_named(run):
    folder, splits = run
    path = splits.path / "test.parquet"
    path.chmod(0o644)
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(ValueError, match=rf"{splits.key}/test\.parquet is not the file"):
        finished_run.verify(str(folder))


def test_a_remote_run_is_fetched_again_only_when_its_release_changed(run, monkeypatch, tmp_path):
    folder, _ = run
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    there = fsspec.filesystem("memory")
    there.put(str(folder.parent), "/bucket/runs", recursive=True)
    first = finished_run.release_of("memory://bucket/runs/trec")
    assert release.verify(first).decision == "ACCEPT"
    assert finished_run.release_of("memory://bucket/runs/trec") == first
    manifest = there.cat_file("/bucket/runs/trec/release/manifest.json")
    there.pipe_file("/bucket/runs/trec/release/manifest.json", manifest.replace(b"ACCEPT", b"REJECT"))
    assert finished_run.release_of("memory://bucket/runs/trec") != first
    with pytest.raises(ValueError, match="holds no release"):
        finished_run.release_of("memory://bucket/runs/other")
