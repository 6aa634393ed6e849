"""From pairs of replies to the rows and figures of `deshi diff`.

Shares have Wilson's interval at the release's confidence, p50 and p95 the exact one between two order statistics.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from typing import Any

from deshi.jobs.evidence.figure import Figure, figure_of
from deshi.jobs.evidence.migration.diff_schema import OUTCOMES, DiffRow, KeyDifference, Latency, Outcome
from deshi.jobs.evidence.migration.json_difference import Difference, Kind, differences
from deshi.jobs.evidence.migration.replay import Pair
from deshi.jobs.evidence.risk.masking import mask
from deshi.serve.statistics import proportion_interval, quantile_interval

LINES = 3  # that are named of each key
SHAPES: tuple[Kind, ...] = ("missing", "extra", "type")


def row_of(pair: Pair, *, tolerance: float, ignore: Collection[str], masked: bool) -> DiffRow:
    """The row of one request; `masked`: personal data in values that differ is replaced by its name."""
    old, new = pair.old, pair.new
    found: tuple[Difference, ...] = ()
    outcome: Outcome = "failed"
    why = [f"{name}: {got.why}" for name, got in (("old", old), ("new", new)) if got.why]
    if old.status != new.status:
        why.append(f"status {old.status} and {new.status}")
    if not why:
        found = differences(old.reply, new.reply, tolerance=tolerance, ignore=ignore)
        kinds = {difference.kind for difference in found}
        outcome = "same" if not found else "value" if kinds == {"value"} else "shape"
    if masked:
        found = tuple(
            each.model_copy(update={"old": masked_value(each.old), "new": masked_value(each.new)}) for each in found
        )
    return DiffRow(
        line=pair.asked.line,
        outcome=outcome,
        old_status=old.status,
        new_status=new.status,
        old_ms=round(old.ms, 3),
        new_ms=round(new.ms, 3),
        why="; ".join(why),
        differences=found,
    )


def masked_value(value: Any) -> Any:
    """A JSON value whose texts are masked, keys as they are."""
    if isinstance(value, str):
        return mask(value)
    if isinstance(value, list):
        return [masked_value(each) for each in value]
    if isinstance(value, dict):
        return {name: masked_value(each) for name, each in value.items()}
    return value


def outcomes_of(rows: Sequence[DiffRow], *, confidence: float) -> dict[Outcome, Figure]:
    """The share of each outcome."""
    counts = Counter(row.outcome for row in rows)
    how = {
        "same": "requests whose replies are the same / requests",
        "value": "requests whose replies have the same shape and another value / requests",
        "shape": "requests whose replies have a key missing, extra or of another type / requests",
        "failed": "requests without two JSON replies of the same status / requests",
    }
    return {
        name: figure_of(proportion_interval(counts[name], len(rows), confidence=confidence), "share", how[name])
        for name in OUTCOMES
    }


def keys_of(rows: Sequence[DiffRow]) -> tuple[KeyDifference, ...]:
    """The keys that differ, those in most replies first; a key counts once a reply."""
    lines: dict[tuple[str, Kind, str], list[int]] = defaultdict(list)
    for row in rows:
        for place in sorted({(found.key, found.kind, found.detail) for found in row.differences}):
            lines[place].append(row.line)
    ordered = sorted(lines.items(), key=lambda each: (-len(each[1]), each[0]))
    return tuple(
        KeyDifference(key=key, kind=kind, detail=detail, rows=len(of_key), lines=tuple(of_key[:LINES]))
        for (key, kind, detail), of_key in ordered
    )


def statuses_of(rows: Sequence[DiffRow]) -> dict[str, int]:
    """How often which statuses came together, where one was not 2xx."""
    pairs = Counter((row.old_status, row.new_status) for row in rows)
    return {f"{old}/{new}": count for (old, new), count in sorted(pairs.items()) if not (_good(old) and _good(new))}


def latency_of(answers: Sequence[tuple[int, float]], *, confidence: float, where: str) -> Latency:
    """Of one service, from status and milliseconds of each reply; `where` says what lies between."""
    good = [ms for status, ms in answers if _good(status)]
    how = f"one request at a time {where}, first byte sent to last byte read, {len(good)} of {len(answers)} answered"
    if not good:
        none = Figure(value=None, unit="ms", n=0, basis="not measured", how=how)
        return Latency(p50=none, p95=none)
    p50, p95 = (quantile_interval(good, quantile, confidence=confidence) for quantile in (0.5, 0.95))
    return Latency(p50=figure_of(p50, "ms", how), p95=figure_of(p95, "ms", how))


def work_of(rows: Sequence[DiffRow], keys: Sequence[KeyDifference]) -> tuple[Figure, Figure]:
    """What is left to do: keys for the mapping, replies for people to judge."""
    shape = len({key.key for key in keys if key.kind in SHAPES})
    review = sum(row.outcome == "value" for row in rows)
    return (
        Figure(value=shape, unit="keys", n=len(rows), how="keys missing, extra or of another type in any reply"),
        Figure(value=review, unit="requests", n=len(rows), how="requests whose replies differ in values alone"),
    )


def _good(status: int) -> bool:
    return 200 <= status < 300
