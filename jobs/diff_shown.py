"""What `deshi diff` prints: shares, latencies, the keys that differ, and what that leaves to do.

Values of replies may be customer text and are shown on request only; keys and line numbers always.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from deshi.jobs.evidence.figure import Figure
from deshi.jobs.evidence.migration.diff_schema import Diff, DiffRow, KeyDifference

MOST_KEYS = 10
LONGEST = 60  # characters of a value
MEANING = {
    "same": "the replies are the same",
    "value": "same shape, another value",
    "shape": "key missing, extra, other type",
    "failed": "no reply, no JSON, other status",
}


def show(found: Diff, rows: Sequence[DiffRow], path: Path, *, show: bool) -> None:
    """Prints a finished comparison; `show`: with values."""
    out = Console(highlight=False, soft_wrap=True)
    out.print(Text(f"{found.url} and {found.name} ({found.decision}) on {found.target}: {len(rows)} requests"))
    out.print(_outcomes(found))
    out.print(_latencies(found))
    if found.keys:
        out.print(_keys(found))
        if show:
            for key in found.keys[:MOST_KEYS]:
                out.print(_example(key, rows))
    for line in _effort(found, path):
        out.print(Text(line))


def _outcomes(found: Diff) -> Table:
    table = Table("replies", "meaning", "share", f"{100 * found.confidence:g}% interval", "requests")
    for name, figure in found.outcomes.items():
        count = round((figure.value or 0) * (figure.n or 0))
        table.add_row(name, MEANING[name], _percent(figure.value), _interval(figure), f"{count} of {figure.n}")
    return table


def _latencies(found: Diff) -> Table:
    table = Table("latency, ms", "p50", "p95", "replies")
    for name, latency in (("old service", found.old), (f"{found.name} on loopback", found.new)):
        p50, p95 = (
            "not measured" if each.value is None else f"{each.value:.1f}" for each in (latency.p50, latency.p95)
        )
        table.add_row(Text(name), p50, p95, str(latency.p50.n))
    return table


def _keys(found: Diff) -> Table:
    table = Table(Column("key", overflow="fold"), "difference", "replies", "lines")
    for key in found.keys[:MOST_KEYS]:
        words = f"{key.kind}, {key.detail}" if key.detail else key.kind
        lines = ", ".join(map(str, key.lines)) + (", ..." if key.rows > len(key.lines) else "")
        table.add_row(_plain(key.key), words, str(key.rows), lines)
    if (more := len(found.keys) - MOST_KEYS) > 0:
        table.caption = f"and {more} more in the figures"
    return table


def _example(key: KeyDifference, rows: Sequence[DiffRow]) -> Text:
    """The first place where a key differs."""
    row = next(row for row in rows if row.line == key.lines[0])
    place = next(
        each for each in row.differences if (each.key, each.kind, each.detail) == (key.key, key.kind, key.detail)
    )
    old = "(missing)" if key.kind == "extra" else _value(place.old)
    new = "(missing)" if key.kind == "missing" else _value(place.new)
    return _plain(f"  line {row.line}, {key.key}: {old} -> {new}")


def _effort(found: Diff, path: Path) -> list[str]:
    """What is left to do, in sentences."""
    failed = found.outcomes["failed"]
    pairs = ", ".join(f"{statuses} x{count}" for statuses, count in found.statuses.items())
    lines = []
    if found.mapping_keys.value:
        lines.append(f"keys that differ in shape (work on the mapping): {found.mapping_keys.value:.0f}")
    if found.review_rows.value:
        lines.append(f"replies that differ in value alone (people review them): {found.review_rows.value:.0f}")
    if failed.value:
        lines.append(f"requests that failed (look into each): {round(failed.value * (failed.n or 0))}")
    if not lines:
        lines.append("nothing differs: clients need no change for these requests")
    if pairs:
        lines.append(f"statuses that were not 2xx, old/new: {pairs}")
    return [*lines, f"rows: {path}, figures: {path.with_suffix('.json')}"]


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}%"


def _interval(figure: Figure) -> str:
    return f"{_percent(figure.low)} to {_percent(figure.high)}"


def _value(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def _plain(text: str) -> Text:
    """What another service wrote must not steer the terminal."""
    return Text("".join(character if character.isprintable() else "?" for character in text))
