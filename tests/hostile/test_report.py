"""Class names, texts and files' names that are code to some program: they stay text, and stay as they are."""

from __future__ import annotations

import csv
import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from faulting import fault

import bequest
from bequest.cli.main import main

CLASSES = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    '=HYPERLINK("http://x","y")',
    "$\\frac{$ [/red]",
]
CLASSES += ["../../etc/passwd", "{{7*7}}{% raw %}"]
WORDS = ["ball", "soup", "song", "goal", "bread", "drum"]


@pytest.fixture(autouse=True)
def few_plots() -> None:
    """Here all costs are shown."""


class Tags(HTMLParser):
    """Every tag of a page with its attributes, and all text."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = self.script = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.cdata_elem == "script":
            self.script += data
        else:
            self.text += data


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> bequest.Run:
    import tiny

    folder = tmp_path_factory.mktemp("named")
    table = folder / "<b>texts.csv"
    with table.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["text", "label"])
        rows.writerows(
            [f"{word} {'the ' * i}", name] for word, name in zip(WORDS, CLASSES, strict=True) for i in range(12)
        )
    options: dict[str, Any] = {"seeds": 1, "settings": {"linear_probe": {"folds": 2}}, "progress": False}
    source = tiny.text_source()
    return bequest.compare(table, source, ["linear_probe"], out=folder / "run", cache=folder / "cache", **options)


@fault(
    "class names and files' names are HTML, scripts, formulas, templates or paths",
    happens="escaped in the report, kept as they are in records and tables, never part of a path",
    outcome="no script runs; nothing is altered silently",
)
def test_no_script_runs_in_the_report(run: bequest.Run) -> None:
    page = Tags()
    page.feed(run.report.read_text(encoding="utf-8"))
    loaded = [(tag, found) for tag, found in page.tags if tag in ("script", "iframe", "object", "embed", "img")]
    assert loaded == [("script", {})], "the page's own, which sorts"
    assert "alert" not in page.script
    for tag, attributes in page.tags:
        for name, value in attributes.items():
            assert not name.startswith("on"), f"<{tag} {name}>"
            assert name not in ("href", "src", "action") or (value or "").startswith(("#", "https://", "data:,")), (
                f"{tag} {value}"
            )
    for name in CLASSES:
        assert name in page.text, "as the user wrote it"
    assert "<b>texts" in page.text


def test_names_are_kept_as_they_are(run: bequest.Run, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Nothing is put before a formula, and nothing left out: whoever opens a table chooses how cells are read."""
    board = json.loads((run.folder / "leaderboard.json").read_text(encoding="utf-8"))
    assert sorted(board["task"]["classes"]) == sorted(CLASSES)
    text = tmp_path / "=1+1.txt"
    text.write_text("ball the", encoding="utf-8")
    predicted = run.best.predict(["ball the"])[0]
    assert set(predicted.probabilities) == set(CLASSES)  # pyright: ignore[reportAttributeAccessIssue]
    rows = tmp_path / "rows.csv"
    with rows.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(
            [["text", "label"], *([f"{w} {i}", "=A1" if w == "ball" else "@x"] for w in WORDS for i in range(3))]
        )
    out = tmp_path / "features.csv"
    assert main(["features", str(rows), "--source", "minilm_l9", "--out", str(out)]) == 1  # no such source: no file
    assert not out.exists()


def test_no_file_lies_outside_of_the_run(run: bequest.Run) -> None:
    assert {path.name for path in run.folder.parent.iterdir()} == {"<b>texts.csv", "run", "cache"}
    assert not any(".." in str(path.relative_to(run.folder)) for path in run.folder.rglob("*"))
