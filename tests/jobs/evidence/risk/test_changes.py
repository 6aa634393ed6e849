"""The rows that changed, counted and written out; who may read them, and in which words."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from deshi.jobs import finished_run
from deshi.jobs.evidence.risk import changes
from deshi.jobs.evidence.risk.changes import LINES, PAGE, changed, counted, kind_of, write_changes

LABELS = ["a", "a", "b", "b", "c", "c"]
TAUGHT = ["a", "a", "a", "b", "b", "a"]
TOLD = ["a", "b", "b", "c", "a", "a"]
SURE = [0.9, 0.5, 0.7, 0.99, 0.6, 0.8]
TEXTS = ["zero", "one <b>", "two", "call 03-1234-5678", "four", "five"]


def answers(model: str, given: list[str]) -> pa.Table:
    return pa.table({"model": [model] * 6, "row": range(6), "label": LABELS, "answer": given, "confidence": SURE})


def test_kinds_are_told_from_who_was_right():
    kinds = [kind_of(*each) for each in zip(LABELS, TAUGHT, TOLD, strict=True)]
    assert kinds == [None, "to_wrong", "to_right", "to_wrong", "between_wrong", None]


def test_counts_and_rows():
    told, taught = answers("chosen", TOLD), answers("teacher", TAUGHT)
    assert counted(told, taught).model_dump() == {"rows": 6, "to_wrong": 2, "to_right": 1, "between_wrong": 1}
    rows = changed(told, taught, TEXTS, masked=True)
    assert [(row.row, row.kind) for row in rows] == (
        [(3, "to_wrong"), (1, "to_wrong"), (2, "to_right"), (4, "between_wrong")]
    )
    assert rows[0].text == "call [PHONE]"
    assert changed(told, taught, TEXTS, masked=False)[0].text == TEXTS[3]
    assert changed(taught, taught, TEXTS, masked=True) == []


@pytest.fixture
def run(tmp_path, monkeypatch) -> str:
    """A run's folder as `verified` would give it; what that verifies is its own test's."""
    folder = tmp_path / "trec"
    folder.mkdir()
    tables = [answers("chosen", TOLD), answers("teacher", TAUGHT), answers("static", TOLD)]
    pq.write_table(pa.concat_tables(tables), folder / finished_run.ANSWERS_FILE)
    pq.write_table(pa.table({"text": TEXTS}), tmp_path / "test.parquet")
    manifest = SimpleNamespace(name="trec & co", lineage={"splits": "splits-0"})
    storage = SimpleNamespace(fetch=lambda key: tmp_path)
    monkeypatch.setattr(changes, "verified", lambda run: (folder, manifest, storage))
    return str(folder)


@pytest.mark.parametrize("lang", ["ja", "en"])
def test_the_page_and_the_lines(run, tmp_path, lang):
    page = write_changes(run, lang=lang)
    assert page == tmp_path / "trec" / PAGE
    said = page.read_text(encoding="utf-8")
    assert f'<html lang="{lang}">' in said and "trec &amp; co" in said and "one &lt;b&gt;" in said
    assert "03-1234-5678" not in said and said.count("<tr class=") == 4
    assert not re.search(r"https?://|<script|<link", said)
    lines = [json.loads(line) for line in (tmp_path / "trec" / LINES).read_text(encoding="utf-8").splitlines()]
    assert lines[0] == {
        "row": 3,
        "kind": "to_wrong",
        "text": "call [PHONE]",
        "label": "b",
        "teacher": "b",
        "answer": "c",
        "confidence": 0.99,
    }
    assert len(lines) == 4
    assert all((tmp_path / "trec" / name).stat().st_mode & 0o077 == 0 for name in (PAGE, LINES))


def test_unmasked_says_so(run):
    masked, said = write_changes(run).read_text(), write_changes(run, unmasked=True).read_text()
    assert "03-1234-5678" in said and "not masked" in said and "not masked" not in masked


def test_a_language_model_is_refused(run, tmp_path):
    pq.write_table(pa.table({"model": ["chosen"], "nll": [1.0]}), tmp_path / "trec" / finished_run.ANSWERS_FILE)
    with pytest.raises(ValueError, match="is for classifiers"):
        write_changes(run)
    assert not (tmp_path / "trec" / PAGE).exists()
