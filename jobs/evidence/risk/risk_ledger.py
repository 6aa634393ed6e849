"""The ledger of risks: what may go wrong with the chosen model, how far it was measured, and how one would notice.

Words are texts `risk.<code>.title|sign|counter`; a row is left out where its risk cannot arise (nothing rounded, no row
cut). The level of a measured risk follows one rule, that of a KPI's verdict, from the figure's interval and a limit:

    high      all of the interval lies beyond the limit: the harm is shown
    medium    the interval straddles the limit: the harm is not shown, nor its absence
    low       all of the interval lies within the limit
    unknown   there is no figure

| code | figure | limit |
|---|---|---|
| worst_slice | drop of the slice that is surest to drop | the recipe's margin; high where a slice is proven harmed |
| confident_wrong | share wrong with confidence of 0.9 or more | upper end of the teacher's |
| calibration | calibration error after temperature | 0.05 |
| vendor_calibration | that of a model behind a URL, as it came | 0.05 |
| error_cost | cost of errors a 1,000 requests, less the teacher's | 0 |
| quantization | share that rounding changes among rows of rare words | upper end of that among the other rows |
| explanations | agreement of reasons | low from the ceiling's lower end on; high if not above the floor's upper end |
| unknown_words | unknown tokens of the test rows | upper end of the teacher's |
| repetition, forgetting | repeated pieces of own answers; perplexity on other text over the teacher's | 0.05; 1.1 |
| near_twins, truncated | share of the test rows | none is left out; medium to 0.05, high above |
| vendor | none | unknown: of a model behind a URL, which may change any day |
| projected | targets that were not measured | high where the first is among them, else medium |
| removed | share of the parameters | medium where layers, channels or words went, low where only bits did |
| licence_teacher, licence_data | none | high: unknown is not allowed |
| one_seed, domain, reasoning, people | none | unknown: nobody looked |

`effect` is what the counter-measure was measured to do; where it was not tried (a cascade to the teacher, more rows) it
is None.
"""

from __future__ import annotations

import math
from typing import Literal

from deshi.jobs.evidence.figure import Figure
from deshi.jobs.evidence.kpis import worst_slice
from deshi.jobs.evidence.risk.risk_schema import Explanations, Risk, RiskRow
from deshi.jobs.evidence.schema import DataFacts, ModelRow, Removed
from deshi.jobs.recipe import Recipe

Level = Literal["high", "medium", "low", "unknown"]
CALIBRATION_MOST, REPETITION_MOST, FORGETTING_MOST, ROWS_MOST = 0.05, 0.05, 1.1, 0.05


def level_of(figure: Figure | None, limit: float | None) -> Level:
    """Where a figure that should be small lies beside its limit; see the rule above."""
    if figure is None or figure.value is None or limit is None:
        return "unknown"
    low, high = _ends(figure)
    if high <= limit:
        return "low"
    return "high" if low > limit else "medium"


def ledger(
    recipe: Recipe, chosen: ModelRow, teacher: ModelRow, facts: DataFacts, removed: Removed, risk: Risk
) -> tuple[RiskRow, ...]:
    """All rows that apply, the gravest first; `risk` holds the figures and no ledger yet."""
    rows = [
        *_quality(recipe, chosen, risk),
        *_of_text(chosen),
        *_reduction(chosen, teacher, removed, risk),
        *_rows(facts),
        *_where(chosen),
        *_not_looked_at(recipe),
    ]
    return tuple(sorted(rows, key=lambda row: ("high", "medium", "unknown", "low").index(row.level)))


def _quality(recipe: Recipe, chosen: ModelRow, risk: Risk) -> list[RiskRow]:
    rows = []
    worst = worst_slice(chosen.quality.slices)
    if worst is None:
        rows.append(RiskRow(code="no_slices", level="unknown"))
    else:
        harmed = [part for part in chosen.quality.slices if part.harmed]
        rows.append(
            RiskRow(
                code="worst_slice",
                level="high" if harmed else level_of(worst.drop, recipe.margin),
                figure=worst.drop,
                values={
                    "slice": f"{worst.column} = {worst.value}",
                    "rows": str(worst.n),
                    "harmed": str(len(harmed)),
                    "slices": str(len(chosen.quality.slices)),
                },
            )
        )
    if risk.confident_wrong is not None:
        limit = None if risk.teacher_confident_wrong is None else _ends(risk.teacher_confident_wrong)[1]
        rows.append(
            RiskRow(code="confident_wrong", level=level_of(risk.confident_wrong, limit), figure=risk.confident_wrong)
        )
    if risk.calibration_after is not None:
        rows.append(
            RiskRow(
                code="calibration" if chosen.asked is None else "vendor_calibration",  # no temperature of ours
                level=level_of(risk.calibration_after, CALIBRATION_MOST),
                figure=risk.calibration_after,
                effect=_less(risk.calibration_before, risk.calibration_after),
            )
        )
    if risk.error_cost_difference_per_1000 is not None:
        more = risk.error_cost_difference_per_1000
        rows.append(RiskRow(code="error_cost", level=level_of(more, 0.0), figure=more))
    return rows


def _of_text(chosen: ModelRow) -> list[RiskRow]:
    told = {"repetition": ("repetition", REPETITION_MOST), "forgetting": ("forget_perplexity_ratio", FORGETTING_MOST)}
    rows = []
    for code, (measure, limit) in told.items():
        figure = chosen.quality.measures.get(measure)
        if figure is not None:
            rows.append(RiskRow(code=code, level=level_of(figure, limit), figure=figure))
    return rows


def _reduction(chosen: ModelRow, teacher: ModelRow, removed: Removed, risk: Risk) -> list[RiskRow]:
    if chosen.asked is not None:  # nobody here knows how it was made
        vendor = RiskRow(code="vendor", level="unknown", values={"model": chosen.asked.model})
        return [vendor, RiskRow(code="explanations", level="unknown")]
    cut = bool(removed.layers or removed.ffn_share or removed.vocabulary or removed.parameters_share)
    rounded = chosen.scheme not in ("fp32", teacher.scheme)
    rows = []
    if cut or rounded:
        rows.append(
            RiskRow(
                code="removed",
                level="medium" if cut else "low",
                figure=Figure(
                    value=removed.parameters_share,
                    unit="share",
                    basis="computed",
                    how="1 - parameters of the model / parameters of the teacher",
                ),
                values={
                    "layers": str(len(removed.layers)),
                    "ffn": f"{removed.ffn_share:.0%}",
                    "vocabulary": f"{removed.vocabulary:,}",
                    "parameters": f"{removed.parameters_share:.0%}",
                    "scheme": chosen.scheme,
                },
            )
        )
    unknown, known = chosen.quality.unknown_token_rate, teacher.quality.unknown_token_rate
    if removed.vocabulary and unknown is not None:
        limit = None if known is None else _ends(known)[1]
        rows.append(RiskRow(code="unknown_words", level=level_of(unknown, limit), figure=unknown))
    if rounded:
        limit = None if risk.common_divergence is None else _ends(risk.common_divergence)[1]
        rows.append(
            RiskRow(code="quantization", level=level_of(risk.rare_divergence, limit), figure=risk.rare_divergence)
        )
    told = risk.explanations
    rows.append(RiskRow(code="explanations", level=_reasons(told), figure=None if told is None else told.agreement))
    return rows


def _reasons(told: Explanations | None) -> Level:
    """High where reasons agree no better than with an untrained model; low where they agree as two teachers do."""
    if told is None:
        return "unknown"
    low, high = _ends(told.agreement)
    if told.ceiling is not None and low >= _ends(told.ceiling)[0]:
        return "low"
    return "high" if told.floor is not None and high <= _ends(told.floor)[1] else "medium"


def _rows(facts: DataFacts) -> list[RiskRow]:
    n = facts.rows.get("test", 0)
    shares = {
        "near_twins": (facts.near_twins / n if n else 0.0, "test rows with a near-twin among the rows that models saw"),
        "truncated": (facts.truncated.get("test", 0.0), "test rows cut at data.max_length"),
    }
    return [
        RiskRow(
            code=code,
            level="medium" if share <= ROWS_MOST else "high",
            figure=Figure(value=share, unit="share", n=n, basis="computed", how=how),
        )
        for code, (share, how) in shares.items()
        if share > 0
    ]


def _where(chosen: ModelRow) -> list[RiskRow]:
    """Targets that this machine could not be."""
    names = [target.target for target in chosen.targets]
    projected = [target.target for target in chosen.targets if target.engine_ms.basis == "projected"]
    if not projected:
        return []
    return [
        RiskRow(
            code="projected",
            level="high" if names[0] in projected else "medium",
            figure=Figure(
                value=len(projected), unit="targets", n=len(names), basis="computed", how="targets not measured here"
            ),
            values={"targets": ", ".join(projected)},
        )
    ]


def _not_looked_at(recipe: Recipe) -> list[RiskRow]:
    licences = {"licence_teacher": recipe.teacher.licence, "licence_data": recipe.data.licence}
    unknown = [RiskRow(code=code, level="high") for code, name in licences.items() if name in ("", "unknown")]
    return unknown + [RiskRow(code=code, level="unknown") for code in ("one_seed", "domain", "reasoning", "people")]


def _less(before: Figure | None, after: Figure) -> Figure | None:
    if before is None or before.value is None or after.value is None:
        return None
    return Figure(
        value=before.value - after.value,
        unit=after.unit,
        n=after.n,
        basis="computed",
        how="calibration error at temperature 1 minus that at the served temperature",
    )


def _ends(figure: Figure) -> tuple[float, float]:
    """The interval; the value itself where a figure has none, infinity where one end could not be had."""
    if figure.value is None:
        return -math.inf, math.inf
    if figure.low is None and figure.high is None:
        return figure.value, figure.value
    return (
        -math.inf if figure.low is None else figure.low,
        math.inf if figure.high is None else figure.high,
    )
