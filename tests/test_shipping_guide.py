"""docs/shipping.md: every command and every block of Python runs, in order, on a small table and a few photos."""

from __future__ import annotations

import io
import re
import shlex
from pathlib import Path

import pytest
import tiny

from bequest.cli.main import main

pytestmark = pytest.mark.slow

GUIDE = (Path(__file__).parent.parent / "docs" / "shipping.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(sh|python)\n(.*?)^```$", GUIDE, re.M | re.S)


def lay_out() -> None:
    """What the page speaks of."""
    texts = {"good": ("works and looks good", "as described"), "bad": ("arrived broken", "nobody answers")}
    rows = [f"{text} {i},{label}" for i in range(15) for label, both in texts.items() for text in both]
    Path("reviews.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    Path("new.csv").write_text("order,text\n17,arrived broken\n18,looks good\n")
    Path("letter.txt").write_text("Nobody answers my letters.")
    task = tiny.photo_task(48, 40)
    for index, label in enumerate(task.labels):
        folder = Path("photos") / task.classes[label]
        folder.mkdir(parents=True, exist_ok=True)
        task.samples[index].save(folder / f"{index}.png")
    Path("holiday").mkdir()
    task.samples[0].save("holiday/first.png")
    Path("holiday/cut off.png").write_bytes(Path("holiday/first.png").read_bytes()[:900])
    task.samples[1].save("beach.jpg")


def run_command(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before, pipe, command = line.rpartition(" | ")
    if pipe:
        monkeypatch.setattr("sys.stdin", io.StringIO(shlex.split(before)[1] + "\n"))
    program, *words = shlex.split(command)
    assert (program, main(words)) == ("bequest", 0), line


def test_everything_on_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    assert [kind for kind, _ in BLOCKS].count("python") == 4 and len(BLOCKS) == 7
    monkeypatch.chdir(tmp_path)
    lay_out()
    for kind, text in BLOCKS:
        if kind == "python":
            exec(compile(text, "docs/shipping.md", "exec"), {})
        else:
            for line in text.splitlines():
                run_command(line, monkeypatch)
    made = {str(p.relative_to(tmp_path / "shipped")) for p in (tmp_path / "shipped").rglob("*") if p.is_file()}
    assert {"model.onnx", "model.pt2", "tokenizer.json", "photos.safetensors", "timm/model.safetensors"} <= made
