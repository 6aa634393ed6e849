"""What is done with a finished run, by its user: trace, changes, predict, review, report, judge, and several PoCs."""

from __future__ import annotations

import json
import re
import runpy
import shutil
from pathlib import Path

import openpyxl
import pyarrow.parquet as pq
import pytest
import yaml

from deshi.jobs.evidence.page.link_check import check
from deshi.jobs.evidence.page.portfolio_schema import Portfolio
from deshi.jobs.evidence.schema import Evidence
from deshi.serve.classifier import Classifier

run = runpy.run_path(str(Path(__file__).with_name("test_poc.py")))
deshi, finished, lay_out, RECIPE = (run[name] for name in ("deshi", "finished", "lay_out", "RECIPE"))
pytestmark = [pytest.mark.timeout(900), pytest.mark.whole]
BUSINESS = {
    "requests_per_month": 1_000_000,
    "peak_rps": 5,
    "today": {"price_per_1000": 120},
    "migration": {"hours": {"plan": 16}, "hour_cost": 6000},
    "operation": {"hours_per_month": 2, "hour_cost": 6000},
    "error_cost": 2,
}


@pytest.fixture(scope="module")
def done(tmp_path_factory, tiny_rows, tiny_model) -> Path:
    """A finished run with an account, in `<folder>/runs/tiny`."""
    folder = tmp_path_factory.mktemp("done")
    path = lay_out(folder, tiny_rows, tiny_model)
    path.write_text(yaml.safe_dump(RECIPE | {"business": BUSINESS}))
    code, _, err = finished(deshi(folder, "poc", "recipe.yaml"))
    assert code == 0, err[-4000:]
    return folder


def _said(folder: Path, *words: str, code: int = 0) -> str:
    found, out, err = finished(deshi(folder, *words))
    assert found == code, (out + err)[-4000:]
    return out + err


def test_every_number_of_the_page_is_linked_and_any_is_traced(done):
    page = (done / "runs/tiny/report.html").read_text()
    evidence = Evidence.model_validate_json((done / "runs/tiny/evidence.json").read_text())
    told = check(page, evidence)
    assert told.total > 500 and told.share == 1, told.missing
    for pointer in ("/models/0/quality/drop", "/models/0/quality/score", "/business/0/npv"):
        assert re.search(rf'data-evidence="{pointer}"', page)
        assert "the same" in _said(done, "trace", "runs/tiny", pointer)
    assert "leads nowhere" in _said(done, "trace", "runs/tiny", "/models/77", code=2)


def test_the_account_and_the_ledger_are_in_the_evidence(done):
    evidence = Evidence.model_validate_json((done / "runs/tiny/evidence.json").read_text())
    (case,) = evidence.business
    assert case.npv.value is not None and case.sensitivities and evidence.risk is not None
    assert evidence.risk.error_cost_per_1000 is not None
    static = evidence.models[0].chain == ("static",)
    assert (evidence.risk.explanations is None) is static, "a static student has no layers for gradients to pass"
    assert {"one_seed", "people", "explanations"} <= {row.code for row in evidence.risk.ledger}


def test_a_report_in_a_workbook(done, tmp_path):
    _said(done, "report", "runs/tiny", "--format", "xlsx", "--out", str(tmp_path / "tiny.xlsx"))
    assert len(openpyxl.load_workbook(tmp_path / "tiny.xlsx").sheetnames) >= 4


def test_predict_answers_as_the_release_does(done):
    _said(done, "predict", "runs/tiny", "test.parquet", "-o", "answered", "--despite-verdict")
    rows = pq.read_table(done / "answered")
    model = Classifier.load(done / "runs/tiny/release")
    own = [model.labels[row.argmax()] for row in model.log_probabilities(rows["text"].to_pylist())]
    assert rows["answer"].to_pylist() == own


def test_sheets_are_handed_out_and_what_changed_is_listed(done):
    said = _said(done, "review", "runs/tiny", "--rows", "10")
    assert "review.html" in said and "review.xlsx" in said
    _said(done, "changes", "runs/tiny")
    lines = (done / "runs/tiny/changed-answers.jsonl").read_text().splitlines()
    told = Evidence.model_validate_json((done / "runs/tiny/evidence.json").read_text())
    assert told.risk is not None and told.risk.changed is not None
    changed = told.risk.changed
    assert len(lines) == changed.to_wrong + changed.to_right + changed.between_wrong


def test_a_model_of_others_is_judged_beside_the_live_release(done):
    """The teacher, given by a vendor: what it wins against the live release is what the answers say, row by row."""
    shutil.copytree(next((done / "runs").glob("teacher-*")) / "model", done / "vendor")
    said = _said(done, "judge", "vendor", "recipe.yaml", "--against", "runs/tiny")
    assert "deshi verify" in said
    told = Evidence.model_validate_json((done / "runs/tiny-vendor/evidence.json").read_text())
    assert {row.id for row in told.models} == {"chosen", "teacher", "live"}
    answers = pq.read_table(done / "runs/tiny-vendor/test-answers.parquet").to_pylist()
    right = {
        id: sum(row["answer"] == row["label"] for row in answers if row["model"] == id) for id in ("chosen", "live")
    }
    assert told.replacement is not None
    assert told.replacement.drop.value == pytest.approx((right["live"] - right["chosen"]) / 150)
    assert told.models[0].quality.drop is not None and abs(told.models[0].quality.drop.value or 0) < 0.02
    assert (told.replacement.decision == "replace") is (told.replacement.reason in ("cheaper", "better"))
    _said(done, "verify", "runs/tiny-vendor")


def test_several_pocs_end_with_one_page_and_one_that_fails_does_not_stop_them(done):
    for name, change in (("one", {}), ("two", {"student": {"layers": 1}}), ("bad", {"teacher": {"model": "absent"}})):
        recipe = RECIPE | {"name": name, "business": BUSINESS, "search": RECIPE["search"] | {"trials": 3}} | change
        (done / f"{name}.yaml").write_text(yaml.safe_dump(recipe))
    said = _said(done, "poc", "one.yaml", "two.yaml", "bad.yaml", "--minutes", "1")
    told = Portfolio.model_validate(json.loads((done / "runs/portfolio/portfolio.json").read_text()))
    assert {row.name: row.decision is None for row in told.rows} == {"one": False, "two": False, "bad": True}
    assert "portfolio.html" in said and "absent" in next(row.error or "" for row in told.rows if row.name == "bad")
