"""The report in other forms: Markdown to paste into a message, a workbook to reckon with, the evidence itself.

Markdown has the first screen, the KPIs, the account and the risks. The workbook has a sheet each for KPIs, models,
account, risks and assumptions; its numbers are the evidence's own, unrounded and in its units, each beside its pointer
into `evidence.json`.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, get_args

from markupsafe import Markup
from openpyxl import Workbook
from openpyxl.styles import Alignment, Font
from openpyxl.utils import get_column_letter
from openpyxl.worksheet.worksheet import Worksheet

from deshi.jobs.evidence.business.account_shown import RESULTS
from deshi.jobs.evidence.figure import Figure
from deshi.jobs.evidence.page import report
from deshi.jobs.evidence.page.first_screen import risk_words
from deshi.jobs.evidence.page.pointers import Pointers
from deshi.jobs.evidence.page.shown import Shown
from deshi.jobs.evidence.page.tables import PLACE, STYLES, chain, kpi_name, place_figure, quantity_name
from deshi.jobs.evidence.people.review_schema import Review
from deshi.jobs.evidence.schema import Evidence
from deshi.jobs.evidence.worded_cell import put_words
from deshi.serve.texts import Language, named, recorded

Format = Literal["html", "md", "json", "xlsx"]
FORMATS: tuple[Format, ...] = get_args(Format)
FIGURE_COLUMNS = ("money.value", "book.unit", "book.low", "book.high", "kpi.n", "book.basis", "book.how",
                  "book.entry")  # fmt: skip
MOST_WIDTH = 60
UNMEASURED = Figure(value=None, unit="", basis="not measured")  # a risk without a figure still has its row


def write(
    evidence_path: Path, out: Path, lang: Language, form: Format = "html", *, review: Review | None = None
) -> Path:
    """Writes the report in one step: to `out`, or if that has not the form's suffix, as `report.<form>` in that folder.

    The page holds both languages and shows `lang` first; it alone has what people said, the `review`.

    Raises:
        ValueError: if the form or the language is not known, or the evidence cannot be read.
    """
    if form not in FORMATS:
        raise ValueError(f"format {form!r} is not known; use one of {', '.join(FORMATS)}")
    report.known(lang)
    evidence = report.read(evidence_path)
    made = {
        "html": lambda: report.render(evidence, lang, review).encode(),
        "md": lambda: markdown(evidence, lang).encode(),
        "json": evidence_path.read_bytes,
        "xlsx": lambda: workbook(evidence, lang),
    }
    return report.put(made[form](), out if out.suffix == f".{form}" else out / f"report.{form}")


def markdown(evidence: Evidence, lang: Language) -> str:
    """The first screen, the KPIs, the account and the risks in Markdown."""
    pages = report.templates()
    pages.filters["plain"] = _plain
    pages.filters["cell"] = lambda words: _plain(words).replace("|", "\\|")
    return pages.get_template("report.md").render(report.view(Shown(evidence, Pointers(evidence), lang)))


def workbook(evidence: Evidence, lang: Language) -> bytes:
    """The sheets as the bytes of an .xlsx file."""
    s = Shown(evidence, Pointers(evidence), lang)
    book = Workbook()
    book.remove(book.worksheets[0])
    book.properties.creator = "Deshi"
    book.properties.created = book.properties.modified = datetime.fromisoformat(evidence.created).replace(tzinfo=None)
    _sheet(book, s, "kpis", ("kpi.axis", "kpi.name", "kpi.limit", "kpi.verdict"), _kpis(s))
    _sheet(book, s, "models", ("quality.model", "quality.chain", "book.target", "book.figure"), _models(s))
    _sheet(book, s, "account", ("book.target", "money.line", "book.figure"), _account(s))
    _sheet(
        book,
        s,
        "risks",
        ("risk.column.title", "risk.column.level", "risk.column.sign", "risk.column.counter", "book.figure"),
        _risks(s),
    )
    _assumptions(book, s)
    content = io.BytesIO()
    book.save(content)
    return content.getvalue()


Row = tuple[tuple[Any, ...], Figure | None]  # what the figure is, and the figure


def _kpis(s: Shown) -> Iterable[Row]:
    for row in s.evidence.kpis:
        verdict = s.say(f"kpi.verdict.{row.verdict}")
        yield (s.say(f"kpi.axis.{row.axis}"), kpi_name(row, s), row.limit, verdict), row.figure


def _models(s: Shown) -> Iterable[Row]:
    e = s.evidence
    for model in e.models:
        head = (named("model", model.id, s.lang), chain(model.chain, s))
        for name in STYLES:
            yield (*head, "", quantity_name(e, name, s.lang)), getattr(model.quality, name)
        for name, figure in model.quality.measures.items():
            yield (*head, "", quantity_name(e, name, s.lang)), figure
        for place in model.targets:
            for name in PLACE:
                yield (*head, place.target, quantity_name(e, name, s.lang)), place_figure(place, name)


def _account(s: Shown) -> Iterable[Row]:
    for case in s.evidence.business:
        for line in case.monthly:
            name = named("money", line.name, s.lang)
            yield (case.target, name, s.say("money.today")), line.today
            yield (case.target, name, s.say("money.new")), line.new
        for once in case.one_off:
            yield (case.target, named("one_off", once.name, s.lang), s.say("money.once")), once.figure
        for name in RESULTS:
            yield (case.target, s.say("money.result"), named("account", name, s.lang)), getattr(case, name)


def _risks(s: Shown) -> Iterable[Row]:
    risk = s.evidence.risk
    for row in risk.ledger if risk is not None else ():
        words = [risk_words(row, part, s) for part in ("title", "sign", "counter")]
        head = (words[0], s.say(f"risk.level.{row.level}"), *words[1:])
        yield (*head, s.say("risk.column.figure")), row.figure or UNMEASURED
        yield (*head, s.say("risk.column.effect")), row.effect


def _sheet(book: Workbook, s: Shown, name: str, columns: tuple[str, ...], rows: Iterable[Row]) -> None:
    """A sheet of figures; what was not there to measure has no row."""
    sheet = book.create_sheet(str(s.say(f"book.{name}")))
    _put(sheet, [s.say(column) for column in (*columns, *FIGURE_COLUMNS)])
    for head, figure in rows:
        if figure is None:
            continue
        entry = "" if figure is UNMEASURED else s.at(figure)
        basis, how = s.say(f"basis.{figure.basis}"), recorded(figure.how, s.lang)
        numbers = (figure.value, figure.unit, figure.low, figure.high, figure.n)
        _put(sheet, [*head, *numbers, basis, how, entry])
    _fit(sheet)


def _assumptions(book: Workbook, s: Shown) -> None:
    sheet = book.create_sheet(str(s.say("book.assumptions")))
    columns = ("book.target", "money.assumption", "money.value", "book.unit", "money.source", "book.entry")
    _put(sheet, [s.say(column) for column in columns])
    for case in s.evidence.business:
        for each in case.assumptions:
            source = s.say(f"money.source.{each.source}")
            name = named("assumption", each.name, s.lang)
            _put(sheet, [case.target, name, each.value, each.unit, source, s.at(each, "value")])
    _fit(sheet)


def _put(sheet: Worksheet, values: list[Any]) -> None:
    """Appends a row. A word stays a word even where it begins like a formula."""
    row = sheet.max_row + 1 if sheet.max_row > 1 or sheet["A1"].value is not None else 1
    for column, value in enumerate(values, start=1):
        cell = sheet.cell(row=row, column=column)
        if isinstance(value, str):
            put_words(cell, _plain(value))
        else:
            cell.value = value


def _fit(sheet: Worksheet) -> None:
    """A head that stays, and columns as wide as their words, up to a limit."""
    sheet.freeze_panes = "A2"
    for cell in sheet[1]:
        cell.font = Font(bold=True)
    for number, column in enumerate(sheet.columns, start=1):
        longest = max(len(str(cell.value if cell.value is not None else "")) for cell in column)
        sheet.column_dimensions[get_column_letter(number)].width = min(MOST_WIDTH, 1.6 * longest + 2)
        for cell in column:
            cell.alignment = Alignment(vertical="top", wrap_text=True)


def _plain(words: Any) -> str:
    """Markup as the words that it shows."""
    return words.striptags() if isinstance(words, Markup) else str(words)
