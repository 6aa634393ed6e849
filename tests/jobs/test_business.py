"""What the recipe may not say of money, in one sentence each; and which numbers its writer gave."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from deshi.jobs.evidence.business.account import stated
from deshi.jobs.recipe import Recipe

DEMO = Path(__file__).resolve().parents[2] / "examples" / "trec" / "recipe.yaml"
STAFF = {"people": 3, "hour_cost": 3000, "requests_per_hour": 20, "share_waiting": 0.5}


def load(tmp_path: Path, business: dict) -> Recipe:
    recipe = yaml.safe_load(DEMO.read_text())
    recipe["business"] = business
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return Recipe.load(tmp_path / "recipe.yaml")


@pytest.mark.parametrize(
    ("business", "sentence"),
    [
        ({"today": {"price_per_1000": -1}}, r"business.today.price_per_1000 = -1 is not allowed: .*or equal to 0"),
        ({"migration": {"hours": {"plan": -3}}}, r"business.migration.hours.plan = -3 is not allowed"),
        ({"training_cost": -1}, r"business.training_cost = -1 is not allowed"),
        ({"error_cost": -1}, r"business.error_cost: -1 is no price of wrong answers; write a number of 0 or more"),
        ({"error_cost": {"a": {"b": -1}}}, r"business.error_cost: .*'b': -1.* is no price of wrong answers"),
        ({"currency": "YEN"}, r"business.currency: currency 'YEN' is not known; use one of JPY, USD"),
        ({"requests_per_month": 0}, r"business.requests_per_month = 0 is not allowed: .*greater than 0"),
        ({"training_cost": float("inf")}, r"business.training_cost = inf is not allowed: .*finite"),
        ({"peak_rps": 0}, r"business.peak_rps = 0 is not allowed"),
        ({"today": {"price_per_hour": 5}}, r"price_per_hour and requests_per_hour go together"),
        (
            {"today": {"price_per_1000": 1, "price_per_hour": 5, "requests_per_hour": 5}},
            r"business.today: price_per_1000 and price_per_hour exclude each other; keep one",
        ),
        ({"staff": STAFF | {"share_waiting": 2}}, r"business.staff.share_waiting = 2 is not allowed"),
        ({"staff_training_hours": 8}, r"staff_training_hours has no price without staff; add staff"),
        ({"horizon_months": 0}, r"business.horizon_months = 0 is not allowed"),
        ({"discount_rate": 5}, r"business.discount_rate = 5 is not allowed: .*less than 1"),
        ({"price": 5}, r"unknown key 'business.price'; remove it"),
    ],
)
def test_what_may_not_be_said_of_money(tmp_path, business, sentence):
    with pytest.raises(ValueError, match=sentence) as refused:
        load(tmp_path, business)
    assert "\n" not in str(refused.value)


def test_a_number_is_the_recipes_or_a_default(tmp_path):
    recipe = load(tmp_path, {"peak_rps": 20, "migration": {"hours": {"plan": 8}}, "staff": STAFF})
    told = stated(recipe, recipe.targets[0], {"latency_p50_ms": None})
    source = {each.name: each.source for each in told}
    assert source["peak_rps"] == source["staff.people"] == source["migration.hours"] == "recipe"
    assert source["requests_per_month"] == source["discount_rate"] == source["migration.hour_cost"] == "default"
    assert source["staff.hours_per_month"] == "default"
    assert source["target.price_per_hour"] == "recipe" and source["target.rtt_ms"] == "default"


def test_the_demo_states_a_whole_account():
    business = Recipe.load(DEMO).business
    assert (business.currency, business.peak_rps, business.requests_per_month) == ("JPY", 20, 1_000_000)
    left_out = set(type(business).model_fields) - business.model_fields_set
    assert left_out == {"experience"}
