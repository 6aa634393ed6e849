"""The verdict on the chosen model, by the test rows: ACCEPT, REJECT or INCONCLUSIVE, with its reasons in words.

It goes by intervals, since it is a promise: a figure whose interval straddles its limit is INCONCLUSIVE, and the
verdict says how many rows would settle it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from scipy import stats

from deshi.jobs.evidence.figure import Figure
from deshi.jobs.evidence.kpis import weakest_slice
from deshi.jobs.evidence.numbers import digits
from deshi.jobs.evidence.schema import Decision, KpiRow, KpiVerdict, Reason, SliceRow, Verdict
from deshi.serve.statistics import rows_needed

_SUBJECTS = {
    "latency_ms_p95": "latency p95 on {target}",
    "first_token_p95": "first token p95 on {target}",
    "per_token_p95": "time of a token p95 on {target}",
    "size_mb": "size",
    "memory_mb": "peak memory on {target}",
    "cost_per_1000": "cost of 1,000 requests on {target}",
}
_OUTCOMES = {
    "pass": "{value} {unit}, within the limit of {limit}",
    "fail": "{value} {unit}, over the limit of {limit}",
    "inconclusive": "{value} {unit} ({low} to {high}) straddles the limit of {limit}; measure for longer",
    "unmeasured": "not measured, so the limit of {limit} {unit} is not shown to hold",
}
_TEXT_SUBJECTS = {
    "kl_mean": "mean KL to the teacher",
    "perplexity_ratio": "perplexity over the teacher's",
}
_TEXT_OUTCOMES = {
    "pass": "{value} {unit} ({low} to {high}), all of it within the limit of {limit}",
    "fail": "{value} {unit} ({low} to {high}), all of it over the limit of {limit}",
    "inconclusive": "{value} {unit} ({low} to {high}), astride the limit of {limit}: about {rows} test rows would "
    "settle it",
    "inconclusive_above": "{value} {unit} ({low} to {high}), astride the limit of {limit}, the estimate not below it: "
    "more rows would sooner reject",
    "unmeasured": "not measured, so the limit of {limit} {unit} is not shown to hold",
}
_DROP = "the score drops by {value} points ({low} to {high}), "
# Code -> English sentence. The report has a text `reason.<code>` for each in its own languages.
SENTENCES: Mapping[str, str] = MappingProxyType(
    {
        "drop.pass": _DROP + "all of it below the limit of {limit}",
        "drop.fail": _DROP + "all of it above the limit of {limit}",
        "drop.inconclusive": _DROP + "astride the limit of {limit}: about {rows} test rows would settle it",
        "drop.inconclusive_above": _DROP
        + "astride the limit of {limit}, the estimate not below it: more rows would sooner reject",
        "drop.unmeasured": "the drop of the score was not measured, so the limit of {limit} points is not "
        "shown to hold",
        "harmed_slices.pass": "no slice of the {n} that are large enough to be judged is harmed",
        "harmed_slices.fail": "slice {slice} (n = {n}) is harmed: it drops by {value} points ({low} to {high}), more "
        "than the other rows and beyond the limit of {limit}",
        "slice_least.pass": "every slice large enough to be judged scores at least {limit}%; the weakest, {slice}, "
        "{value}% ({low} to {high})",
        "slice_least.fail": "slice {slice} (n = {n}) scores {value}% ({low} to {high}), all of it below the {limit}% "
        "that every slice must reach; the teacher scores {teacher}% there",
        "slice_least.inconclusive": "slice {slice} (n = {n}) scores {value}% ({low} to {high}), astride the {limit}% "
        "that every slice must reach",
        "slice_least.unmeasured": "no slice is large enough to be judged, so the {limit}% that every slice must reach "
        "are not shown to hold",
        "projected": "the figures of {target} are projected, not measured: this machine cannot reproduce it",
    }
    | {
        f"{kind}.{outcome}": f"{subject}: {sentence}"
        for kind, subject in _SUBJECTS.items()
        for outcome, sentence in _OUTCOMES.items()
    }
    | {
        f"{kind}.{outcome}": f"{subject}: {sentence}"
        for kind, subject in _TEXT_SUBJECTS.items()
        for outcome, sentence in _TEXT_OUTCOMES.items()
    }
)


def verdict(rows: Sequence[KpiRow], *, slices: Sequence[SliceRow], confidence: float) -> Verdict:
    """REJECT if any KPI fails, else INCONCLUSIVE if any is undecided, else ACCEPT; its reasons are those KPIs.

    Args:
        rows: all KPI rows of the chosen model on the test rows, from `kpi_rows`.
        slices: those of the chosen model; each harmed one is a reason of its own.
        confidence: of the intervals; plans the rows that would settle an inconclusive figure of quality.
    """
    verdicts = {row.verdict for row in rows}
    decision: Decision = "REJECT" if "FAIL" in verdicts else "INCONCLUSIVE" if "INCONCLUSIVE" in verdicts else "ACCEPT"
    order: dict[Decision, tuple[KpiVerdict, ...]] = {
        "REJECT": ("FAIL", "INCONCLUSIVE"),
        "INCONCLUSIVE": ("INCONCLUSIVE",),
        "ACCEPT": ("PASS",),
    }
    speaking = [row for wanted in order[decision] for row in rows if row.verdict == wanted]
    needed = {
        row.name: _settled_by(row.figure, row.limit, confidence)
        for row in rows
        if row.axis == "quality" and row.verdict == "INCONCLUSIVE" and row.limit is not None
    }
    margin = next((row.limit for row in rows if row.name == "drop"), None)
    reasons = []
    for row in speaking:
        if row.name == "harmed_slices" and row.verdict == "FAIL":
            reasons += [_harmed(part, margin) for part in slices if part.harmed]
        elif row.name == "slice_least":
            reasons.append(_weakest(row, weakest_slice(slices)))
        else:
            reasons.append(_reason(row, needed.get(row.name)))
    projected = dict.fromkeys(_target(row) for row in speaking if row.figure.basis == "projected" and _target(row))
    reasons += [_sentence("projected", {"target": target}) for target in projected]
    settled = [count for count in needed.values() if count is not None]
    unsettled = len(settled) < len(needed)
    return Verdict(
        decision=decision, reasons=tuple(reasons), rows_needed=max(settled) if settled and not unsettled else None
    )


def _settled_by(figure: Figure, margin: float, confidence: float) -> int | None:
    """Rows for 80% power, with the variance of a row's difference read off the interval, so for any figure."""
    if figure.value is None or figure.low is None or figure.high is None or not figure.n:
        return None
    error = (figure.high - figure.low) / (2 * float(stats.norm.ppf((1 + confidence) / 2)))
    if not math.isfinite(error):
        return None
    needed = rows_needed(figure.value, figure.n * error**2 + figure.value**2, margin, confidence)
    return None if needed is None else max(needed, figure.n + 1)


def _reason(row: KpiRow, needed: int | None) -> Reason:
    figure, kind = row.figure, row.name.partition(".")[0]
    outcome = "unmeasured" if figure.value is None else row.verdict.lower()
    if row.axis == "quality" and outcome == "inconclusive" and needed is None:
        outcome = "inconclusive_above"
    scale, decimals = (100, 2) if kind == "drop" else (1, None)
    values = _numbers(figure, row.limit, scale, decimals)
    values |= {"target": _target(row), "unit": figure.unit, "rows": "" if needed is None else f"{needed:,}"}
    return _sentence(f"{kind}.{outcome}", values)


def _harmed(part: SliceRow, margin: float | None) -> Reason:
    named = {"slice": f"{part.column} = {part.value}", "n": f"{part.n:,}"}
    return _sentence("harmed_slices.fail", named | _numbers(part.drop, margin, 100, 2))


def _weakest(row: KpiRow, part: SliceRow | None) -> Reason:
    if part is None:
        return _sentence("slice_least.unmeasured", _numbers(row.figure, row.limit, 100, 1))
    named = {"slice": f"{part.column} = {part.value}", "teacher": digits(100 * part.teacher_score, 1)}
    return _sentence(f"slice_least.{row.verdict.lower()}", named | _numbers(part.score, row.limit, 100, 1))


def _numbers(figure: Figure, limit: float | None, scale: float, decimals: int | None) -> dict[str, str]:
    numbers = {"value": figure.value, "low": figure.low, "high": figure.high, "limit": limit}
    if figure.low is not None or figure.high is not None:  # an end that could not be had is infinite
        numbers |= {"low": -math.inf if figure.low is None else figure.low}
        numbers |= {"high": math.inf if figure.high is None else figure.high}
    told = {name: "?" if number is None else digits(scale * number, decimals) for name, number in numbers.items()}
    return told | {"n": "" if figure.n is None else f"{figure.n:,}"}


def _sentence(code: str, values: dict[str, str]) -> Reason:
    return Reason(code=code, values=values, text=SENTENCES[code].format_map(values))


def _target(row: KpiRow) -> str:
    return row.name.partition(".")[2]
