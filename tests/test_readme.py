"""README.md and docs/data.md: their programs run, command lines parse, links lead somewhere."""

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
GUIDE = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
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
    assert all(row["test"]["mean"] > 0.4 for row in board["rows"])  # twice chance: five classes


def test_program_of_the_data_guide():
    [program] = re.findall(r"^```python\n(.*?)^```$", GUIDE, re.M | re.S)
    exec(compile(program, "docs/data.md", "exec"), {})


def test_the_data_guide_names_every_column_that_is_recognised():
    from bequest.data import columns

    rows = dict(re.findall(r"^\| (texts|images|labels) \| ([^;|]*)", GUIDE, re.M))
    known = {"texts": columns._TEXT_NAMES, "images": columns._IMAGE_NAMES, "labels": columns._LABEL_NAMES}
    assert {kind: tuple(names.strip().split(", ")) for kind, names in rows.items()} == known


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
