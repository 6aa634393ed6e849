"""The figures of a review: what the people on the floor said of the student's answers and of the teacher's.

Ratings of an item are averaged over its raters, and items are weighted by the rows that they stand for
(`stratified.py`). Where both models gave the same answer, it was rated twice: both get the mean of the two and no
preference, so a rater's slip does not become a difference between models. Intervals are over items, at the recipe's
confidence; they hold for these raters, not for all who might be asked.

    satisfaction   mean of 1 to 5
    satisfied      share of 4 and 5
    handled        share that could be finished without escalation
    difference     student minus teacher on the same items
    preference     the student's share of the preferred answers, ties left out
    agreement      Krippendorff's alpha (2011), ordinal, of satisfaction: a unit is one answer to one item
    experience     value_per_satisfied_request x requests_per_month x difference of the satisfied: money a month
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import krippendorff
import numpy as np
from numpy.typing import NDArray

from deshi.jobs.evidence.figure import Figure, figure_of
from deshi.jobs.evidence.people.review_schema import Judged, Opinion, Rating, Review, ReviewKey
from deshi.jobs.evidence.people.stratified import Floats, Strata
from deshi.jobs.evidence.schema import Evidence
from deshi.serve.statistics import Interval

SATISFIED = 4  # of 5
ALPHA_RESAMPLES = 999
WEIGHTED = "raters averaged within an item, items weighted by the rows they stand for, bootstrap over items"
HOW = {
    "satisfaction": "mean satisfaction on the scale of 1 to 5",
    "satisfied": "share of the answers with satisfaction 4 or 5",
    "handled": "share of the cases that staff could finish without escalation",
}
Values = Callable[[Judged], float]
VALUES: dict[str, tuple[Values, str, float, float]] = {  # value of one judgement, unit, least, most
    "satisfaction": (lambda judged: judged.satisfaction, "/5", 1, 5),
    "satisfied": (lambda judged: judged.satisfaction >= SATISFIED, "share", 0, 1),
    "handled": (lambda judged: judged.handled, "share", 0, 1),
}


def review(
    key: ReviewKey, ratings: Sequence[Rating], evidence: Evidence, *, files: Mapping[str, str], created: str
) -> Review:
    """All figures from the ratings of a release's items.

    Raises:
        ValueError: if nobody rated an item of one of the two strata that have rows.
    """
    by_row: dict[int, list[Rating]] = defaultdict(list)
    for rating in ratings:
        by_row[rating.row].append(rating)
    items = [item for item in key.items if item.row in by_row]
    strata = Strata(
        differs=tuple(item.differs for item in items),
        rows=key.rows,
        rows_differing=key.rows_differing,
        confidence=evidence.recipe["kpi"]["quality"]["confidence"],
        seed=evidence.recipe["seed"],
    )
    _refuse_unrated(strata)
    rated = [by_row[item.row] for item in items]
    student, teacher = ({name: _means(rated, strata, side, name) for name in VALUES} for side in ("student", "teacher"))
    difference = _difference(strata, student, teacher)
    return Review(
        release=key.release,
        created=created,
        raters=len({rating.rater for rating in ratings}),
        items=len(items),
        rows=key.rows,
        rows_differing=key.rows_differing,
        student=_opinion(strata, student),
        teacher=_opinion(strata, teacher),
        difference=difference,
        preference=_preference(rated, strata),
        agreement=agreement(rated, confidence=strata.confidence, seed=strata.seed),
        experience=experience(evidence, difference.satisfied),
        files=dict(files),
        ratings=tuple(ratings),
    )


def _refuse_unrated(strata: Strata) -> None:
    for differs, rows in ((True, strata.rows_differing), (False, strata.rows - strata.rows_differing)):
        if rows and differs not in strata.differs:
            which = "two different answers" if differs else "the same answer twice"
            raise ValueError(
                f"no item with {which} was rated, though {rows} of {strata.rows} rows are such; have more items rated, "
                "from the top of the sheet on"
            )


def _means(rated: Sequence[Sequence[Rating]], strata: Strata, side: Literal["student", "teacher"], name: str) -> Floats:
    """[items]: the mean over an item's raters, and over both letters where both show the same answer."""
    value = VALUES[name][0]

    def one(ratings: Sequence[Rating], differs: bool) -> float:
        sides = (side,) if differs else ("student", "teacher")
        return float(np.mean([value(getattr(rating, each)) for rating in ratings for each in sides]))

    return np.array([one(ratings, differs) for ratings, differs in zip(rated, strata.differs, strict=True)])


def _opinion(strata: Strata, means: Mapping[str, Floats]) -> Opinion:
    def one(name: str) -> Figure:
        _, unit, least, most = VALUES[name]
        return figure_of(strata.mean(means[name], least=least, most=most), unit, f"{HOW[name]}; {WEIGHTED}")

    return Opinion(**{name: one(name) for name in VALUES})


def _difference(strata: Strata, student: Mapping[str, Floats], teacher: Mapping[str, Floats]) -> Opinion:
    def one(name: str) -> Figure:
        _, unit, least, most = VALUES[name]
        found = strata.difference(student[name] - teacher[name], most=most - least)
        return figure_of(found, unit, f"{HOW[name]}; student minus teacher on the same items; {WEIGHTED}")

    return Opinion(**{name: one(name) for name in VALUES})


def _preference(rated: Sequence[Sequence[Rating]], strata: Strata) -> Figure:
    def share(which: str) -> Floats:
        means = [np.mean([rating.preference == which for rating in ratings]) for ratings in rated]
        return np.array(means) * np.array(strata.differs)

    student, teacher = share("student"), share("teacher")
    found = strata.share(student, student + teacher)
    if found is None:
        return _unknown("share", "nobody preferred one of two different answers")
    return figure_of(found, "share", f"preferred answers that are the student's, ties left out; {WEIGHTED}")


def agreement(rated: Sequence[Sequence[Rating]], *, confidence: float, seed: int) -> Figure:
    """Krippendorff's alpha of the satisfaction with each answer, resampled by item (both of its answers together).

    `rated` holds each item's ratings. None where no two people rated the same item, or all gave one and the same value:
    alpha compares with chance, and there is none.
    """
    counts = np.zeros((len(rated), 2, 5), np.int64)
    for place, ratings in enumerate(rated):
        for rating in ratings:
            for side, judged in enumerate((rating.student, rating.teacher)):
                counts[place, side, judged.satisfaction - 1] += 1
    value = alpha(counts)
    if value is None:
        return _unknown("", "agreement needs two raters of the same items and more than one value")
    rng = np.random.default_rng([seed, 29])
    drawn = [alpha(counts[rng.integers(len(counts), size=len(counts))]) for _ in range(ALPHA_RESAMPLES)]
    known = [each for each in drawn if each is not None]
    low, high = np.quantile(known, ((1 - confidence) / 2, (1 + confidence) / 2)) if known else (-np.inf, np.inf)
    compared = int((counts[:, 0].sum(axis=1) > 1).sum())
    found = Interval(value=value, low=float(low), high=float(high), n=compared)
    return figure_of(found, "", "Krippendorff's alpha of the satisfaction, ordinal, bootstrap over items")


def alpha(counts: NDArray[np.int64]) -> float | None:
    """Krippendorff's alpha, ordinal, of counts [items, 2, 5]: how many raters gave each value to each answer."""
    units = counts.reshape(-1, counts.shape[-1])
    paired = units[units.sum(axis=1) > 1].sum(axis=0)
    if np.count_nonzero(paired) < 2:
        return None
    return float(krippendorff.alpha(value_counts=units, value_domain=[1, 2, 3, 4, 5], level_of_measurement="ordinal"))


def experience(evidence: Evidence, satisfied: Figure) -> Figure | None:
    """What the difference in satisfied customers is worth a month; None where the recipe gives no value for one."""
    business = evidence.recipe.get("business") or {}
    if not business.get("experience") or satisfied.value is None:
        return None
    worth = business["experience"]["value_per_satisfied_request"] * business["requests_per_month"]
    ends = [None if end is None else worth * end for end in (satisfied.low, satisfied.high)]
    low, high = ends if worth >= 0 else ends[::-1]
    return Figure(
        value=worth * satisfied.value,
        unit=evidence.currency,
        n=satisfied.n,
        low=low,
        high=high,
        basis="computed",
        how="value_per_satisfied_request x requests_per_month x difference of the shares satisfied, a month",
    )


def _unknown(unit: str, why: str) -> Figure:
    return Figure(value=None, unit=unit, n=0, basis="not measured", how=why)
