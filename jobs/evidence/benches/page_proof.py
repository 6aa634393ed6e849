"""What the page of a run is worth to its readers: every number linked, a size that can be mailed, nothing in the way of
a keyboard or a screen reader; and what it costs to run several PoCs together.

The scan is axe-core's in a real browser, in both languages at 1280 and 390 pixels. Where no browser or no scanner is
at hand (they are of the development extra) it says so and prints no figure for it.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from deshi.jobs.evidence.benches.bench import show
from deshi.jobs.evidence.page import report
from deshi.jobs.evidence.page.link_check import check
from deshi.jobs.evidence.page.portfolio_page import DATA_FILE
from deshi.jobs.evidence.page.portfolio_schema import Portfolio
from deshi.jobs.evidence.schema import Evidence
from deshi.jobs.finished_run import EVIDENCE_FILE
from deshi.jobs.portfolio import FOLDER
from deshi.kernels.figures import Figure, figure
from deshi.serve.texts import LANGUAGES

MOST_MB, OVERHEAD_BAR = 6.0, 1.3
WIDTHS = (1280, 390)
GRAVE = ("serious", "critical")


def page(run: Path) -> list[Figure]:
    """Links, size and scan of the page that the run's evidence gives."""
    evidence = Evidence.model_validate_json((run / EVIDENCE_FILE).read_text(encoding="utf-8"))
    told = report.render(evidence, "ja")
    links, size = check(told, evidence), len(told.encode()) / 1e6
    grave = scanned(told)
    rows = [
        ("numbers that a reader sees", f"{links.total:,}"),
        ("of them linked to an entry that holds the same", f"{links.equal:,}"),
        ("size", f"{size:.2f} MB"),
    ]
    rows += [("scan", "not run: no chromium, or no playwright and axe")] if grave is None else []
    rows += [(f"grave findings of axe, {where}", f"{count}") for where, count in (grave or {}).items()]
    show("The page", ("what", "found"), rows)
    figures = [
        figure("numbers linked", links.share, "share", bar=1.0),
        figure("size of the page", size, "MB", bar=MOST_MB, at_least=False),
    ]
    if grave is not None:
        figures.append(figure("grave findings of axe", sum(grave.values()), "findings", bar=0, at_least=False))
    return figures


def scanned(told: str) -> dict[str, int] | None:
    """Serious and critical findings by language and width; None where nothing here can look."""
    browser = next((path for name in ("chromium", "chromium-browser") if (path := shutil.which(name))), None)
    try:
        from axe_playwright_python.sync_playwright import Axe
        from playwright.sync_api import sync_playwright
    except ImportError:
        return None
    if browser is None:
        return None
    found: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        file = Path(folder) / "report.html"
        file.write_text(told, encoding="utf-8")
        started = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        opened: Any = started.new_page()
        opened.goto(file.as_uri())
        for width in WIDTHS:
            opened.set_viewport_size({"width": width, "height": 900})
            for lang in LANGUAGES:
                opened.locator(f"label[for={lang}]").click()
                violations = Axe().run(opened, options={"resultTypes": ["violations"]}).response["violations"]
                found[f"{lang}, {width} px"] = sum(each["impact"] in GRAVE for each in violations)
        started.close()
    return found


def portfolio(run: Path) -> list[Figure]:
    """Wall time of the last `deshi poc` of several recipes in the run's storage over the sum of their stages."""
    path = run.parent / FOLDER / DATA_FILE
    if not path.is_file():
        show("Several PoCs", ("what", "found"), [("overhead", "not run: `deshi poc` with several recipes writes it")])
        return []
    told = Portfolio.model_validate_json(path.read_text(encoding="utf-8"))
    show(
        f"{len(told.rows)} PoCs in {told.seconds:.0f} s, {told.budget_minutes:g} minutes of training shared",
        ("PoC", "verdict", "minutes", "seconds", "in stages"),
        [
            (
                row.name,
                row.decision or "failed",
                f"{row.minutes:.1f}",
                f"{row.seconds:.0f}",
                f"{row.stage_seconds:.0f}",
            )
            for row in told.rows
        ],
    )
    return [figure("wall time over the stages", told.overhead, "ratio", bar=OVERHEAD_BAR, at_least=False)]
