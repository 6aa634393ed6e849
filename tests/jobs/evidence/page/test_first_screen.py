"""The first screen: the questions in their wording, each with the evidence's figure, and what to do next."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest

from deshi.jobs.evidence.figure import Figure
from deshi.jobs.evidence.page import first_screen, report
from deshi.jobs.evidence.page.pointers import Pointers
from deshi.jobs.evidence.page.shown import Shown
from deshi.jobs.evidence.risk.risk_schema import RiskRow
from deshi.jobs.evidence.schema import KpiRow, Verdict

build_evidence = runpy.run_path(str(Path(__file__).parents[1] / "evidence_fixture.py"))["build_evidence"]


def _shown(lang: str, **changes: Any) -> Shown:
    evidence = build_evidence(**changes)
    return Shown(evidence, Pointers(evidence), lang)


def test_the_first_screen_answers_the_four_questions_in_their_wording():
    page = report.render(build_evidence(), "ja")
    asked = ("PoCで推論コストを何%削減できるか", "品質低下の業務影響度 (KPI)", "オンプレミス検証からクラウドへの段階",
             "半年で内製化するロードマップ", "起こりうる問題と、気づく方法", "次に行うこと", "KPI一覧")  # fmt: skip
    places = [page.index(words) for words in asked]
    assert places == sorted(places)
    answers = first_screen.answers(_shown("ja"))
    assert [answer.question for answer in answers] == list(asked[:4])
    assert answers[0].figure.striptags() == "57.1% （52.8 〜 61.4）"
    assert "月21,900 JPYから月9,395 JPYに下がります" in answers[0].sentence.striptags()
    assert "−12.0%" in answers[0].details[0].striptags()
    assert answers[1].figure.striptags() == "1.6 ポイント （0.4 〜 2.8）"
    assert "実測 2 / 3 か所" in answers[2].figure.striptags()


def test_a_change_that_costs_more_is_not_called_a_saving():
    dearer = _shown("en").evidence.business[1:2]
    answer = first_screen.answers(_shown("en", business=dearer))[0]
    assert "rises from" in answer.sentence.striptags() and answer.figure.striptags().startswith("\u221212.0%")


@pytest.mark.parametrize(
    ("decision", "rows", "command"),
    [
        ("ACCEPT", None, "deshi serve runs/fixture --target onprem"),
        ("INCONCLUSIVE", 4321, "deshi poc recipe.yaml"),
        ("INCONCLUSIVE", None, "deshi poc recipe.yaml"),
        ("REJECT", None, "deshi poc recipe.yaml"),
    ],
)
def test_the_next_step_follows_from_the_verdict(decision, rows, command):
    shown = _shown("en", verdict=Verdict(decision=decision, reasons=(), rows_needed=rows))
    step, check = first_screen.next_steps(shown)
    assert step.command.striptags() == command and check.command.striptags() == "deshi verify runs/fixture"
    assert ("4,321" in step.sentence.striptags()) == (rows is not None)


def test_the_gravest_risks_come_first_and_an_unknown_code_stands_for_itself():
    levels = {"a": "low", "b": "unknown", "c": "medium", "d": "high"}
    rows = tuple(RiskRow(code=code, level=level) for code, level in levels.items())
    risk = build_evidence().risk.model_copy(update={"ledger": rows})
    shown = _shown("en", risk=risk)
    assert [row.code for row in first_screen.top_risks(shown)] == ["d", "c", "b"]
    assert first_screen.risk_words(rows[0], "title", shown) == "a"


@pytest.mark.parametrize(("verdict", "words"), [("PASS", "below"), ("FAIL", "beyond"), ("INCONCLUSIVE", "not settled")])
def test_quality_is_answered_by_the_figure_that_gates(verdict, words):
    kl = Figure(value=0.479, unit="nats", n=60, low=0.454, high=0.505)
    row = KpiRow(axis="quality", name="kl_mean", limit=0.5, limit_is="at most", figure=kl, verdict=verdict)
    free = build_evidence().kpis[0].model_copy(update={"limit": None, "verdict": "NO TARGET"})
    answer = first_screen.answers(_shown("en", task="generate", kpis=(free, row)))[1]
    assert answer.figure.striptags() == "0.479 nats (0.454 to 0.505)"
    said = answer.sentence.striptags()
    assert "mean KL to the teacher" in said and words in said and "0.500 nats" in said
    assert "No limit was set" in first_screen.answers(_shown("en", kpis=(free,)))[1].sentence
