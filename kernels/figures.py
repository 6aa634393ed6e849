"""The last line of every report and benchmark, one JSON object `{"figures": [...]}`, and tables in plain text."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence

Figure = dict[str, object]
_NUMBER = re.compile(r"-?[\d.]*x?")


def figure(name: str, value: float | None, unit: str, *, bar: float | None = None, at_least: bool = True) -> Figure:
    """One figure; `holds` is None where there is no bar, or no value: what was not run holds nothing."""
    holds = None if bar is None or value is None else bool(value >= bar if at_least else value <= bar)
    return {
        "name": name,
        "value": None if value is None else round(value, 4),
        "unit": unit,
        "bar": bar,
        "holds": holds,
    }


def print_figures(figures: Sequence[Figure]) -> None:
    """The last line."""
    print(json.dumps({"figures": list(figures)}, ensure_ascii=False))


def bars(figures: Iterable[Figure]) -> str:
    """The figures that have a bar, as a table."""
    told = {True: "yes", False: "NO", None: "not run"}
    rows = [
        (str(one["name"]), "" if one["value"] is None else f"{one['value']}", f"{one['bar']}", f"{one['unit']}", holds)
        for one in figures
        if one["bar"] is not None
        for holds in (told[one["holds"]],)  # type: ignore[index]
    ]
    return table(("bar", "value", "of", "unit", "holds"), rows)


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Columns as wide as their longest cell, numbers on the right."""
    lines = [tuple(heads), *map(tuple, rows)]
    columns = list(zip(*lines, strict=True))
    widths = [max(map(len, column)) for column in columns]
    numeric = [all(map(_NUMBER.fullmatch, column[1:])) for column in columns]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, numeric, strict=True)
        ).rstrip()
        for line in lines
    )
