"""Reading filled sheets: `.xlsx`, or `.csv` as the page saves it (or a spreadsheet, in UTF-8 or Japanese cp932).

A file is a grid of cells; rows are found by their first cell, columns by their heading (`review_sheet.both`), so rows
may be sorted, inserted or left out. Cells are read in NFKC, so full-width digits and letters count. An item counts
where all five questions are answered and is skipped where none is. Anything else is refused before a figure is made.
"""

from __future__ import annotations

import csv
import io
import unicodedata
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from deshi.jobs.evidence.people.review_schema import Judged, KeyItem, Rating, ReviewKey
from deshi.jobs.evidence.people.review_sheet import ASKED, CHOICES, both
from deshi.serve.texts import LANGUAGES, text

Grid = list[list[str]]
Answers = dict[str, str]  # column -> one of CHOICES


def ratings_of(paths: Sequence[Path], key: ReviewKey) -> list[Rating]:
    """Everybody's ratings of the items of a release; people are numbered in the order in which their names appear.

    Raises:
        ValueError: in one sentence, for the first thing that a file may not say.
    """
    items = {str(item.row): item for item in key.items}
    told: dict[tuple[str, str], tuple[Path, Answers]] = {}
    for path in paths:
        name, answers = _read(path, key.release, items)
        for row, said in answers:
            before, other = told.setdefault((name, row), (path, said))
            if other != said:
                raise ValueError(
                    f"{name!r} answers item {row} in one way in {before} and in another in {path}; keep one of them"
                )
    raters = {name: number for number, name in enumerate(dict.fromkeys(name for name, _ in told), start=1)}
    return [_rating(raters[name], items[row], said) for (name, row), (_, said) in told.items()]


def _read(path: Path, release: str, items: Mapping[str, KeyItem]) -> tuple[str, list[tuple[str, Answers]]]:
    """The rater's name, and the answers by item."""
    grid = _grid(path)
    if not any(cell for row in grid for cell in row):
        raise ValueError(f"{path} is empty; give a filled review.xlsx or the CSV file that review.html saved")
    subject = _beside(grid, "release")
    if subject is None:
        raise ValueError(
            f"{path} does not say which release it is for; give a file that was made from this run's sheet"
        )
    if subject != release:
        raise ValueError(
            f"{path} is for release {subject[:12]} and this run's is {release[:12]}; have the sheets of this release "
            "filled, which `deshi review` writes"
        )
    name = _beside(grid, "name")
    if not name:
        raise ValueError(f"{path} does not say who filled it; write a name beside {_plain(both('name'))!r}")
    answers = [answered for row in _item_rows(path, grid) if (answered := _answers(path, row, items)) is not None]
    if not answers:
        raise ValueError(f"{path} has no item that is answered; have some filled, or leave the file out")
    return name, answers


def _grid(path: Path) -> Grid:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}); give the path of a filled sheet") from None
    if path.suffix.lower() == ".xlsx":
        return _workbook(path, content)
    if path.suffix.lower() != ".csv":
        raise ValueError(f"{path} is no .xlsx or .csv file; give a filled sheet of `deshi review`")
    for encoding in ("utf-8-sig", "cp932"):
        try:
            rows = csv.reader(io.StringIO(content.decode(encoding), newline=""))
            return [[_plain(cell) for cell in row] for row in rows]
        except UnicodeDecodeError:
            continue
        except csv.Error as error:
            raise ValueError(f"{path} is no CSV file ({error}); have it saved again") from None
    raise ValueError(f"{path} is written in no encoding that is read here; save it as UTF-8 or Shift_JIS")


def _workbook(path: Path, content: bytes) -> Grid:
    from openpyxl import load_workbook

    try:
        sheet = load_workbook(io.BytesIO(content), read_only=True, data_only=True).worksheets[0]
        return [[_plain(cell) for cell in row] for row in sheet.iter_rows(values_only=True)]
    except (zipfile.BadZipFile, KeyError, ValueError, IndexError, SyntaxError) as error:  # XML errors are SyntaxErrors
        raise ValueError(f"{path} is no workbook ({' '.join(str(error).split())[:80]}); have it saved again") from None


def _plain(cell: Any) -> str:
    """A cell's words in NFKC without space around them; 4.0 is 4."""
    if cell is None:
        return ""
    if isinstance(cell, float) and cell.is_integer():
        cell = int(cell)
    return unicodedata.normalize("NFKC", str(cell)).strip()


def _beside(grid: Grid, key: str) -> str | None:
    """The cell to the right of a heading; None where the heading is not there."""
    heading = _plain(both(key))
    return next((row[1] if len(row) > 1 else "" for row in grid if row and row[0] == heading), None)


def _item_rows(path: Path, grid: Grid) -> list[dict[str, str]]:
    """Every row below the headings as column -> cell."""
    heading = _plain(both("item"))
    head = next((number for number, row in enumerate(grid) if row and row[0] == heading), None)
    if head is None:
        raise ValueError(f"{path} has no row of headings ({heading!r} first); give a filled sheet of `deshi review`")
    places = {}
    for column in ("item", *ASKED):
        if _plain(both(column)) not in grid[head]:
            raise ValueError(f"{path} has no column {_plain(both(column))!r}; give a filled sheet of `deshi review`")
        places[column] = grid[head].index(_plain(both(column)))
    return [
        {column: row[place] if place < len(row) else "" for column, place in places.items()} for row in grid[head + 1 :]
    ]


def _answers(path: Path, row: Mapping[str, str], items: Mapping[str, KeyItem]) -> tuple[str, Answers] | None:
    """The item and its five answers, or None where nothing was answered."""
    said = {column: row[column] for column in ASKED if row[column]}
    if not said:
        return None
    item = row["item"]
    if item not in items:
        raise ValueError(f"{path} answers item {item!r}, which is not on the sheet; leave the first column as it was")
    missing = [column for column in ASKED if column not in said]
    if missing:
        raise ValueError(
            f"{path} leaves {text(f'sheet.{missing[0]}', 'en')!r} of item {item} open; answer all five or clear the row"
        )
    return item, {column: _choice(path, item, column, words) for column, words in said.items()}


def _choice(path: Path, item: str, column: str, words: str) -> str:
    """One of CHOICES, written as the list has it or in either language."""
    allowed = CHOICES[column.removesuffix("_a").removesuffix("_b")]
    for choice in allowed:
        ways = {choice}
        if choice in ("same", "yes", "no"):
            ways |= {both(f"choice.{choice}"), *(text(f"sheet.choice.{choice}", lang) for lang in LANGUAGES)}
        if words.casefold() in {_plain(way).casefold() for way in ways}:
            return choice
    raise ValueError(
        f"{path} has {words!r} as {text(f'sheet.{column}', 'en')!r} of item {item}; write one of {', '.join(allowed)}"
    )


def _rating(rater: int, item: KeyItem, said: Answers) -> Rating:
    """Whose answers they were."""
    letters = {"student": item.student, "teacher": "B" if item.student == "A" else "A"}

    def judged(who: Literal["student", "teacher"]) -> Judged:
        letter = letters[who].lower()
        return Judged(satisfaction=int(said[f"satisfaction_{letter}"]), handled=said[f"handled_{letter}"] == "yes")

    preferred = {letter: who for who, letter in letters.items()} | {"same": "same"}
    return Rating.model_validate(
        {
            "rater": rater,
            "row": item.row,
            "student": judged("student"),
            "teacher": judged("teacher"),
            "preference": preferred[said["preference"]],
        }
    )
