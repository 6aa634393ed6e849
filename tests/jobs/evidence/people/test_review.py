"""The figures of a review against hand formulas, a textbook and simulated floors; intervals that are not too sure."""

from __future__ import annotations

import math
import runpy
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from deshi.jobs.evidence.figure import Figure
from deshi.jobs.evidence.people import review as told
from deshi.jobs.evidence.people.review_sample import draw
from deshi.jobs.evidence.people.review_schema import Judged, Rating
from deshi.jobs.evidence.people.stratified import Strata
from deshi.serve.texts import recorded

here = Path(__file__).parents[1]
fixture = runpy.run_path(str(here / "review_fixture.py"))
build_evidence = runpy.run_path(str(here / "evidence_fixture.py"))["build_evidence"]
RELEASE, pairs_of = fixture["RELEASE"], fixture["pairs_of"]


def _rating(rater, row, student, teacher, preference="same", handled=(True, True)) -> Rating:
    return Rating(
        rater=rater,
        row=row,
        student=Judged(satisfaction=student, handled=handled[0]),
        teacher=Judged(satisfaction=teacher, handled=handled[1]),
        preference=preference,
    )


@pytest.fixture
def key():
    """Ten rows of which two differ, all four of the items drawn at random: two of either stratum."""
    return draw(pairs_of(10, (0, 1)), items=4, seed=1, release=RELEASE)


def _review(key, ratings, **recipe):
    evidence = build_evidence()
    evidence = evidence.model_copy(update={"recipe": evidence.recipe | recipe})
    return told.review(key, ratings, evidence, files={}, created="2031-02-03T04:05:06+00:00")


def test_figures_are_those_of_a_pencil(key):
    same = [item.row for item in key.items if not item.differs]
    ratings = [
        # differing: the student's answers get 2 and (5, 4), the teacher's 4 and (3, 3)
        _rating(1, 0, 2, 4, "teacher", (False, True)),
        _rating(1, 1, 5, 3, "student", (True, False)),
        _rating(2, 1, 4, 3, "same", (True, True)),
        # the same answer under two letters: 5 and 3 mean 4 for both, whatever the rater preferred
        _rating(1, same[0], 5, 3, "student", (True, False)),
        _rating(1, same[1], 1, 1),
    ]
    found = _review(key, ratings)
    assert found.student.satisfaction.value == pytest.approx(0.2 * (2 + 4.5) / 2 + 0.8 * (4 + 1) / 2)
    assert found.teacher.satisfaction.value == pytest.approx(0.2 * (4 + 3) / 2 + 0.8 * (4 + 1) / 2)
    assert found.student.satisfied.value == pytest.approx(0.2 * (0 + 1) / 2 + 0.8 * (0.5 + 0) / 2)
    assert found.student.handled.value == pytest.approx(0.2 * (0 + 1) / 2 + 0.8 * (0.5 + 1) / 2)
    assert found.teacher.handled.value == pytest.approx(0.2 * (1 + 0.5) / 2 + 0.8 * (0.5 + 1) / 2)
    assert found.difference.satisfaction.value == pytest.approx(0.2 * (-2 + 1.5) / 2)
    assert found.difference.handled.value == pytest.approx(0.2 * (-1 + 0.5) / 2)
    assert found.preference.value == pytest.approx(0.5 / 1.5) and found.preference.n == 2
    assert (found.raters, found.items, found.rows, found.rows_differing) == (2, 4, 10, 2)
    for figure in (found.student.satisfaction, found.difference.handled, found.preference):
        assert figure.low < figure.value < figure.high


def test_every_word_that_is_recorded_is_said_in_japanese(key):
    ratings = [_rating(rater, item.row, 1 + rater, 5, "student") for rater in (1, 2) for item in key.items]
    alone = [_rating(1, item.row, 3, 3) for item in key.items]
    worth = {"business": {"experience": {"value_per_satisfied_request": 2.0}, "requests_per_month": 1000}}
    for found in (_review(key, ratings, **worth), _review(key, alone)):
        sides = [
            getattr(side, name) for side in (found.student, found.teacher, found.difference) for name in told.VALUES
        ]
        for figure in (*sides, found.preference, found.agreement, *([found.experience] if found.experience else [])):
            assert figure.how and not any(part.isascii() for part in recorded(figure.how, "ja").split("。")), figure.how


def test_a_stratum_that_nobody_rated_is_refused(key):
    with pytest.raises(ValueError, match=r"no item with the same answer twice was rated, though 8 of 10 rows are such"):
        _review(key, [_rating(1, 0, 3, 3)])


def test_experience_is_the_satisfied_times_their_worth():
    evidence = build_evidence()
    share = Figure(value=-0.02, unit="share", n=60, low=-0.05, high=0.01)
    assert told.experience(evidence, share) is None
    business = evidence.recipe["business"] | {"experience": {"value_per_satisfied_request": 3.0}}
    priced = evidence.model_copy(update={"recipe": evidence.recipe | {"business": business}})
    found = told.experience(priced, share)
    assert (found.value, found.low, found.high, found.unit) == pytest.approx((-60_000, -150_000, 30_000, "JPY"))


# Krippendorff, Computing Krippendorff's Alpha-Reliability (2011): four observers, twelve units, ordinal alpha 0.815.
OBSERVERS = ("123321412...", "1233224125.3", ".3332342251.", "12332441251.")


def _by_hand(counts: np.ndarray) -> float:
    """1 - observed over expected disagreement, pair by pair, with the ordinal metric's squared sums of ranks."""
    units = [[value for value, count in enumerate(unit) for _ in range(count)] for unit in counts.reshape(-1, 5)]
    units = [unit for unit in units if len(unit) > 1]
    of_value = [sum(unit.count(value) for unit in units) for value in range(5)]

    def apart(one: int, other: int) -> float:
        low, high = sorted((one, other))
        return (sum(of_value[low : high + 1]) - (of_value[low] + of_value[high]) / 2) ** 2 if low != high else 0.0

    n = sum(of_value)
    observed = sum(sum(apart(a, b) for a, b in permutations(unit, 2)) / (len(unit) - 1) for unit in units) / n
    expected = sum(apart(a, b) for a, b in permutations([v for unit in units for v in unit], 2)) / (n * (n - 1))
    return 1 - observed / expected


def test_alpha_is_the_textbooks():
    assert all(len(observer) == 12 for observer in OBSERVERS)
    counts = np.zeros((12, 5), np.int64)
    for observer in OBSERVERS:
        for unit, value in enumerate(observer):
            if value != ".":
                counts[unit, int(value) - 1] += 1
    assert told.alpha(counts.reshape(6, 2, 5)) == pytest.approx(0.815, abs=5e-4)
    assert _by_hand(counts) == pytest.approx(0.815, abs=5e-4)


def test_agreement_is_alpha_by_hand_and_its_interval_tells_chance_from_accord():
    rng = np.random.default_rng(5)
    truth = rng.integers(1, 6, (40, 2))

    def rated(noise):
        said = np.clip(truth + rng.integers(-noise, noise + 1, (3, 40, 2)), 1, 5)
        return [[_rating(r + 1, item, *said[r, item].tolist()) for r in range(3)] for item in range(40)]

    for noise in (1, 5):
        ratings = rated(noise)
        counts = np.zeros((40, 2, 5), np.int64)
        for item, of_item in enumerate(ratings):
            for rating in of_item:
                counts[item, 0, rating.student.satisfaction - 1] += 1
                counts[item, 1, rating.teacher.satisfaction - 1] += 1
        found = told.agreement(ratings, confidence=0.95, seed=0)
        assert found.value == pytest.approx(_by_hand(counts)) and found.n == 40
        assert found.low < found.value < found.high
        assert (found.low > 0.6) == (noise == 1)


def test_agreement_needs_two_raters_and_two_values():
    assert told.agreement([[_rating(1, 0, 1, 5)], [_rating(2, 1, 2, 4)]], confidence=0.95, seed=0).value is None
    alike = [[_rating(1, row, 4, 4), _rating(2, row, 4, 4)] for row in range(5)]
    assert told.agreement(alike, confidence=0.95, seed=0).value is None


def _strata(differs, rows, rows_differing, seed=0) -> Strata:
    return Strata(differs=tuple(differs), rows=rows, rows_differing=rows_differing, confidence=0.95, seed=seed)


@pytest.mark.parametrize(
    "differing, same, least, most",
    [
        ((1, 2, 3), (3, 4, 5), 1, 5),  # differing rows please less
        ((0, 1), (0, *[1] * 32), 0, 1),  # and nearly all of the others can be handled: few of 20 items deviate
    ],
)
def test_an_estimate_from_a_biased_draw_has_no_bias_and_its_interval_holds(differing, same, least, most):
    rng = np.random.default_rng(11)
    values = np.concatenate([rng.choice(differing, 60), rng.choice(same, 540)]).astype(float)
    truth, plain, estimates, held = values.mean(), [], [], 0
    for seed in range(200):
        key = draw(pairs_of(600, range(60)), items=40, seed=seed, release=RELEASE)
        seen = np.array([values[item.row] for item in key.items])
        found = _strata([item.differs for item in key.items], 600, 60, seed).mean(seen, least=least, most=most)
        plain.append(seen.mean())
        estimates.append(found.value)
        held += found.low <= truth <= found.high
    assert abs(np.mean(estimates) - truth) < 4 * np.std(estimates) / math.sqrt(200)
    assert abs(np.mean(plain) - truth) > 0.1 * (most - least)
    assert held >= stats.binom.ppf(0.001, 200, 0.93)


def test_the_interval_is_as_wide_as_the_stratified_standard_error():
    rng = np.random.default_rng(2)
    differs = np.arange(80) < 40
    values = np.where(differs, rng.uniform(1, 5, 80), rng.uniform(2, 4, 80))
    found = _strata(differs, 1000, 300).mean(values, least=1, most=5)
    first, second = values[differs], values[~differs]
    variance = 0.3**2 * first.var(ddof=1) / 40 + 0.7**2 * second.var(ddof=1) / 40
    variance += 0.3 * 0.7 * (first.mean() - second.mean()) ** 2 / 1000
    assert found.value == pytest.approx(0.3 * first.mean() + 0.7 * second.mean())
    assert (found.high - found.low) / (2 * 1.96) == pytest.approx(math.sqrt(variance), rel=0.08)


def test_unanimous_people_do_not_make_certainty():
    one = _strata([False] * 20, 500, 0)
    found = one.mean(np.ones(20), least=0, most=1)
    assert (found.low, found.high) == pytest.approx(tuple(stats.binomtest(20, 20).proportion_ci(method="wilson")))
    assert one.difference(np.zeros(20), most=1).high == pytest.approx(stats.binomtest(0, 500).proportion_ci(0.975).high)
    both = _strata([True] * 10 + [False] * 10, 500, 100)
    nothing = both.difference(np.zeros(20), most=4)
    assert nothing.low < 0 == nothing.value < nothing.high and nothing.high < 4 * 0.3
    assert both.share(np.zeros(20), np.zeros(20)) is None
    liked = both.share(np.array([1.0] * 10 + [0.0] * 10), np.array([1.0] * 10 + [0.0] * 10))
    assert (liked.low, liked.n) == (pytest.approx(stats.binomtest(10, 10).proportion_ci(method="wilson").low), 10)


def test_how_often_a_difference_of_nothing_is_called_a_difference():
    """Student and teacher please alike on the differing rows: 0 must lie outside in 5% of draws at most."""
    rng, missed = np.random.default_rng(4), 0
    for seed in range(200):
        strata = _strata([True] * 15 + [False] * 15, 300, 60, seed)
        values = np.where(np.arange(30) < 15, rng.choice([-1.0, 0.0, 1.0], 30, p=[0.2, 0.6, 0.2]), 0.0)
        found = strata.difference(values, most=1)
        missed += not found.low <= 0 <= found.high
    assert missed <= stats.binom.ppf(0.999, 200, 0.05)
