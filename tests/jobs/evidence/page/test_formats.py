"""The report as Markdown, workbook and JSON: the same words, and the evidence's own numbers."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import openpyxl
import pytest

from deshi.jobs.evidence.page import formats
from deshi.jobs.evidence.page.pointers import resolve
from deshi.jobs.evidence.schema import Verdict

build_evidence = runpy.run_path(str(Path(__file__).parents[1] / "evidence_fixture.py"))["build_evidence"]


@pytest.fixture
def source(tmp_path) -> Path:
    path = tmp_path / "evidence.json"
    path.write_text(build_evidence(name="=1+1").model_dump_json(), encoding="utf-8")
    return path


def test_the_workbook_holds_the_numbers_unrounded_each_beside_its_entry(source, tmp_path):
    document = json.loads(source.read_text(encoding="utf-8"))
    book = openpyxl.load_workbook(formats.write(source, tmp_path / "out", "ja", "xlsx"))
    assert book.sheetnames == ["KPI一覧", "モデル", "費用と効果", "リスク", "前提"]
    seen = 0
    for sheet in book:
        head, *rows = sheet.iter_rows(values_only=True)
        value, entry = head.index("値"), head.index("evidence.json の位置")
        for row in rows:
            if row[entry]:
                found = resolve(document, row[entry])
                told = found["value"] if isinstance(found, dict) else found
                assert row[value] == (told if told is None else pytest.approx(told, rel=1e-15)), row[entry]
                seen += 1
    assert seen > 250


def test_a_word_never_becomes_a_formula(tmp_path):
    evidence = build_evidence()
    case = evidence.business[0].model_copy(update={"target": "=HYPERLINK(1)\x07"})
    path = tmp_path / "evidence.json"
    path.write_text(build_evidence(business=(case,)).model_dump_json(), encoding="utf-8")
    book = openpyxl.load_workbook(formats.write(path, tmp_path, "en", "xlsx"))
    cells = [cell for sheet in book for row in sheet.iter_rows() for cell in row if "HYPERLINK" in str(cell.value)]
    assert cells and all(cell.data_type == "s" and cell.value == "=HYPERLINK(1)" for cell in cells)


@pytest.mark.parametrize("lang", ["ja", "en"])
def test_markdown_says_what_the_first_screen_says(source, tmp_path, lang):
    told = formats.write(source, tmp_path / "report.md", lang, "md").read_text(encoding="utf-8")
    for words in {
        "ja": (
            "判定: 採用 (ACCEPT)",
            "## PoCで推論コストを何%削減できるか",
            "57.1% （52.8 〜 61.4）",
            "## リスクと対策",
        ),
        "en": ("Verdict: Accept", "## A road map", "57.1% (52.8 to 61.4)", "deshi serve runs/=1+1 --target onprem"),
    }[lang]:
        assert words in told
    assert "<" not in told.replace("<storage>", "") and "&#" not in told
    rows = [line for line in told.splitlines() if line.startswith("|")]
    assert len(rows) > 30 and len({line.count("|") for line in rows}) <= 3
    assert "\n\n\n" not in told


def test_json_is_the_evidence_itself_and_html_the_page(source, tmp_path):
    assert formats.write(source, tmp_path / "x", "en", "json").read_bytes() == source.read_bytes()
    assert formats.write(source, tmp_path / "x", "en", "html").name == "report.html"
    with pytest.raises(ValueError, match="'pdf' is not known; use one of html, md, json, xlsx"):
        formats.write(source, tmp_path / "y", "en", "pdf")
    assert not (tmp_path / "y").exists()


def test_an_evidence_without_account_and_risk_has_all_forms_too(tmp_path):
    path = tmp_path / "evidence.json"
    verdict = Verdict(decision="REJECT", reasons=())
    path.write_text(build_evidence(business=(), risk=None, models=(), verdict=verdict).model_dump_json(), "utf-8")
    for form in formats.FORMATS:
        assert formats.write(path, tmp_path, "ja", form).stat().st_size > 1000
