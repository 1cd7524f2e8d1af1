"""README.md: its program runs, its command lines parse, its links lead somewhere."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from bequest.cli import main as command_line
from bequest.cli.options import parse_settings

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
MARK = "<!-- run by tests/test_readme.py -->\n"
PROGRAMS = re.findall(MARK + r"```python\n(.*?)^```$", README, re.M | re.S)
LINES = [line for block in re.findall(r"^```sh\n(.*?)^```$", README, re.M | re.S) for line in block.splitlines()]
COMMANDS = [line.rpartition(" | ")[2] for line in LINES if re.search(r"(^|\| )bequest ", line)]


def test_there_is_what_is_tested():
    assert len(PROGRAMS) == 1
    assert len(COMMANDS) >= 8


@pytest.mark.parametrize("program", PROGRAMS, ids=["module"])
def test_program(program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path):
    monkeypatch.chdir(tmp_path)
    exec(compile(program, "README.md", "exec"), {})
    board = json.loads((tmp_path / "runs" / "digits" / "leaderboard.json").read_text(encoding="utf-8"))
    assert len(board["rows"]) >= 4
    assert not [error for row in board["rows"] for error in row["errors"]]
    assert all(row["test"]["mean"] > 0.7 for row in board["rows"])


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_parse(command: str):
    program, *words = shlex.split(command)
    options = command_line._parser().parse_args(words)
    assert program == "bequest"
    assert callable(options.command)
    parse_settings(getattr(options, "settings", []))


def test_targets_are_in_the_makefile():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in [line.split()[1] for line in LINES if line.startswith("make ")]:
        assert re.search(rf"^{target}:", makefile, re.M), target


def test_links_lead_somewhere():
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", README):
        assert (ROOT / target).exists(), target
