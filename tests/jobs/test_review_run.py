"""A run's people: sheets from a run folder as `publish` leaves it, answers into review.json, refusals that keep it."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from deshi.jobs import finished_run, review_run
from deshi.jobs.cli import app
from deshi.jobs.data.split import split_rows, table_fingerprint
from deshi.jobs.evidence.answered import Answered, written_together
from deshi.jobs.evidence.page import link_check, report
from deshi.jobs.evidence.people.review_schema import KEY_FILE, REVIEW_FILE, Review, ReviewKey
from deshi.jobs.evidence.text.written_answers import WrittenAnswer
from deshi.jobs.evidence.text.written_answers import table as written_table
from deshi.jobs.storage import Storage, file_digest
from deshi.serve import release
from deshi.serve.kpi import Kpi, Target
from deshi.serve.release import Manifest
from deshi.serve.serving import Serving

beside = Path(__file__).parent / "evidence"
build_evidence = runpy.run_path(str(beside / "evidence_fixture.py"))["build_evidence"]
sheets = runpy.run_path(str(beside / "review_fixture.py"))


def _released(folder, evidence, splits_key, files) -> Path:
    """A run folder with a release of two stand-in files and everything that it was judged by."""
    folder.mkdir(parents=True)
    (folder / "evidence.json").write_text(evidence.model_dump_json(), encoding="utf-8")
    (folder / "trials.parquet").write_bytes(b"trials")
    for name, table in files.items():
        pq.write_table(table, folder / name)
    served = folder.parent / "served"
    (served / "model").mkdir(parents=True)
    (served / "model" / "tokenizer.json").write_text("{}", encoding="utf-8")
    (served / "engines" / "static-fp32").mkdir(parents=True)
    (served / "engines" / "static-fp32" / "model.txt").write_text("engine", encoding="utf-8")
    target = {"threads": 1, "builds": dict.fromkeys(("1x16", "1x128", "32x16", "32x128"), "static-fp32")}
    serving = {"name": "trec", "labels": ["a", "b"], "max_length": 8, "targets": {"edge": target}}
    Serving.model_validate(serving).write(served)
    judged = {what: name for what, name in finished_run.JUDGED_BY.items() if (folder / name).is_file()}
    manifest = Manifest(
        name="trec",
        created="2026-11-24T00:00:00Z",
        decision="ACCEPT",
        kpi=Kpi(),
        targets=(Target(name="edge", threads=1, price_per_hour=1),),
        lineage={"splits": splits_key} | {what: file_digest(folder / name) for what, name in judged.items()},
    )
    release.write(served, folder / "release", manifest)
    return folder


@pytest.fixture
def run(tmp_path, tiny_rows) -> Path:
    """A classifier's run with 60 test rows, on each sixth of which the student differs from the teacher."""
    rows = split_rows(tiny_rows(240, seed=1, unlabelled=200), tiny_rows(60, seed=2), seed=0)
    splits = Storage(str(tmp_path / "runs")).stage("splits", {}, rows.write)
    labels = rows.test["label"].to_pylist()
    other = {label: next(each for each in sorted(set(labels)) if each != label) for label in labels}
    answers = {
        "chosen": [other[label] if row % 6 == 0 else label for row, label in enumerate(labels)],
        "teacher": labels,
        "static": [other[label] for label in labels],
    }
    answered = pa.table(
        {
            "model": [model for model, said in answers.items() for _ in said],
            "row": list(range(60)) * 3,
            "answer": [answer for said in answers.values() for answer in said],
        }
    )
    evidence = build_evidence(data=rows.facts())
    return _released(tmp_path / "runs" / "trec", evidence, splits.key, {"test-answers.parquet": answered})


def _filled(run: Path, name: str, **said: object) -> Path:
    """The sheet of a run, filled in alike for all items; a CSV or a workbook by its name."""
    key = ReviewKey.model_validate_json((run / KEY_FILE).read_text(encoding="utf-8"))
    fill = sheets["saved_csv" if name.endswith(".csv") else "filled_workbook"]
    return fill(
        run.parent / name, sheets["pairs_of"](60, range(0, 60, 6)), key, name, sheets["everything"](key, **said)
    )


def test_a_review_from_the_command_line_reaches_the_report(run):
    cli = CliRunner()
    for arguments in (
        ["review", str(run), "--rows", "16"],
        ["review", "--rows", "16", str(run), "--out", str(run / "x")],
    ):
        told = cli.invoke(app, arguments)
        assert told.exit_code == 0, told.output
    key = ReviewKey.model_validate_json((run / KEY_FILE).read_text(encoding="utf-8"))
    assert sum(item.differs for item in key.items) == 8 and key.rows_differing == 10
    assert key.release == file_digest(run / "release" / "manifest.json")
    assert (run / "review.html").read_bytes() == (run / "x" / "review.html").read_bytes()
    page = (run / "review.html").read_text(encoding="utf-8")
    texts = pq.read_table(next(run.parent.glob("splits-*")) / "test.parquet")["text"].to_pylist()
    assert all(texts[item.row] in page for item in key.items)

    files = [_filled(run, "a.csv"), _filled(run, "b.xlsx", satisfaction_a=2)]
    told = cli.invoke(app, ["review", "import", str(run), *map(str, files)])
    assert told.exit_code == 0, told.output
    assert "2 raters, 16 items for 60 rows" in told.output and "satisfaction" in told.output
    found = Review.model_validate_json((run / REVIEW_FILE).read_text(encoding="utf-8"))
    assert found.release == key.release and len(found.ratings) == 32
    assert set(found.files) == {file_digest(path) for path in files}
    letters = [item.student for item in key.items if item.differs]
    student_a = letters.count("A") / len(letters)
    assert found.student.satisfaction.value == pytest.approx(10 / 60 * (4 - student_a) + 50 / 60 * (4 + 3) / 2)
    written = (run / "report.html").read_text(encoding="utf-8")
    figure = f'<data value="{found.student.satisfaction.value}" data-evidence="review.json#/student/satisfaction"'
    assert written.count(figure) == 2 and "まだ聞いていません" not in written
    links = link_check.check(written, report.read(run / "evidence.json"), found)
    assert not [missing for missing in links.missing if "review" in missing]
    assert finished_run.verify(str(run)).startswith(str(run))


def test_a_language_models_answers_are_what_it_wrote(tmp_path):
    said = [
        [{"role": "user", "content": f"ask {row}"}, {"role": "assistant", "content": f"gold {row}"}] for row in range(9)
    ]
    test = pa.table({"row": range(9), "text": [json.dumps(turns) for turns in said]})
    splits = Storage(str(tmp_path / "runs")).stage("splits", {}, lambda out: pq.write_table(test, out / "test.parquet"))
    rows = [(model, row, f"{word} {row}") for model, word in (("chosen", "s"), ("teacher", "t")) for row in range(8)]
    written = pa.table({name: [row[at] for row in rows] for at, name in enumerate(("model", "row", "text"))})
    evidence = build_evidence(task="generate")
    facts = evidence.data.model_copy(update={"fingerprints": {"test": table_fingerprint(test)}})
    recipe = evidence.recipe | {"data": {"format": "messages"}}
    evidence = evidence.model_copy(update={"data": facts, "recipe": recipe})
    files = {"test-answers.parquet": written, "written-answers.parquet": written}
    run = _released(tmp_path / "runs" / "chat", evidence, splits.key, files)
    page = review_run.write_sheets(str(run), rows=60, out=None)[0].read_text(encoding="utf-8")
    assert "user: ask 3" in page and "s 3" in page and "t 3" in page and "gold" not in page and "ask 8" not in page
    (run / "written-answers.parquet").unlink()
    with pytest.raises(ValueError, match=r"written-answers\.parquet is not the file that the release was judged by"):
        review_run.write_sheets(str(run), rows=60, out=None)


def test_what_models_wrote_stands_under_each_other_by_model():
    rows = pa.table({"row": [0]})
    wrote = [WrittenAnswer(row=4, text="yes", tokens=(1, 2), length=3, ended=True)]
    quality = build_evidence().models[1].quality
    models = {
        name: Answered(quality=quality, rows=rows, written=written_table(wrote)) for name in ("chosen", "teacher")
    }
    expected = {"row": 4, "text": "yes", "length": 3, "ended": True}
    assert written_together(models).to_pylist() == [{"model": "chosen"} | expected, {"model": "teacher"} | expected]
    assert written_together({"chosen": Answered(quality=quality, rows=rows)}) is None


@pytest.mark.parametrize("changed", ["release/engines/static-fp32/model.txt", "test-answers.parquet", "evidence.json"])
def test_a_run_that_does_not_verify_is_refused(run, changed):
    with (run / changed).open("ab") as file:
        file.write(b" ")
    with pytest.raises(ValueError, match=Path(changed).name):
        review_run.write_sheets(str(run), rows=16, out=None)
    assert not (run / KEY_FILE).exists() and not (run / "review.html").exists()


def test_the_key_to_sheets_that_are_out_is_not_lost(run):
    review_run.write_sheets(str(run), rows=16, out=None)
    before = (run / KEY_FILE).read_bytes()
    with pytest.raises(ValueError, match=r"16 other items of this release; ask for --rows 16"):
        review_run.write_sheets(str(run), rows=20, out=None)
    assert (run / KEY_FILE).read_bytes() == before
    with pytest.raises(ValueError, match="3 rows say nothing"):
        review_run.write_sheets(str(run), rows=3, out=None)


def test_a_refused_file_leaves_the_earlier_review_as_it_was(run):
    with pytest.raises(ValueError, match="write the sheets with `deshi review"):
        review_run.import_answers(str(run), [run / "a.csv"])
    review_run.write_sheets(str(run), rows=16, out=None)
    review_run.import_answers(str(run), [_filled(run, "a.csv")])
    before = (run / REVIEW_FILE).read_bytes()
    with pytest.raises(ValueError, match="'6' as 'satisfaction with A'"):
        review_run.import_answers(str(run), [_filled(run, "a.csv"), _filled(run, "b.xlsx", satisfaction_a=6)])
    assert (run / REVIEW_FILE).read_bytes() == before
    key = json.loads((run / KEY_FILE).read_text(encoding="utf-8"))
    (run / KEY_FILE).write_text(json.dumps(key | {"release": "cd34" * 16}), encoding="utf-8")
    with pytest.raises(ValueError, match="is the key to sheets of release cd34cd34cd34"):
        review_run.import_answers(str(run), [run.parent / "a.csv"])
    assert sorted(path.name for path in run.glob(".*review*")) == []
