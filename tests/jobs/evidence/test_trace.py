"""A number of the page is followed to its rows and computed once more; one that was changed is found out."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import accuracy_score, f1_score

from deshi.jobs.evidence.answered import Answered, together
from deshi.jobs.evidence.figure import Figure
from deshi.jobs.evidence.trace import trace

build_evidence = runpy.run_path(str(Path(__file__).with_name("evidence_fixture.py")))["build_evidence"]
ROWS = 400


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """An evidence whose quality scikit-learn has computed from random answers, with the files beside it."""
    folder, random = tmp_path_factory.mktemp("traced"), np.random.default_rng(0)
    evidence = build_evidence().model_copy(update={"score_name": "macro_f1"})
    classes = np.array(evidence.data.classes)
    truth, language = random.choice(classes, ROWS), random.choice(["en", "ja"], ROWS)
    answers = {
        row.id: np.where(random.random(ROWS) < 0.8, truth, random.choice(classes, ROWS)) for row in evidence.models
    }
    kl = random.random(ROWS)
    models = []
    for row in evidence.models:
        mine, taught = answers[row.id], answers["teacher"]
        here = language == "ja"
        drop = f1_score(truth, taught, average="macro") - f1_score(truth, mine, average="macro")
        part = (
            evidence.models[0]
            .quality.slices[0]
            .model_copy(
                update={
                    "column": "language",
                    "value": "ja",
                    "n": int(here.sum()),
                    "score": Figure(value=accuracy_score(truth[here], mine[here]), unit="share"),
                }
            )
        )
        quality = row.quality.model_copy(
            update={
                "score": Figure(value=f1_score(truth, mine, average="macro"), unit="share", how="macro_f1"),
                "drop": Figure(value=drop, unit="share"),
                "kl": Figure(value=float(kl.mean()), unit="nats"),
                "flips_to_wrong": int(np.sum((taught == truth) & (mine != truth))),
                "slices": (part,),
            }
        )
        models.append(row.model_copy(update={"quality": quality}))
    passed = next(row for row in evidence.kpis if row.verdict == "PASS")
    spoken = evidence.verdict.model_copy(update={"decision": "ACCEPT"})
    evidence = evidence.model_copy(update={"models": tuple(models), "kpis": (passed,), "verdict": spoken})
    (folder / "evidence.json").write_text(evidence.model_dump_json(), encoding="utf-8")
    tables = {
        id: Answered(
            quality=models[0].quality,
            rows=pa.table({"row": np.arange(ROWS), "label": truth, "answer": found, "confidence": kl, "kl": kl}),
        )
        for id, found in answers.items()
    }
    pq.write_table(together(tables), folder / "answers.parquet")
    pq.write_table(pa.table({"text": ["x"] * ROWS, "label": truth, "language": language}), folder / "test.parquet")
    return folder


def _trace(folder: Path, pointer: str, evidence: str = "evidence.json"):
    return trace(folder / evidence, pointer, answers=folder / "answers.parquet", test=folder / "test.parquet")


@pytest.mark.parametrize(
    "pointer",
    [
        "/models/0/quality/score",
        "/models/0/quality/drop/value",
        "/models/0/quality/kl",
        "/models/0/quality/flips_to_wrong",
        "/models/0/quality/slices/0/score",
        "/models/0/quality/slices/0/n",
        "/models/1/quality/score",
    ],
)
def test_quality_comes_out_the_same_from_the_answers(told, pointer):
    found = _trace(told, pointer)
    assert found.agrees is True and "test-answers.parquet" in found.rows


def test_a_number_that_was_changed_is_found_out(told):
    document = json.loads((told / "evidence.json").read_text())
    document["models"][0]["quality"]["score"]["value"] += 0.001
    (told / "changed.json").write_text(json.dumps(document))
    assert _trace(told, "/models/0/quality/score", "changed.json").agrees is False
    assert _trace(told, "/verdict/decision").agrees is True
    document["verdict"]["decision"] = "REJECT"
    (told / "changed.json").write_text(json.dumps(document))
    assert _trace(told, "/verdict/decision", "changed.json").agrees is False


def test_what_was_timed_says_how_and_is_not_computed_again(told):
    found = _trace(told, "/models/0/targets/0/engine_ms/value")
    assert found.again is None and found.agrees is None and found.entry["how"]


def test_a_pointer_that_leads_nowhere_is_refused(told):
    with pytest.raises(ValueError, match=r"/models/99/quality leads nowhere in .*; take one from"):
        _trace(told, "/models/99/quality")
