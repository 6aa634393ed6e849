"""`deshi poc a.yaml b.yaml ...`: several small PoCs on one cluster, under one budget of training minutes.

Each recipe is first followed through a short rung 0, which trains nothing. What that shows decides who trains: those
that promise to save most, in that order, get the minutes that their recipe asks for until the budget is spent. All of
them go on to a verdict; one that fails is a row that says why, and the others go on. The last thing written is one page
over all of them, `<storage>/portfolio/portfolio.html`.

Recipes are followed one after the other: latency is measured alone on its node. Ray is started once for all.
"""

from __future__ import annotations

import datetime
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from deshi.jobs import poc, session
from deshi.jobs.evidence.page import portfolio_page
from deshi.jobs.evidence.page.portfolio_schema import Portfolio, PortfolioRow, Step
from deshi.jobs.evidence.schema import Evidence
from deshi.jobs.ladder import Line
from deshi.jobs.progress import Progress
from deshi.jobs.recipe import Recipe
from deshi.jobs.storage import Storage

FIRST_TRIALS = 4  # of rung 0, for each recipe
REACH = 2.0  # times the margin: what lies that near to the best of rung 0 may be lifted by training
FOLDER = "portfolio"


@dataclass(frozen=True, kw_only=True)
class Course:
    """One recipe on its way. `recipe` is None where it could not be read."""

    path: Path
    recipe: Recipe | None = None
    error: str | None = None
    lines: Sequence[Line] = ()
    minutes: float = 0.0
    evidence: Evidence | None = None
    seconds: float = 0.0
    stages: dict[str, float] = field(default_factory=dict)


def run(paths: Sequence[Path], *, minutes: float | None = None, storage: str | None = None) -> None:
    """Follows all recipes and writes the page; `minutes` of training are shared, half of what they ask for by default.

    Raises:
        ValueError: if no recipe can be read, or two have one name in one storage.
    """
    began = time.perf_counter()
    courses = [opened(path, storage) for path in paths]
    refuse_unusable(courses)
    own = {course.path: course.recipe.search.minutes for course in courses if course.recipe is not None}
    budget = sum(own.values()) / 2 if minutes is None else minutes
    courses = [followed(course, small(course.recipe), until="search") for course in courses]
    given = shares({course.path: promise(course) for course in courses if course.error is None}, own, budget)
    for place, course in enumerate(courses):
        if course.error is None and course.recipe is not None:
            share = given[course.path]
            whole = course.recipe if share else small(course.recipe)
            assert whole is not None
            whole = whole.model_copy(update={"search": whole.search.model_copy(update={"minutes": share})})
            courses[place] = replace(followed(course, whole), minutes=share)
    told = Portfolio(
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        commit=session.commit(),
        budget_minutes=budget,
        seconds=round(time.perf_counter() - began, 1),
        rows=tuple(row(course) for course in courses),
    )
    home = next(course.recipe.storage for course in courses if course.recipe is not None)
    Progress().portfolio(told, portfolio_page.write(told, Storage(home), FOLDER))


def opened(path: Path, storage: str | None) -> Course:
    """A recipe that is read, or the reason why not."""
    try:
        return Course(path=path, recipe=Recipe.load(path, storage=storage))
    except ValueError as error:
        return Course(path=path, error=str(error))


def refuse_unusable(courses: Sequence[Course]) -> None:
    """Raises ValueError where nothing can be followed, or two recipes would write into one folder."""
    if all(course.recipe is None for course in courses):
        raise ValueError(f"none of {len(courses)} recipes can be read ({courses[0].error}); mend them first")
    places: dict[str, Path] = {}
    for course in courses:
        if course.recipe is None:
            continue
        place = f"{course.recipe.storage}/{course.recipe.name}"
        if place in places:
            raise ValueError(f"{places[place]} and {course.path} both write {place}; give one of them another name")
        places[place] = course.path


def small(recipe: Recipe | None) -> Recipe | None:
    """The same recipe with a short rung 0 and no training."""
    if recipe is None:
        return None
    search = recipe.search.model_copy(update={"trials": min(recipe.search.trials, FIRST_TRIALS), "minutes": 0})
    return recipe.model_copy(update={"search": search})


def followed(course: Course, recipe: Recipe | None, *, until: str | None = None) -> Course:
    """The course after its recipe was followed; whatever stops one is its reason and not the others' end."""
    if recipe is None or course.error is not None:
        return course
    began, said = time.perf_counter(), Progress()
    said.note(f"[bold]{recipe.name}[/bold]  {course.path}")
    try:
        done = poc.follow(recipe, said, until=until)
        course = replace(course, lines=done.lines, evidence=done.evidence)
    except Exception as error:  # one PoC's failure is a row of the page
        course = replace(course, error=" ".join(str(error).split())[:500] or type(error).__name__)
        said.note(f"[red]{recipe.name} failed: {course.error}[/red]")
    spent = {name: course.stages.get(name, 0.0) + seconds for name, seconds in said.seconds.items()}
    return replace(course, seconds=course.seconds + time.perf_counter() - began, stages=course.stages | spent)


def promise(course: Course) -> float:
    """Money a month that rung 0 suggests could be saved: today's cost x the share of the teacher's time that is won.

    Among candidates whose quality lies within `REACH` margins of the best one's, the fastest counts. Today's cost is
    the recipe's price of 1,000 requests, else the teacher's time on the first target, never idle.
    """
    recipe = course.recipe
    good = [line for line in course.lines if line["error"] is None]
    if recipe is None or not good:
        return 0.0
    business, reach = recipe.business, REACH * (recipe.margin or 0.0)
    best = max(line["quality"] for line in good)
    fastest = min((line for line in good if line["quality"] >= best - reach), key=lambda line: line["latency_ratio"])
    if business.today is not None and business.today.price_per_1000 is not None:
        today = business.today.price_per_1000 * business.requests_per_month / 1000
    else:
        teacher_ms = fastest["latency_ms"] / fastest["latency_ratio"]
        today = recipe.targets[0].price_per_hour * teacher_ms / 3.6e6 * business.requests_per_month
    return float(max(0.0, today * (1 - fastest["latency_ratio"])))


def shares(promises: dict[Path, float], asked: dict[Path, float], budget: float) -> dict[Path, float]:
    """Minutes for each: what it asks for, the most promising first, until the budget is spent."""
    given = dict.fromkeys(promises, 0.0)
    for path in sorted(promises, key=lambda path: (-promises[path], str(path))):
        given[path] = min(asked[path], max(0.0, budget - sum(given.values())))
    return given


def row(course: Course) -> PortfolioRow:
    """What the page says of one PoC."""
    recipe, told = course.recipe, course.evidence
    step, command = next_step(course)
    chosen = told.model_row("chosen") if told else None
    case = told.business[0] if told and told.business else None
    gravest = told.risk.ledger[0] if told and told.risk and told.risk.ledger else None
    return PortfolioRow(
        name=recipe.name if recipe else course.path.stem,
        recipe=str(course.path),
        run=f"{recipe.storage}/{recipe.name}" if recipe and told else None,
        decision=told.verdict.decision if told else None,
        error=course.error,
        target=case.target if case else None,
        drop=chosen.quality.drop if chosen else None,
        monthly_saving=case.monthly_saving if case else None,
        payback_months=case.payback_months if case else None,
        risk=gravest.code if gravest else None,
        risk_values=gravest.values if gravest else {},
        step=step,
        command=command,
        rows_needed=told.verdict.rows_needed if told else None,
        promise=promise(course) if course.lines else None,
        minutes=course.minutes,
        seconds=round(course.seconds, 1),
        stage_seconds=round(sum(course.stages.values()), 1),
    )


def next_step(course: Course) -> tuple[Step, str]:
    """Scale, gather, spend, bend or stop; and what to type."""
    again = f"deshi poc {course.path}"
    if course.evidence is None or course.recipe is None:
        return "mend", again
    verdict, run_folder = course.evidence.verdict, f"{course.recipe.storage}/{course.recipe.name}"
    if verdict.decision == "ACCEPT":
        return "scale", f"deshi serve {run_folder}"
    if verdict.decision == "INCONCLUSIVE":
        return ("measure_again" if verdict.rows_needed is None else "more_data"), again
    if course.minutes < course.recipe.search.minutes:
        return "more_budget", again
    case = course.evidence.business[0] if course.evidence.business else None
    saves = case is not None and (case.monthly_saving.value or 0.0) > 0
    return ("another_margin", again) if saves else ("stop", f"deshi report {run_folder}")
