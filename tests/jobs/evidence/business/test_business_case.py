"""The account by hand, its intervals where a formula knows them, the break-even against every volume tried."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest

from deshi.jobs.evidence.business import break_even as even
from deshi.jobs.evidence.business import business_words as words
from deshi.jobs.evidence.business import money, payback
from deshi.jobs.evidence.business.account import why_none
from deshi.jobs.evidence.business.business_case import HOW, cases
from deshi.jobs.evidence.business.business_schema import BusinessCase
from deshi.jobs.evidence.figure import Figure
from deshi.jobs.evidence.risk.risk_schema import Risk
from deshi.jobs.evidence.schema import LatencyParts, ModelRow, Quality, TargetRow
from deshi.jobs.recipe import Recipe
from deshi.serve.texts import TEXTS, recorded

BUSINESS: dict[str, Any] = {
    "requests_per_month": 1_000_000,
    "peak_rps": 20,
    "today": {"price_per_1000": 120, "latency_ms": 800},
    "migration": {"hours": {"plan": 16, "our own step": 24}, "hour_cost": 6000},
    "operation": {"hours_per_month": 4, "hour_cost": 6000},
    "staff": {"people": 20, "hour_cost": 3000, "requests_per_hour": 30, "share_waiting": 0.5},
    "training_cost": 30_000,
    "staff_training_hours": 20,
    "error_cost": 2,
    "horizon_months": 36,
    "discount_rate": 0.05,
}


def recipe(business: dict[str, Any], *, price: float = 15, rtt: float = 0.0, seed: int = 0) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "case",
            "seed": seed,
            "data": {"train": "a.csv", "test": "b.csv"},
            "teacher": {"model": "t"},
            "targets": [{"name": "onprem", "price_per_hour": price, "rtt_ms": rtt}],
            "business": business,
            "kpi": {"quality": {"confidence": 0.95}},
        }
    )


def figure(
    value: float | None, unit: str, spread: tuple[float, float] | None = None, basis: Any = "measured"
) -> Figure:
    low, high = spread or (None, None)
    return Figure(value=value, unit=unit, low=low, high=high, basis=basis)


def model(role: Any, rps: Figure | None, p50: Figure | None) -> ModelRow:
    score = figure(0.9, "share")
    parts = dict.fromkeys(("p95", "engine_p95", "queue_p95", "http_p95", "network"), score)
    place = TargetRow(
        target="onprem",
        build="b",
        engine_ms=score,
        ratio_to_teacher=score,
        size_mb=score,
        throughput_rps=rps,
        latency=None if p50 is None else LatencyParts(p50=p50, **parts),
    )
    return ModelRow(id=role, role=role, digest="", parameters=1, layers=1, ffn=1, vocabulary=1, scheme="fp32",
                    training_steps=0, quality=Quality(score=score), targets=(place,))  # fmt: skip


def rows(
    rps: Figure | None = None, p50: Figure | None = None, teacher_rps: Figure | None = None, teacher: bool = True
) -> list[ModelRow]:
    chosen = model("chosen", rps or figure(300.0, "1/s"), p50 or figure(4.0, "ms"))
    return [chosen, model("teacher", teacher_rps or figure(9.0, "1/s"), figure(30.0, "ms"))][: 1 + teacher]


def risk(difference: tuple[float, float] | None = None, scale: float = 1.0) -> Risk:
    return Risk(
        error_cost_per_1000=figure(scale * 315, "JPY"),
        teacher_error_cost_per_1000=figure(scale * 283, "JPY"),
        error_cost_difference_per_1000=figure(scale * 32, "JPY", difference),
    )


def one(
    business: dict[str, Any], compared: list[ModelRow] | None = None, risked: Risk | None = None, **at
) -> BusinessCase:
    return cases(recipe(business, **at), compared or rows(), risked)[0]


def discounted(saving: float, once: float, months: int, rate: float) -> float:
    return sum(saving / (1 + rate) ** (month / 12) for month in range(1, months + 1)) - once


def test_the_whole_account_by_hand():
    case = one(BUSINESS, risked=risk())
    lines = {line.name: (line.today.value, line.new.value) for line in case.monthly}
    asked = 20 * 160 * 30  # requests of all staff a month
    assert lines == {
        "inference": (120_000, 15 * 730),
        "operation": (0, 24_000),
        "errors": (283_000, 315_000),
        "staff_waiting": (
            pytest.approx(asked * 0.8 / 3600 * 0.5 * 3000),
            pytest.approx(asked * 0.004 / 3600 * 0.5 * 3000),
        ),
    }
    assert case.staff_hours.value == pytest.approx(asked * 0.796 / 3600 * 0.5)
    saving = sum(today - new for today, new in lines.values())
    once = {"plan": 96_000, "our own step": 144_000, "training": 30_000, "staff_training": 60_000}
    assert {each.name: each.figure.value for each in case.one_off} == once
    assert case.monthly_saving.value == pytest.approx(saving)
    assert case.inference_saving_share.value == pytest.approx(1 - 10_950 / 120_000)
    assert case.roi.value == pytest.approx((36 * saving - 330_000) / 330_000)
    assert case.npv.value == pytest.approx(discounted(saving, 330_000, 36, 0.05))
    assert case.payback_months.value == pytest.approx(330_000 / saving)
    # Nothing measured has an interval here, so no result has one.
    results = [getattr(case, name) for name in BusinessCase.model_fields]
    assert all(each.low is None and each.basis == "computed" for each in results if isinstance(each, Figure))


@pytest.mark.parametrize("rate", [0.0, 0.05, 0.4])
def test_an_annuity_is_the_sum_of_its_months(rate):
    assert payback.annuity(rate, 36) == pytest.approx(discounted(1, 0, 36, rate))


def test_today_by_the_hour_is_whole_machines():
    by_hour = {"price_per_hour": 50, "requests_per_hour": 10_000}
    line = one({"peak_rps": 20, "today": by_hour}).monthly[0]
    assert line.today.value == math.ceil(20 * 3600 / 10_000) * 50 * 730
    assert [line.name for line in one({"today": by_hour}).monthly] == ["inference"]


def test_without_a_price_the_teacher_on_the_same_target_is_today():
    case = one({"peak_rps": 20})
    assert case.monthly[0].today.value == money.machines(20, 9) * 15 * 730 == 3 * 15 * 730
    assert case.monthly[0].new.value == 15 * 730
    assert {each.name for each in case.assumptions if each.source == "measured"} == {
        "throughput_rps",
        "teacher.throughput_rps",
    }


def test_a_target_without_a_rate_or_a_price_today_has_no_account_and_a_reason():
    none = figure(None, "1/s")
    for compared, reason in (
        (rows(rps=none), "money.none.no_rate"),
        (rows(rps=figure(0.0, "1/s")), "money.none.no_rate"),
        (rows(teacher_rps=none), "money.none.no_today"),
        (rows(teacher=False), "money.none.no_today"),
    ):
        asked = recipe({"today": {"latency_ms": 5}})
        assert cases(asked, compared, None) == ()
        teacher = compared[1].targets[0] if len(compared) > 1 else None
        assert why_none(asked.business, compared[0].targets[0], teacher) == reason
        assert reason in TEXTS
    assert cases(recipe(BUSINESS), rows(teacher=False), None) != ()


def test_a_line_without_numbers_is_not_there():
    case = one(BUSINESS)  # no risk: errors have a price, but were not counted
    assert [line.name for line in case.monthly] == ["inference", "operation", "staff_waiting"]
    assert "money.errors" in words.without(case)
    unfelt = [model("chosen", figure(300.0, "1/s"), None)]
    assert [line.name for line in one(BUSINESS, unfelt).monthly] == ["inference", "operation"]


def test_a_projected_target_says_so():
    case = one(BUSINESS, rows(rps=figure(300.0, "1/s", basis="projected")))
    assert case.npv.basis == case.monthly[0].new.basis == "projected"
    assert case.monthly[0].today.basis == case.monthly[1].new.basis == "computed"  # stated, on whatever machine
    assert next(each for each in case.assumptions if each.name == "throughput_rps").source == "projected"


# Intervals


def test_the_interval_is_the_analytic_one_where_the_saving_is_a_line_of_one_figure():
    case = one(BUSINESS, risked=risk(difference=(10, 60)))  # lopsided: 22 below 32, 28 above
    value = case.monthly_saving.value
    # The saving falls by 1,000 for each unit of the difference, so its ends are those of the difference.
    assert case.monthly_saving.low == pytest.approx(value - 28_000, abs=1500)
    assert case.monthly_saving.high == pytest.approx(value + 22_000, abs=1500)
    assert case.payback_months.low == pytest.approx(330_000 / case.monthly_saving.high)
    assert case.payback_months.high == pytest.approx(330_000 / case.monthly_saving.low)
    assert case.npv.low == pytest.approx(discounted(case.monthly_saving.low, 330_000, 36, 0.05))
    assert case.inference_saving_share.low is None  # no error is in it


def test_a_latency_is_drawn_on_the_log_scale():
    case = one(BUSINESS, rows(p50=figure(100.0, "ms", (50.0, 400.0))))
    hours = 20 * 160 * 30 * 0.5 / 3_600_000
    assert case.staff_hours.low == pytest.approx(hours * (800 - 400), rel=0.03)
    assert case.staff_hours.high == pytest.approx(hours * (800 - 50), rel=0.03)
    random = np.random.default_rng(1)
    draws = payback.drawn(figure(100.0, "ms", (50.0, 400.0)), confidence=0.95, random=random, log=True)
    assert np.median(draws) == pytest.approx(100, rel=0.03)
    below = np.log(draws[draws < 100] / 100)  # a half normal: its mean square is the variance
    assert np.sqrt(np.mean(below**2)) == pytest.approx(math.log(2) / 1.96, rel=0.03)


def test_an_end_that_could_not_be_had_is_as_far_as_the_other():
    random = np.random.default_rng(2)
    open_end = Figure(value=10.0, unit="JPY", low=8.0)
    draws = payback.drawn(open_end, confidence=0.95, random=random, log=False)
    assert np.quantile(draws, [0.025, 0.975]) == pytest.approx([8, 12], abs=0.1)


def test_a_throughput_near_the_peak_makes_the_number_of_machines_doubtful():
    line = one(BUSINESS, rows(rps=figure(20.5, "1/s", (18.0, 23.0)))).monthly[0]
    assert (line.new.value, line.new.low, line.new.high) == (10_950, 10_950, 21_900)
    assert line.today.low is None


def test_draws_go_by_the_recipes_seed():
    doubtful = rows(p50=figure(100.0, "ms", (50.0, 400.0)))
    assert one(BUSINESS, doubtful) == one(BUSINESS, doubtful)
    assert one(BUSINESS, doubtful).npv.low != one(BUSINESS, doubtful, seed=1).npv.low


# Payback that never comes


def test_a_horizon_shorter_than_the_payback_is_said_not_refused():
    case = one(BUSINESS | {"horizon_months": 2})
    assert case.payback_months.value is None and case.npv.value < 0
    assert words.payback_key(case) == "money.says.payback.never"
    assert (
        "2\N{NO-BREAK SPACE}months" in words.sentences(case, "en")[1]
        and "2\N{NO-BREAK SPACE}か月" in words.sentences(case, "ja")[1]
    )


def test_a_dearer_model_never_pays():
    case = one(BUSINESS | {"today": {"price_per_1000": 1}})
    assert case.inference_saving_share.value == pytest.approx(1 - 10.95)
    assert words.saving_key(case) == "money.says.costs_more"
    assert words.payback_key(case) == "money.says.loses"


def test_a_payback_that_may_never_come_has_no_upper_end():
    case = one(BUSINESS | {"horizon_months": 12}, risked=risk(difference=(-30, 140)))
    assert case.payback_months.high is None and case.payback_months.low is not None
    assert words.payback_key(case) == "money.says.payback.may_never"
    case = one(BUSINESS | {"horizon_months": 3}, risked=risk(difference=(-90, 140)))
    assert case.payback_months.value is None
    assert words.payback_key(case) == "money.says.payback.never_but"


def test_where_nothing_is_spent_once_there_is_no_return_on_it():
    case = one({"today": {"price_per_1000": 120}})
    assert case.roi.value is None and case.one_off == () and case.payback_months.value == 0
    assert words.payback_key(case) == "money.says.payback.none_spent"
    free = one({"today": {"price_per_1000": 0}})
    assert free.inference_saving_share.value is None and free.payback_months.value is None
    assert words.saving_key(free) == "money.says.free"


# Break-even


def brute(per_request: float, fixed: float, today: tuple[float, float], new: tuple[float, float], plan: int) -> float:
    """Every volume tried, with the scalar rule of money.machines."""

    def pays(volume: int) -> bool:
        paid = [money.machines(volume, carries) * price for carries, price in (today, new)]
        return per_request * volume + fixed + paid[0] - paid[1] >= 0

    if pays(plan):
        return max((volume for volume in range(1, plan) if not pays(volume)), default=0) + 1
    return next((float(volume) for volume in range(plan + 1, even.GROWTH * plan + 1) if pays(volume)), math.inf)


def test_the_break_even_is_that_of_every_volume_tried():
    random = np.random.default_rng(3)
    n, plan = 60, 240
    per_request = random.choice([-0.3, 0.0, 0.4, 1.1], n)
    fixed = random.uniform(-150, 60, n)
    ours, theirs = random.uniform(20, 400, n), random.uniform(20, 400, n)
    found = even.break_even(
        per_request=per_request,
        fixed=fixed,
        today=even.Fleet(carries=ours, price=23.7),
        new=even.Fleet(carries=theirs, price=41.3),
        planned=plan,
    )
    tried = [brute(per_request[i], fixed[i], (ours[i], 23.7), (theirs[i], 41.3), plan) for i in range(n)]
    assert found.tolist() == tried
    kinds = {"never": math.inf in tried, "falls": min(tried) < plan, "all": 1 in tried}
    kinds["grows"] = any(plan < volume < math.inf for volume in tried)
    assert all(kinds.values()), kinds


def test_of_thousands_of_machines_the_break_even_is_that_of_their_parts():
    carries = np.full(500, 37.0)
    found = even.break_even(
        per_request=np.full(1, 2.0),
        fixed=np.full(500, -4e5),
        today=None,
        new=even.Fleet(carries=carries, price=60.0),
        planned=1_000_000,
    )
    assert found == pytest.approx(4e5 / (2 - 60 / 37), rel=1e-3)


def test_the_break_even_of_a_price_list_by_hand():
    case = one({"today": {"price_per_1000": 120}, "training_cost": 200_000, "discount_rate": 0})
    # 0.12 v - 10,950 = 200,000 / 36 a month, all on the one machine that carries 15 times the plan.
    assert case.break_even_requests.value == math.ceil((10_950 + 200_000 / 36) / 0.12)
    assert words.break_even_key(case) == "money.says.break_even"


def test_npv_is_nought_at_the_break_even_and_the_peak_goes_with_it():
    by_teacher = {key: value for key, value in BUSINESS.items() if key != "today"} | {"peak_rps": 200}
    for business, plan, compared in (
        (BUSINESS, 50_000, rows()),
        (BUSINESS, 1_000_000, rows()),
        (BUSINESS | {"operation": {"hours_per_month": 15, "hour_cost": 6000}}, 1_000_000, rows(rps=figure(3.0, "1/s"))),
        (by_teacher, 1_000_000, rows(rps=figure(40.0, "1/s"))),
    ):
        peak = business["peak_rps"]
        needed = one(business | {"requests_per_month": plan}, compared).break_even_requests.value
        grown = {"requests_per_month": needed, "peak_rps": peak * needed / plan}
        before = {"requests_per_month": needed - 1, "peak_rps": peak * (needed - 1) / plan}
        assert one(business | grown, compared).npv.value >= 0 > one(business | before, compared).npv.value
    assert words.break_even_key(one(BUSINESS | {"requests_per_month": 50_000})) == "money.says.break_even.grow"


# Sensitivities


def test_each_sensitivity_is_the_account_of_a_recipe_that_says_so():
    case = one(BUSINESS, risked=risk(), rtt=2)
    swings = [abs(each.npv_high - each.npv_low) for each in case.sensitivities]
    assert swings == sorted(swings, reverse=True)
    names = {each.name for each in case.assumptions if each.source in ("recipe", "default")}
    assert {each.name for each in case.sensitivities} == names
    for each in case.sensitivities:
        for number, npv in ((each.low, each.npv_low), (each.high, each.npv_high)):
            assert npv == pytest.approx(moved(each.name, number)), each.name


def moved(name: str, number: float) -> float:
    """NPV of a recipe, or of measured figures, in which one number is another."""
    business = {key: dict(value) if isinstance(value, dict) else value for key, value in BUSINESS.items()}
    at, felt, risked = {"rtt": 2.0, "price": 15.0}, 4.0, risk()
    if name == "target.rtt_ms":
        at["rtt"], felt = number, 4.0 + number - 2.0
    elif name == "target.price_per_hour":
        at["price"] = number
    elif name == "error_cost":
        risked = risk(scale=number / 2)
    elif name == "migration.hours":
        business["migration"]["hours"] = {"all": number}
    elif "." in name:
        part, key = name.split(".")
        business[part][key] = number
    else:
        business[name] = number
    return one(business, rows(p50=figure(felt, "ms")), risked, **at).npv.value


def test_more_saves_more_or_less_as_one_would_expect():
    case = one(BUSINESS, risked=risk(), rtt=2)
    better = {"requests_per_month", "today.price_per_1000", "today.latency_ms", "horizon_months"} | {
        f"staff.{key}" for key in ("people", "hours_per_month", "requests_per_hour", "share_waiting", "hour_cost")
    }
    unmoved = {"peak_rps"}  # one machine carries 15 times the peak
    for each in case.sensitivities:
        sign = 0 if each.name in unmoved else 1 if each.name in better else -1
        assert np.sign(each.npv_high - each.npv_low) == sign, each.name


def test_a_share_moves_no_further_than_all_and_a_horizon_by_whole_months():
    staff = BUSINESS["staff"] | {"share_waiting": 0.9}
    found = {each.name: each for each in one(BUSINESS | {"staff": staff, "horizon_months": 12}).sensitivities}
    assert found["staff.share_waiting"].high == 1
    assert (found["horizon_months"].low, found["horizon_months"].high) == (10, 14)


# Words


def test_every_name_has_words_and_every_formula_is_read_in_japanese():
    matrix = {"a": {"b": 2}, "b": {"a": 2}}
    told = [
        one(BUSINESS, risked=risk(), rtt=2),
        one({"error_cost": matrix, "staff": BUSINESS["staff"]}, risked=risk((10, 60))),
        one({"today": {"price_per_hour": 9, "requests_per_hour": 9000}}),
    ]
    for case in told:
        asked = [f"assumption.{each.name}" for each in case.assumptions] + [
            f"money.{each.name}" for each in case.monthly
        ]
        assert {key for key in asked if key not in TEXTS} == set()
        for lang in ("ja", "en"):
            assert all(words.sentences(case, lang))
    for how in HOW.values():
        filled = how.format(hours="8", times=10, draws="10,000")
        assert re.search(r"[\u3040-\u30ff\u4e00-\u9fff]", recorded(filled, "ja")), how
        assert recorded(filled, "en") == filled
