"""The report in a real browser: no errors, accessible, sorted and read by keys, at a phone's width and a desk's."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bequest.core.examples import Examples
from bequest.core.results import Leaderboard
from bequest.report.html import write

playwright = pytest.importorskip("playwright.sync_api", reason="needs Playwright: pip install 'bequest[dev]'")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-core: pip install 'bequest[dev]'")

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")
FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)
WIDE, PHONE = 1280, 390
MOST_BYTES = 3_000_000

Open = Callable[..., Any]


@pytest.fixture(scope="module")
def page_file(crowded: tuple[Leaderboard, Examples], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fifteen methods at five seeds with everything that a page can show."""
    path = tmp_path_factory.mktemp("report") / "report.html"
    write(crowded[0], path, crowded[1])
    return path


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=FLAGS.split())
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def pages(browser: Any, page_file: Path) -> Iterator[Open]:
    """Opens the report once a look, and at the end tells what the console said."""
    opened: dict[Any, Any] = {}
    said: list[str] = []

    def page(width: int = WIDE, scheme: str = "light") -> Any:
        if (width, scheme) not in opened:
            context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True)
            page = context.new_page()
            page.on("console", lambda message: said.append(message.text))
            page.on("pageerror", lambda error: said.append(str(error)))
            page.on("requestfailed", lambda request: said.append(request.url))
            page.goto(page_file.as_uri())
            opened[width, scheme] = page
        return opened[width, scheme]

    yield page
    assert said == []


def methods_of(page: Any) -> list[str]:
    return page.locator("table.board").first.locator("td.name b").all_inner_texts()


def test_fifteen_methods_at_five_seeds_take_less_than_three_megabytes(page_file: Path) -> None:
    assert page_file.stat().st_size < MOST_BYTES


@pytest.mark.parametrize(
    ("width", "scheme"),
    [
        (WIDE, "light"),
        (PHONE, "dark"),
        pytest.param(WIDE, "dark", marks=pytest.mark.slow),
        pytest.param(PHONE, "light", marks=pytest.mark.slow),
    ],
)
def test_accessible_and_no_wider_than_the_screen(pages: Open, width: int, scheme: str) -> None:
    page = pages(width, scheme)
    found = axe.Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("width", [WIDE, PHONE])
def test_the_leaderboard_is_sorted_by_keys(pages: Open, crowded: tuple[Leaderboard, Examples], width: int) -> None:
    page, rows = pages(width), crowded[0].rows
    board = page.locator("table.board").first
    training, test = (board.locator(f"th[data-key={key}]") for key in ("training", "test"))
    training.get_by_role("button").focus()
    page.keyboard.press("Enter")
    by_time = [row.method for row in sorted(rows, key=lambda row: row.train_s)]
    assert methods_of(page) == by_time
    assert training.get_attribute("aria-sort") == "ascending"
    page.keyboard.press("Space")
    assert methods_of(page) == by_time[::-1]
    assert training.get_attribute("aria-sort") == "descending"
    test.get_by_role("button").focus()
    page.keyboard.press("Enter")
    assert methods_of(page) == [row.method for row in sorted(rows, key=lambda row: -row.test.mean)]
    assert test.get_attribute("aria-sort") == "descending"
    assert training.get_attribute("aria-sort") is None
    assert "descending" in board.locator("xpath=../following-sibling::*[1]").inner_text()


@pytest.mark.parametrize("width", [WIDE, PHONE])
def test_points_tell_their_numbers_when_focused(pages: Open, width: int) -> None:
    page = pages(width)
    mark = page.locator("figure .mark").locator("visible=true").first
    tip = mark.locator(".tip")
    assert tip.evaluate("tip => getComputedStyle(tip).visibility") == "hidden"
    mark.focus()
    assert tip.evaluate("tip => getComputedStyle(tip).visibility") == "visible"
    box = tip.locator("rect").bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= width
    assert "training time" in tip.text_content()
    page.keyboard.press("Escape")
    assert tip.evaluate("tip => getComputedStyle(tip).visibility") == "hidden"


def test_another_cost_is_chosen_by_keys(pages: Open) -> None:
    page = pages()
    shown = page.locator(".chosen").locator("visible=true")
    assert shown.get_attribute("data-for") == "training"
    page.locator("#cost-training").focus()
    page.keyboard.press("ArrowRight")
    assert shown.get_attribute("data-for") == "memory"


def test_without_scripts_nothing_but_sorting_is_lost(browser: Any, page_file: Path) -> None:
    context = browser.new_context(java_script_enabled=False, viewport={"width": WIDE, "height": 900})
    page = context.new_page()
    page.goto(page_file.as_uri())
    assert page.locator("th button").count() == 0
    assert page.locator(".chosen").locator("visible=true").count() == 1
    page.locator("label[for=cost-stored]").click()
    assert page.locator(".chosen").locator("visible=true").get_attribute("data-for") == "stored"
    page.locator(".mark circle").locator("visible=true").last.hover()  # nothing lies on the last
    assert page.locator(".tip").locator("visible=true").count() == 1
    context.close()
