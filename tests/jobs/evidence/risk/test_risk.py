"""The ledger's levels by its rule, its words in both languages, and the figures by sums done by hand."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from scipy.special import log_softmax
from statsmodels.stats.proportion import proportion_confint

from deshi.jobs.evidence.figure import Figure
from deshi.jobs.evidence.kpis import worst_slice
from deshi.jobs.evidence.measure import Answers
from deshi.jobs.evidence.risk.risk import SURE, at_temperature_1, confident_wrong, costs
from deshi.jobs.evidence.risk.risk_ledger import ledger, level_of
from deshi.jobs.evidence.risk.risk_schema import Explanations, Risk
from deshi.jobs.evidence.schema import ModelRow, Removed
from deshi.serve.texts import TEXTS, recorded, text
from tests.jobs.evidence.evidence_fixture import build_evidence

GIVEN = build_evidence()
TEACHER = GIVEN.model_row("teacher")
UNHARMED = tuple(part.model_copy(update={"harmed": False}) for part in GIVEN.model_row("chosen").quality.slices)


def chosen_with(*, scheme: str = "fp32", **quality: object) -> ModelRow:
    """The fixture's chosen model, no slice of it proven harmed and nothing of it rounded."""
    given = GIVEN.model_row("chosen")
    told = given.quality.model_copy(update={"slices": UNHARMED} | quality)
    return given.model_copy(update={"quality": told, "scheme": scheme})


def share(value: float, low: float | None = None, high: float | None = None) -> Figure:
    return Figure(value=value, unit="share", n=100, low=low, high=high)


def recipe(**licences: str) -> SimpleNamespace:
    return SimpleNamespace(
        margin=0.05,
        teacher=SimpleNamespace(licence=licences.get("teacher", "MIT")),
        data=SimpleNamespace(licence=licences.get("data", "MIT")),
    )


@pytest.mark.parametrize(
    ("figure", "level"),
    [
        (share(0.04, 0.01, 0.05), "low"),
        (share(0.04, 0.01, 0.06), "medium"),
        (share(0.07, 0.051, 0.09), "high"),
        (share(0.04, 0.01, None), "medium"),
        (share(0.04), "low"),
        (share(0.06), "high"),
        (share(0.0).model_copy(update={"value": None}), "unknown"),
        (None, "unknown"),
    ],
)
def test_a_level_goes_by_the_interval_as_a_verdict_does(figure, level):
    assert level_of(figure, 0.05) == level


def told(risk: Risk, **changes: object) -> dict:
    values = {"recipe": recipe(), "chosen": chosen_with(), "removed": Removed(), "facts": GIVEN.data} | changes
    rows = ledger(values["recipe"], values["chosen"], TEACHER, values["facts"], values["removed"], risk)
    assert len({row.code for row in rows}) == len(rows)
    assert [row.level for row in rows] == sorted(
        (row.level for row in rows), key=("high", "medium", "unknown", "low").index
    )
    return {row.code: row for row in rows}


def test_what_nobody_looked_at_is_always_in_it():
    found = told(Risk())
    assert {found[code].level for code in ("one_seed", "domain", "reasoning", "people")} == {"unknown"}
    assert "licence_teacher" not in found and "calibration" not in found and "removed" not in found
    assert told(Risk(), recipe=recipe(teacher="unknown"))["licence_teacher"].level == "high"
    assert told(Risk(), recipe=recipe(data=""))["licence_data"].level == "high"


def test_a_harmed_slice_is_high_and_is_the_one_that_is_named():
    by_drop = sorted(UNHARMED, key=lambda part: part.drop.low)
    assert worst_slice(UNHARMED) == by_drop[-1]
    harmed = by_drop[0].model_copy(update={"harmed": True})
    row = told(Risk(), chosen=chosen_with(slices=(harmed, *by_drop[1:])))["worst_slice"]
    assert (row.level, row.figure) == ("high", harmed.drop)
    assert row.values["harmed"] == "1" and row.values["slice"] == f"{harmed.column} = {harmed.value}"
    assert told(Risk(), chosen=chosen_with(slices=()))["no_slices"].level == "unknown"


def test_the_counter_measure_of_calibration_was_measured():
    row = told(Risk(calibration_before=share(0.12, 0.1, 0.14), calibration_after=share(0.03, 0.01, 0.04)))[
        "calibration"
    ]
    assert row.level == "low" and row.effect.value == pytest.approx(0.09)
    assert row.figure.value == 0.03


def test_confident_errors_and_rounding_are_held_against_what_they_are_compared_with():
    worse, like = share(0.05, 0.04, 0.06), share(0.02, 0.01, 0.03)
    assert told(Risk(confident_wrong=worse, teacher_confident_wrong=like))["confident_wrong"].level == "high"
    assert told(Risk(confident_wrong=like, teacher_confident_wrong=like))["confident_wrong"].level == "low"
    rounded = chosen_with(scheme="w8a8")
    assert told(Risk(rare_divergence=worse, common_divergence=like), chosen=rounded)["quantization"].level == "high"
    assert told(Risk(), chosen=rounded)["quantization"].level == "unknown"
    assert told(Risk(), chosen=rounded)["removed"].level == "low"
    assert "quantization" not in told(Risk())


def test_reasons_lie_between_the_floor_and_the_ceiling():
    def level(agreement: Figure, **bounds: Figure) -> str:
        return told(Risk(explanations=Explanations(agreement=agreement, **bounds)))["explanations"].level

    floor, ceiling = share(0.0, -0.1, 0.1), share(0.7, 0.6, 0.8)
    assert level(share(0.05, 0.0, 0.1), floor=floor) == "high"
    assert level(share(0.5, 0.4, 0.6), floor=floor, ceiling=ceiling) == "medium"
    assert level(share(0.7, 0.6, 0.8), floor=floor, ceiling=ceiling) == "low"
    assert level(share(0.7, 0.6, 0.8), floor=floor) == "medium"
    assert told(Risk())["explanations"].level == "unknown"


def test_rows_and_targets():
    facts = GIVEN.data.model_copy(
        update={"near_twins": 2, "rows": GIVEN.data.rows | {"test": 100}, "truncated": {"test": 0.2}}
    )
    found = told(Risk(), facts=facts)
    assert (found["near_twins"].level, found["near_twins"].figure.value) == ("medium", 0.02)
    assert (found["truncated"].level, found["truncated"].figure.value) == ("high", 0.2)
    clean = facts.model_copy(update={"near_twins": 0, "truncated": {"test": 0.0}})
    assert not {"near_twins", "truncated"} & set(told(Risk(), facts=clean))
    assert found["projected"].values == {"targets": "cloud"} and found["projected"].level == "medium"


@pytest.mark.parametrize("lang", ["ja", "en"])
def test_every_row_has_words_in_both_languages(lang):
    full = Risk(
        confident_wrong=share(0.1),
        calibration_after=share(0.1),
        error_cost_difference_per_1000=share(1.0),
        explanations=Explanations(agreement=share(0.5)),
    )
    measures = {"repetition": share(0.1), "forget_perplexity_ratio": share(2.0)}
    chosen = chosen_with(scheme="w8a8", measures=measures)
    cut = Removed(layers=(1, 2), vocabulary=9000, parameters_share=0.6)
    facts = GIVEN.data.model_copy(update={"near_twins": 2, "truncated": {"test": 0.2}})
    unknown = recipe(teacher="unknown", data="unknown")
    rows = told(full, chosen=chosen, removed=cut, recipe=unknown, facts=facts)
    codes = {key.split(".")[1] for key in TEXTS if key.startswith("risk.") and key.endswith(".counter")} - {"column"}
    assert codes == {*rows, "no_slices", "vendor", "vendor_calibration"}
    for code, row in rows.items():
        for part in ("title", "sign", "counter"):
            said = text(f"risk.{code}.{part}", lang, **row.values)
            assert said and "{" not in said
        for figure in (row.figure, row.effect):
            if figure is not None and figure.basis == "computed":
                assert lang == "en" or recorded(figure.how, "ja") != figure.how


def test_confident_errors_are_wilsons_share():
    rows = pa.table(
        {"label": ["a"] * 50, "answer": ["b"] * 7 + ["a"] * 43, "confidence": [SURE] * 4 + [0.89] * 3 + [0.99] * 43}
    )
    found = confident_wrong(lesson(None), rows)
    assert found.value == 4 / 50
    assert (found.low, found.high) == pytest.approx(proportion_confint(4, 50, alpha=0.05, method="wilson"))


def test_the_temperature_is_taken_out_again():
    logits = np.random.default_rng(0).normal(size=(20, 4)) * 5
    told_at = Answers(log_probs=log_softmax(logits / 2.5, axis=1).astype(np.float32), labels=np.zeros(20, np.int64))
    assert at_temperature_1(told_at, 2.5) == pytest.approx(log_softmax(logits, axis=1), abs=1e-5)


def test_costs_only_where_errors_have_a_price():
    rows = pa.table({"label": ["a"] * 40, "answer": ["a"] * 28 + ["b"] * 12})
    taught = pa.table({"label": ["a"] * 40, "answer": ["a"] * 30 + ["b"] * 10})
    assert costs(lesson(None), rows, taught) == {}
    found = costs(lesson(5.0), rows, taught)
    assert {name: figure.value for name, figure in found.items()} == pytest.approx(
        {
            "error_cost_per_1000": 1500,
            "teacher_error_cost_per_1000": 1250,
            "error_cost_difference_per_1000": 250,
        }
    )
    assert {figure.unit for figure in found.values()} == {"JPY"}
    assert all(recorded(figure.how, "ja") != figure.how for figure in found.values())


def lesson(error_cost: float | None) -> SimpleNamespace:
    kpi = SimpleNamespace(quality=SimpleNamespace(confidence=0.95))
    business = SimpleNamespace(error_cost=error_cost, currency="JPY")
    return SimpleNamespace(recipe=SimpleNamespace(kpi=kpi, seed=0, business=business))
