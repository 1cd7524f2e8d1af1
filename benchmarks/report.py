"""How large the report of fifteen methods at five seeds is, and how long a browser takes to open it.

    python benchmarks/report.py

Prints the size, and the median over five openings of the milliseconds until the page is loaded and laid out. Needs
Chromium and Playwright.
"""

from __future__ import annotations

import shutil
import statistics
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

from bequest.report.html import write

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "report"))
from conftest import crowd

OPENINGS = 5
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update")


def opened_ms(path: Path) -> list[float]:
    """Milliseconds of each opening, in a fresh profile each."""
    taken: list[float] = []
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=shutil.which("chromium"), args=list(FLAGS))
        for _ in range(OPENINGS):
            context = browser.new_context(viewport={"width": 1280, "height": 900})
            page = context.new_page()
            page.goto(path.as_uri(), wait_until="load")
            # Two frames after loading, everything has been laid out and painted once.
            page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
            taken.append(page.evaluate("performance.now()"))
            context.close()
        browser.close()
    return taken


def main() -> None:
    board, examples = crowd()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "report.html"
        write(board, path, examples)
        taken = opened_ms(path)
        print(f"{len(board.rows)} methods x 5 seeds: {path.stat().st_size / 1e6:.2f} MB (goal: under 3)")
        print(
            f"opened in {statistics.median(taken):.0f} ms, median of {[round(ms) for ms in taken]} (goal: under 1000)"
        )


if __name__ == "__main__":
    main()
