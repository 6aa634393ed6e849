"""The page in a real browser: silent, offline, switched by keyboard, printed in one language, readable by all.

Debian's own chromium is driven; where there is none the tests are skipped. axe-core looks for what keeps people with a
screen reader or a keyboard out.
"""

from __future__ import annotations

import runpy
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deshi.jobs.evidence.page import report

CHROMIUM = next((path for name in ("chromium", "chromium-browser") if (path := shutil.which(name))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium found: apt install chromium")
build_evidence = runpy.run_path(str(Path(__file__).parents[1] / "evidence_fixture.py"))["build_evidence"]
MOST_BYTES = 6_000_000


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(report.render(build_evidence(), "ja"), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def page(browser, file) -> Iterator[Any]:
    """The page at 1280 pixels; what it said to the console and asked of the network is on it."""
    opened = browser.new_page(viewport={"width": 1280, "height": 900})
    opened.said, opened.asked = [], []
    opened.on("console", lambda message: opened.said.append(message.text))
    opened.on("pageerror", lambda error: opened.said.append(str(error)))
    opened.on("request", lambda request: opened.asked.append(request.url))
    opened.goto(file.as_uri())
    yield opened
    opened.close()


def _seen(page: Any) -> list[str]:
    """Which languages are on the screen, or on the paper."""
    return [each.get_attribute("lang") for each in page.locator("article.view").all() if each.is_visible()]


def test_it_is_silent_and_asks_nothing_of_the_network(page, file):
    page.wait_for_load_state("networkidle")
    assert page.said == []
    assert page.asked == [file.as_uri()]
    assert file.stat().st_size < MOST_BYTES


def test_the_language_is_switched_by_keyboard(page):
    assert _seen(page) == ["ja"]
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "ja"
    page.keyboard.press("ArrowRight")
    assert _seen(page) == ["en"]
    assert page.get_by_role("heading", name="What to do next").is_visible()
    page.keyboard.press("ArrowLeft")
    assert _seen(page) == ["ja"]
    page.locator("label[for=en]").click()
    assert _seen(page) == ["en"]


def test_print_shows_the_chosen_language_alone(page):
    page.emulate_media(media="print")
    assert _seen(page) == ["ja"]
    assert not page.locator("nav.languages").is_visible()
    page.emulate_media(media="screen")
    page.locator("label[for=en]").click()
    page.emulate_media(media="print")
    assert _seen(page) == ["en"]
    assert page.pdf(format="A4")[:5] == b"%PDF-"


@pytest.mark.parametrize(("width", "lang"), [(1280, "ja"), (390, "en")])
def test_axe_finds_nothing_serious(page, lang, width):
    from axe_playwright_python.sync_playwright import Axe

    page.set_viewport_size({"width": width, "height": 900})
    page.locator(f"label[for={lang}]").click()
    found = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
    grave = [
        (each["id"], each["impact"], [node["html"][:200] for node in each["nodes"]][:3])
        for each in found
        if each["impact"] in ("serious", "critical")
    ]
    assert grave == []


@pytest.mark.parametrize("lang", ["ja", "en"])
def test_a_phone_shows_it_without_scrolling_sideways(page, lang):
    page.set_viewport_size({"width": 390, "height": 844})
    page.locator(f"label[for={lang}]").click()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_a_pointer_on_a_trial_tells_its_numbers(page):
    titles = page.locator("article[lang=ja] svg title").all_text_contents()
    assert len(titles) == 2 * (10 + 1)
    assert any("83.9%" in title and "14.7" in title for title in titles)
