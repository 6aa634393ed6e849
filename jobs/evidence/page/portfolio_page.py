"""`portfolio.html`: several PoCs on one page, one row each, offline, Japanese and English; a pure function of them."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from markupsafe import Markup

from deshi.jobs.evidence.numbers import POINTS, interval, style_of, written
from deshi.jobs.evidence.page import report
from deshi.jobs.evidence.page.portfolio_schema import Portfolio, PortfolioRow
from deshi.jobs.storage import Storage
from deshi.serve.texts import LANGUAGES, TEXTS, Language, text

PAGE_FILE, DATA_FILE = "portfolio.html", "portfolio.json"


def write(told: Portfolio, storage: Storage, folder: str) -> Path:
    """Writes portfolio.json and portfolio.html into `<storage>/<folder>/`, each in one step; returns the page."""
    home = (Path(storage.root) if storage.is_local else storage.scratch) / folder
    for name, content in ((DATA_FILE, told.model_dump_json(indent=2) + "\n"), (PAGE_FILE, render(told))):
        report.put(content.encode(), home / name)
        if not storage.is_local:
            storage.upload(home / name, f"{storage.root}/{folder}/{name}")
    return home / PAGE_FILE


def render(told: Portfolio) -> str:
    """The page as text; Japanese first."""
    pages = report.templates()
    body = pages.get_template(PAGE_FILE)
    views = [(lang, Markup(body.render(_view(told, lang)))) for lang in LANGUAGES]  # noqa: S704 - autoescaped
    return report.bound(pages, views, "ja", title="portfolio.title")


def _view(told: Portfolio, lang: Language) -> dict[str, Any]:
    return {
        "t": lambda key, **values: text(key, lang, **values),
        "rows": [_row(row, lang) for row in told.rows],
        "budget": f"{told.budget_minutes:.0f}",
        "total": f"{told.seconds / 60:.0f}",
        "created": told.created.replace("T", " ").replace("+00:00", " UTC"),
    }


def _row(row: PortfolioRow, lang: Language) -> dict[str, Any]:
    """One PoC in words and figures; a figure is (value, words, interval)."""
    figured = partial(_figured, lang=lang)
    saving, payback = row.monthly_saving, row.payback_months
    title = f"risk.{row.risk}.title"
    rows = "?" if row.rows_needed is None else f"{row.rows_needed:,}"
    return {
        "row": row,
        "decision": row.decision or "FAILED",
        "verdict": text(f"verdict.{row.decision}", lang) if row.decision else text("portfolio.failed", lang),
        "drop": figured(row.drop, POINTS),
        "saving": figured(saving, style_of(saving.unit) if saving else POINTS),
        "payback": figured(payback, style_of(payback.unit) if payback else POINTS),
        "risk": text(title, lang, **row.risk_values) if row.risk and title in TEXTS else "",
        "step": text(f"portfolio.step.{row.step}", lang, rows=rows),
    }


def _figured(figure: Any, style: Any, *, lang: Language) -> tuple[str, str, str]:
    if figure is None:
        return "", "–", ""
    return str(figure.value), written(figure.value, style, lang), interval(figure, style, lang)
