"""Write docs/images/report.png, the head of a run's report as a browser shows it.

    bequest demo
    python docs/report_picture.py runs/demo

Needs Chromium and Playwright.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

PICTURE = Path(__file__).parent / "images" / "report.png"
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update")


def main() -> None:
    """Draw the report of the run that the command line names."""
    report = (Path(sys.argv[1]) / "report.html").resolve()
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=shutil.which("chromium"), args=list(FLAGS))
        # Higher than what is shown, so that nothing scrolls when the pointer comes to a mark.
        page = browser.new_page(viewport={"width": 1400, "height": 4000})
        page.goto(report.as_uri())
        page.locator(".mark circle").locator("visible=true").nth(2).hover()
        curves = page.get_by_role("heading", name="Learning curves").bounding_box()
        assert curves is not None, "a report has learning curves"
        page.screenshot(path=PICTURE, clip={"x": 0, "y": 0, "width": 1400, "height": curves["y"] - 30})
        browser.close()


if __name__ == "__main__":
    main()
