"""The sheets that people fill: `review.html`, one page for a tablet or for print, and `review.xlsx`.

Both show the same items in Japanese and English and say nothing of who answered: they are made from `Shown` alone. The
page saves its answers as a CSV file with the workbook's own layout, so that one reader (`review_answers.py`) reads
both, and a workbook that a person saved as CSV:

    release   <SHA-256 of the manifest>
    name      <filled by the rater>
    item | text | A | B | satisfaction A | satisfaction B | preferred | handled A | handled B | remark
    one row an item

(the page's CSV leaves text, A and B out).
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from openpyxl import Workbook
from openpyxl.cell.cell import Cell
from openpyxl.styles import Alignment, Border, Font, PatternFill, Side
from openpyxl.utils import get_column_letter
from openpyxl.worksheet.datavalidation import DataValidation
from openpyxl.worksheet.worksheet import Worksheet

from deshi.jobs.evidence.page import report
from deshi.jobs.evidence.people.review_sample import Shown
from deshi.jobs.evidence.worded_cell import put_words
from deshi.serve.texts import text

SHEET_HTML, SHEET_XLSX, TEMPLATE = "review.html", "review.xlsx", "review_sheet.html"
SHOWN = ("item", "text", "a", "b")
ASKED = ("satisfaction_a", "satisfaction_b", "preference", "handled_a", "handled_b")
COLUMNS = (*SHOWN, *ASKED, "remark")
WIDTHS = (9, 48, 40, 40, 11, 11, 13, 15, 15, 30)
CHOICES: dict[str, tuple[str, ...]] = {  # what a cell may say; `both` writes it in the two languages
    "satisfaction": ("1", "2", "3", "4", "5"),
    "preference": ("A", "B", "same"),
    "handled": ("yes", "no"),
}


def both(key: str) -> str:
    """A text of the sheets, Japanese and English on one line: `満足度 A / satisfaction A`."""
    return f"{text(f'sheet.{key}', 'ja')} / {text(f'sheet.{key}', 'en')}"


def choices(column: str) -> list[str]:
    """What a cell of a column may say, as it is written in the drop-down list and in the page's CSV."""
    found = CHOICES[column.removesuffix("_a").removesuffix("_b")]
    return [both(f"choice.{choice}") if choice in ("same", "yes", "no") else choice for choice in found]


def page(items: Sequence[Shown], *, name: str, release: str) -> str:
    """`review.html`; `name` is the run's."""
    layout = {
        "release": [both("release"), release],
        "name": both("name"),
        "columns": {column: both(column) for column in ("item", *ASKED, "remark")},
        "draft": f"deshi-review-{release[:16]}",
        "missing": both("missing"),
        "unnamed": both("unnamed"),
        "saved": both("saved"),
    }
    return (
        report.templates(Path(__file__).parent)
        .get_template(TEMPLATE)
        .render(
            items=[asdict(item) for item in items],
            name=name,
            release=release,
            t=text,
            both=both,
            choices={column: choices(column) for column in ASKED},
            # Inside <script type="application/json">, where only "<" could end the element.
            layout=json.dumps(layout, ensure_ascii=False).replace("<", "\\u003c"),
        )
    )


def workbook(items: Sequence[Shown], *, name: str, release: str) -> bytes:
    """`review.xlsx`."""
    book = Workbook()
    sheet = book.active
    assert isinstance(sheet, Worksheet)
    sheet.title = "review"
    edge = Side(style="thin", color="B4BCC7")
    box = Border(left=edge, right=edge, top=edge, bottom=edge)
    to_fill = PatternFill("solid", fgColor="FFF7E0")
    top = Alignment(vertical="top", wrap_text=True)

    _write(sheet, 1, 1, f"{both('title')}: {name}").font = Font(bold=True, size=14)
    _write(sheet, 2, 1, both("release"))
    _write(sheet, 2, 2, release).font = Font(color="5B6573")
    _write(sheet, 3, 1, both("name")).font = Font(bold=True)
    sheet.cell(3, 2).fill, sheet.cell(3, 2).border = to_fill, box
    for row, key in ((4, "blind"), (5, "rule"), (6, "back")):
        _write(sheet, row, 1, both(key))
    head = 8
    for column, key in enumerate(COLUMNS, start=1):
        cell = _write(sheet, head, column, both(key))
        cell.font, cell.alignment, cell.border = Font(bold=True), top, box
        sheet.column_dimensions[get_column_letter(column)].width = WIDTHS[column - 1]
    for row, item in enumerate(items, start=head + 1):
        sheet.cell(row, 1).value = item.row
        for column, words in enumerate((item.text, item.a, item.b), start=2):
            _write(sheet, row, column, words)
        for column in range(1, len(COLUMNS) + 1):
            sheet.cell(row, column).alignment, sheet.cell(row, column).border = top, box
            if column > len(SHOWN):
                sheet.cell(row, column).fill = to_fill
    for key in ASKED:
        letter = get_column_letter(COLUMNS.index(key) + 1)
        rule = DataValidation(type="list", formula1=f'"{",".join(choices(key))}"', allow_blank=True)
        rule.error = both("refused")
        rule.showErrorMessage = True
        rule.add(f"{letter}{head + 1}:{letter}{head + len(items)}")
        sheet.add_data_validation(rule)
    sheet.freeze_panes = f"B{head + 1}"
    sheet.print_title_rows = f"{head}:{head}"
    sheet.page_setup.orientation, sheet.page_setup.paperSize, sheet.page_setup.fitToHeight = "landscape", "9", 0
    assert sheet.sheet_properties.pageSetUpPr is not None
    sheet.sheet_properties.pageSetUpPr.fitToPage = True
    out = io.BytesIO()
    book.save(out)
    return out.getvalue()


def _write(sheet: Worksheet, row: int, column: int, words: str) -> Cell:
    cell = sheet.cell(row, column)
    assert isinstance(cell, Cell)
    put_words(cell, words.replace("\r\n", "\n"))
    return cell
