"""Sheets for tests: pairs of answers, and files as people hand them back."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from openpyxl import load_workbook

from deshi.jobs.evidence.people.review_sample import Pair, shown
from deshi.jobs.evidence.people.review_schema import ReviewKey
from deshi.jobs.evidence.people.review_sheet import ASKED, COLUMNS, page, workbook

RELEASE = "ab12" * 16
Said = Mapping[str, object]  # column -> what a person wrote
Opinion = Callable[[str], Said]  # what a person says of an answer: satisfaction, handled


def pairs_of(rows: int, differing: Sequence[int]) -> list[Pair]:
    """Row n asks "question n"; both answer "yes n", but on the differing rows the student answers "no n"."""
    return [
        Pair(
            row=row,
            text=f"question {row}",
            student=f"{'no' if row in differing else 'yes'} {row}",
            teacher=f"yes {row}",
        )
        for row in range(rows)
    ]


def judged(a: str, b: str, opinion: Opinion, preference: object) -> dict[str, object]:
    """A row of a sheet by somebody who has an opinion of each answer, whatever its letter."""
    said: dict[str, object] = {"preference": preference}
    for letter, answer in (("a", a), ("b", b)):
        said |= {f"{name}_{letter}": value for name, value in opinion(answer).items()}
    return said


def filled_workbook(path: Path, pairs: Sequence[Pair], key: ReviewKey, name: str, said: Mapping[int, Said]) -> Path:
    """The workbook of a key, filled in by item; what is not said of an item stays open."""
    book = load_workbook(io.BytesIO(workbook(shown(pairs, key), name="fixture", release=key.release)))
    sheet = book.worksheets[0]
    sheet["B3"] = name
    for row in range(9, 9 + len(key.items)):
        for column, value in said.get(sheet.cell(row, 1).value, {}).items():
            sheet.cell(row, COLUMNS.index(column) + 1).value = value
    book.save(path)
    return path


def saved_csv(path: Path, pairs: Sequence[Pair], key: ReviewKey, name: str, said: Mapping[int, Said]) -> Path:
    """The CSV file that the page saves: its layout is read from the page itself, quoting is its script's."""
    html = page(shown(pairs, key), name="fixture", release=key.release)
    layout = json.loads(re.search(r'<script type="application/json" id="layout">(.*?)</script>', html, re.S).group(1))
    columns = list(layout["columns"])
    grid = [layout["release"], [layout["name"], name], [], list(layout["columns"].values())]
    for item in key.items:
        cells = {"item": item.row, **said.get(item.row, {})}
        grid.append([str(cells.get(column, "")) for column in columns])
    out = io.StringIO()
    csv.writer(out, quoting=csv.QUOTE_ALL, lineterminator="\r\n").writerows(grid)
    path.write_bytes(b"\xef\xbb\xbf" + out.getvalue().encode())
    return path


def everything(key: ReviewKey, **said: object) -> dict[int, Said]:
    """The same answers to all items."""
    whole = {"satisfaction_a": 4, "satisfaction_b": 4, "preference": "same", "handled_a": "yes", "handled_b": "no"}
    assert set(whole) == set(ASKED)
    return {item.row: whole | said for item in key.items}
