"""Several PoCs: who trains, what happens when one fails, what to do next, and the page over all."""

from __future__ import annotations

import runpy
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

from deshi.jobs import poc, portfolio
from deshi.jobs.evidence.page import portfolio_page
from deshi.jobs.evidence.page.portfolio_schema import Portfolio
from deshi.jobs.portfolio import Course
from deshi.jobs.recipe import Recipe

build_evidence = runpy.run_path(str(Path(__file__).parent / "evidence" / "evidence_fixture.py"))["build_evidence"]


def _recipe(folder: Path, name: str, **business) -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(
        yaml.safe_dump(
            {
                "name": name,
                "data": {"train": "train.csv", "test": "test.csv"},
                "teacher": {"model": "teacher"},
                "search": {"trials": 12, "minutes": 6},
                "targets": [{"name": "onprem", "price_per_hour": 36}],
                "business": {"requests_per_month": 1_000_000, **business},
                "kpi": {"quality": {"max_drop": 0.05}},
            }
        )
    )
    return path


def _line(quality: float, ratio: float, ms: float = 2.0):
    return {"error": None, "quality": quality, "latency_ratio": ratio, "latency_ms": ms}


def test_the_promise_is_todays_cost_times_the_time_that_is_won_within_reach(tmp_path):
    recipe = Recipe.load(_recipe(tmp_path, "a", today={"price_per_1000": 3.0}))
    # Best quality 0.9, reach 2 x 0.05: the candidate at 0.79 is too far, that at 0.81 is not.
    lines = [_line(0.9, 0.5), _line(0.81, 0.2), _line(0.79, 0.01)]
    assert portfolio.promise(Course(path=tmp_path, recipe=recipe, lines=lines)) == pytest.approx(3000 * 0.8)


def test_without_a_price_of_today_the_teachers_own_time_is_the_cost(tmp_path):
    recipe = Recipe.load(_recipe(tmp_path, "a"))
    course = Course(path=tmp_path, recipe=recipe, lines=[_line(0.9, 0.25, ms=2.0)])
    teacher_hours = 1_000_000 * 8e-3 / 3600  # 8 ms a request
    assert portfolio.promise(course) == pytest.approx(36 * teacher_hours * 0.75)


def test_a_poc_whose_every_trial_failed_promises_nothing(tmp_path):
    recipe = Recipe.load(_recipe(tmp_path, "a"))
    failed = {"error": "no memory", "quality": 0.0, "latency_ratio": 1.0, "latency_ms": 1e6}
    assert portfolio.promise(Course(path=tmp_path, recipe=recipe, lines=[failed])) == 0.0


def test_minutes_go_to_the_most_promising_until_they_are_spent():
    a, b, c = (Path(name) for name in "abc")
    given = portfolio.shares({a: 10.0, b: 30.0, c: 20.0}, {a: 5.0, b: 6.0, c: 4.0}, 8.0)
    assert given == {a: 0.0, b: 6.0, c: 2.0}


def test_two_recipes_that_write_one_folder_are_refused(tmp_path):
    one, two = _recipe(tmp_path, "a"), tmp_path / "b.yaml"
    two.write_text(one.read_text())
    with pytest.raises(ValueError, match=r"both write .*/runs/a; give one of them another name"):
        portfolio.run([one, two])


def test_one_failure_does_not_stop_the_others_and_is_a_row_of_the_page(tmp_path, monkeypatch):
    paths = [_recipe(tmp_path, name) for name in ("a", "b")]
    unread = tmp_path / "c.yaml"
    unread.write_text("name: [")
    followed = []

    def follow(recipe, said, *, until=None):
        followed.append((recipe.name, until, recipe.search.trials, recipe.search.minutes))
        if recipe.name == "a":
            raise RuntimeError("the worker\ndied")
        lines = [_line(0.9, 0.5)]
        if until:
            return poc.Followed(lines=lines)
        return poc.Followed(lines=lines, evidence=build_evidence(), released=tmp_path)

    monkeypatch.setattr(poc, "follow", follow)
    portfolio.run([*paths, unread], minutes=4.0)
    # Each has a short rung 0; then the one that is left gets all minutes, and its own number of trials.
    assert followed == [("a", "search", 4, 0), ("b", "search", 4, 0), ("b", None, 12, 4.0)]
    told = Portfolio.model_validate_json((tmp_path / "runs" / "portfolio" / "portfolio.json").read_text())
    rows = {row.name: row for row in told.rows}
    assert rows["a"].error == "the worker died" and rows["a"].step == "mend"
    assert "is not YAML" in (rows["c"].error or "") and rows["c"].decision is None
    assert rows["b"].decision == build_evidence().verdict.decision and rows["b"].minutes == 4.0


class _Text(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.tags: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)

    def handle_data(self, data):
        self.words.append(data)


def test_the_page_says_the_next_step_in_both_languages_and_escapes_hostile_words(tmp_path):
    course = Course(path=Path("recipes/<b>.yaml"), error="<script>alert(1)</script>")
    told = Portfolio(
        created="2026-11-27T00:00:00+00:00", commit="0", budget_minutes=3, seconds=60, rows=(portfolio.row(course),)
    )
    page = portfolio_page.render(told)
    found = _Text(page)
    assert "script" not in found.tags and "://" not in page and found.tags.count("main") == 1
    words = " ".join(found.words)
    assert (
        "2026-11-27 00:00:00 UTC" in words
        and "Mend the cause" in words
        and "原因を直して" in words
        and "deshi poc recipes/<b>.yaml" in words
    )


@pytest.mark.parametrize(
    ("decision", "minutes", "step"),
    [
        ("ACCEPT", 6, "scale"),
        ("INCONCLUSIVE", 6, "more_data"),
        ("INCONCLUSIVE", 6, "measure_again"),
        ("REJECT", 0, "more_budget"),
        ("REJECT", 6, "stop"),
    ],
)
def test_the_next_step_follows_from_the_verdict_and_what_was_spent(tmp_path, decision, minutes, step):
    told = build_evidence()
    rows_needed = 2000 if step == "more_data" else None
    verdict = told.verdict.model_copy(update={"decision": decision, "rows_needed": rows_needed})
    told = told.model_copy(update={"verdict": verdict, "business": ()})
    recipe = Recipe.load(_recipe(tmp_path, "a"))
    course = Course(path=tmp_path / "a.yaml", recipe=recipe, evidence=told, minutes=minutes)
    found, command = portfolio.next_step(course)
    assert found == step
    assert command.split()[:2] in (["deshi", "serve"], ["deshi", "poc"], ["deshi", "report"])
