"""The account and the risks of evidence_fixture.py. INVENTED NUMBERS, as there."""

from __future__ import annotations

from typing import Any

from deshi.jobs.evidence.business.business_schema import Assumption, BusinessCase, MoneyLine, OneOff, Sensitivity
from deshi.jobs.evidence.figure import Figure
from deshi.jobs.evidence.risk.risk_schema import Changed, Explanations, Risk, RiskRow


def _around(value: float, spread: float, unit: str, n: int | None, how: str, basis: Any = "measured") -> Figure:
    return Figure(value=value, unit=unit, n=n, low=value - spread, high=value + spread, how=how, basis=basis)


def case(target: str, share: float, *, pays: bool = True) -> BusinessCase:
    """An account of invented money; `pays` says whether the horizon is long enough."""
    today = 21_900.0
    money = lambda value, how: _around(value, abs(value) * 0.1, "JPY", None, how, "computed")  # noqa: E731
    exactly = lambda value, unit, how: Figure(value=value, unit=unit, basis="computed", how=how)  # noqa: E731
    return BusinessCase(
        target=target,
        monthly=(
            MoneyLine(
                name="inference",
                today=money(today, "today.price_per_1000 x requests_per_month / 1,000"),
                new=money(today * (1 - share), "ceil(peak_rps / rate in the limit) x price_per_hour x 730 h"),
            ),
            MoneyLine(
                name="operation",
                today=exactly(0.0, "JPY", "only work that is added to today's is counted"),
                new=exactly(4_000.0, "JPY", "operation.hours_per_month x operation.hour_cost"),
            ),
            MoneyLine(
                name="staff_waiting",
                today=money(9_310.0, "hours that staff wait for today's answers (median latency) x staff.hour_cost"),
                new=money(2_140.0, "hours that staff wait for the new answers (median latency) x staff.hour_cost"),
            ),
        ),
        one_off=(
            OneOff(name="integrate", figure=exactly(80_000.0, "JPY", "16 h x migration.hour_cost")),
            OneOff(name="step 7", figure=exactly(20_000.0, "JPY", "4 h x migration.hour_cost")),
        ),
        inference_saving_share=_around(share, 0.043, "share", None, "(today's inference cost - the new one) / today's"),
        monthly_saving=money(today * share + 3_170.0, "today minus new, summed over all monthly lines"),
        staff_hours=_around(2.39, 0.2, "hours", None, "people x hours_per_month x ..."),
        roi=_around(4.6, 0.7, "share", None, "(horizon_months x monthly saving - money spent once) / money spent once"),
        npv=money(417_311.0 if pays else -41_200.0, "monthly savings, discounted, minus money spent once"),
        payback_months=Figure(
            value=6.38 if pays else None,
            unit="months",
            low=5.52 if pays else None,
            high=7.71 if pays else None,
            basis="computed",
            how="money spent once / monthly saving, undiscounted",
        ),
        break_even_requests=exactly(312_500.0, "requests", "smallest volume with NPV >= 0"),
        sensitivities=tuple(
            Sensitivity(name=name, low=value * 0.8, high=value * 1.2, npv_low=low, npv_high=high)
            for name, value, low, high in (
                ("today.price_per_1000", 21.9, 261_100.0, 573_500.0),
                ("requests_per_month", 1_000_000.0, 289_800.0, 544_900.0),
                ("horizon_months", 36.0, 331_700.0, 494_100.0),
                ("operation.hour_cost", 5_000.0, 444_000.0, 390_600.0),
            )
        ),
        assumptions=(
            Assumption(name="requests_per_month", value=1_000_000, unit="requests", source="recipe"),
            Assumption(name="today.price_per_1000", value=21.9, unit="JPY", source="recipe"),
            Assumption(name="operation.hour_cost", value=5_000, unit="JPY", source="recipe"),
            Assumption(name="horizon_months", value=36, unit="months", source="default"),
            Assumption(name="throughput_rps", value=1_205.1, unit="rps", source="measured"),
        ),
    )


def risk(worst: Figure) -> Risk:
    """Risks of invented size; `worst` is the drop of the worst slice."""
    share = lambda value, how: _around(value, value * 0.2, "share", 1002, how)  # noqa: E731
    return Risk(
        confident_wrong=share(0.021, "test rows wrong with a confidence of 0.9 or more, Wilson"),
        teacher_confident_wrong=share(0.017, "test rows wrong with a confidence of 0.9 or more, Wilson"),
        calibration_before=share(0.074, "expected calibration error, 15 bins, at temperature 1"),
        calibration_after=share(0.031, "expected calibration error, 15 bins, after temperature"),
        error_cost_per_1000=_around(1_577.0, 90.0, "JPY", 1002, "1,000 x mean price of a test row's answer"),
        teacher_error_cost_per_1000=_around(1_417.0, 80.0, "JPY", 1002, "1,000 x mean price of a test row's answer"),
        explanations=Explanations(
            agreement=_around(0.61, 0.03, "correlation", 200, "mean Spearman correlation, teacher and student"),
            ceiling=_around(0.78, 0.03, "correlation", 200, "mean Spearman correlation, two teachers"),
            floor=_around(0.08, 0.03, "correlation", 200, "mean Spearman correlation, an untrained student"),
        ),
        rare_divergence=share(0.034, "w8a8 answers unlike fp32 of the same weights, rare words"),
        common_divergence=share(0.012, "w8a8 answers unlike fp32 of the same weights, other rows"),
        changed=Changed(rows=1002, to_wrong=41, to_right=25, between_wrong=27),
        ledger=(
            RiskRow(
                code="worst_slice",
                level="high",
                figure=worst,
                values={"slice": "fine = NUM:date", "rows": "57", "harmed": "1", "slices": "6"},
            ),
            RiskRow(
                code="calibration",
                level="low",
                figure=share(0.031, "expected calibration error, 15 bins, after temperature"),
                effect=share(0.043, "calibration error at temperature 1 minus that at the served temperature"),
            ),
            RiskRow(code="projected", level="medium", values={"targets": "cloud"}),
            RiskRow(code="domain", level="unknown"),
            RiskRow(code="unheard_of_9", level="low"),
        ),
    )
