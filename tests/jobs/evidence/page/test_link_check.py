"""Every number of the page leads to its entry; and the checker finds each kind of number that does not."""

from __future__ import annotations

import json
import re
import runpy
from functools import cache
from pathlib import Path

import pytest
from pydantic import BaseModel

from deshi.jobs.evidence.figure import Figure
from deshi.jobs.evidence.page import report
from deshi.jobs.evidence.page.link_check import check
from deshi.jobs.evidence.page.pointers import Pointers, pointer, resolve
from deshi.jobs.evidence.people.review_schema import Opinion, Review
from deshi.jobs.evidence.risk.risk_schema import RiskRow

build_evidence = runpy.run_path(str(Path(__file__).parents[1] / "evidence_fixture.py"))["build_evidence"]
whole = cache(lambda: report.render(build_evidence(), "ja"))
DROP = '<data value="0.016" data-evidence="/models/0/quality/drop" data-scale="100">1.6'


def test_every_number_of_the_page_is_linked_and_equal():
    found = check(whole(), build_evidence())
    assert found.missing == () and found.share == 1.0
    assert found.total == found.linked == found.equal > 2000


def test_names_that_hold_digits_are_linked_too():
    evidence = build_evidence()
    models = tuple(
        row.model_copy(
            update={
                "id": row.id if row.role != "control" else f"{row.id} 3",
                "chain": (*row.chain, "step 4"),
                "targets": tuple(place.model_copy(update={"target": f"{place.target} 5"}) for place in row.targets),
            }
        )
        for row in evidence.models
    )
    risk = evidence.risk.model_copy(update={"ledger": (RiskRow(code="code 6", level="high"),)})
    cases = tuple(case.model_copy(update={"target": f"{case.target} 5"}) for case in evidence.business)
    evidence = build_evidence(
        name="trial 7",
        models=models,
        risk=risk,
        business=cases,
        how={"topic 8": "in 9 steps"},
        licences={"x": "CC-0 1"},
    )
    found = check(report.render(evidence, "en"), evidence)
    assert found.missing == ()


@pytest.mark.parametrize(
    ("before", "after", "why"),
    [
        (DROP, DROP[:-1] + "7", "holds another"),
        (DROP, DROP.replace("0.016", "0.017"), "holds another"),
        (DROP, DROP.replace("drop", "agreement"), "holds another"),
        (DROP, DROP.replace("/models/0", "/models/77"), "is not there"),
        (DROP, DROP.replace(' data-evidence="/models/0/quality/drop"', ""), "names no entry"),
        ("</h1>", "</h1><p>saves 9,876 a year</p>", "names no entry"),
        (' data-evidence="/front"><svg', "><svg", "names no entry"),
        ("</pre>", "4711</pre>", "holds another"),
    ],
)
def test_a_number_that_leads_nowhere_is_found(before, after, why):
    page = whole()
    assert before in page
    found = check(page.replace(before, after, 1), build_evidence())
    assert found.equal < found.total and len(found.missing) == 1 and why in found.missing[0]


def test_what_people_said_is_linked_to_their_file():
    mean = Figure(value=3.9, unit="", n=40, low=3.7, high=4.1, how="mean satisfaction on the scale of 1 to 5")
    share = Figure(value=0.81, unit="share", n=40, low=0.7, high=0.9)
    opinion = Opinion(satisfaction=mean, satisfied=share, handled=share.model_copy(update={"value": 0.77}))
    review = Review(
        release="ab12" * 16,
        created="2031-02-04T00:00:00+00:00",
        raters=3,
        items=40,
        rows=1002,
        rows_differing=93,
        student=opinion,
        teacher=opinion.model_copy(update={"satisfaction": mean.model_copy(update={"value": 4.2})}),
        difference=opinion.model_copy(update={"satisfaction": mean.model_copy(update={"value": -0.3})}),
        preference=share,
        agreement=Figure(value=None, unit="", basis="not measured"),
        files={"0f" * 32: "a.csv"},
        ratings=(),
    )
    evidence = build_evidence()
    page = report.render(evidence, "ja", review)
    assert 'data-evidence="review.json#/student/satisfaction"' in page and "まだ聞いていません" not in page
    assert "まだ聞いていません" in whole() and "deshi review runs/fixture" in whole()
    assert check(page, evidence, review).missing == ()
    assert "is not there" in check(page, evidence).missing[0]


def test_a_wrong_count_is_found():
    page = re.sub(r"(<data value=\"10\" data-evidence=\"/front/0 [^>]*data-count>)10", r"\g<1>11", whole(), count=1)
    assert page != whole() and check(page, build_evidence()).missing != ()


def test_a_pointer_leads_back_to_the_part_that_it_was_made_of():
    evidence = build_evidence(seconds={"a/b ~c%20": 5.0})
    document, pointers = json.loads(evidence.model_dump_json()), Pointers(evidence)
    parts: list[BaseModel] = [evidence.models[2].targets[1].latency, evidence.business[1].monthly[0], evidence.kpis[4]]
    for part in parts:
        assert resolve(document, pointers.of(part)) == part.model_dump(mode="json")
    assert resolve(document, pointers.of(evidence.seconds, "a/b ~c%20")) == 5.0
    assert " " not in pointer("a/b ~c%20")
    with pytest.raises(KeyError):
        pointers.of(evidence.kpis[4].model_copy())
    for nowhere in ("/models/99", "/models/0/nothing", "models/0", "/name/0"):
        with pytest.raises(LookupError):
            resolve(document, nowhere)
