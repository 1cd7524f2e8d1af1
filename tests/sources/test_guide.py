"""docs/sources.md: its programs run, its listing is what is printed, its table says what is found."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import nn

from bequest.cli.main import main
from bequest.nn.depth import layers
from bequest.nn.head import find_head
from bequest.sources.head import split

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "sources.md").read_text(encoding="utf-8")
PROGRAMS = re.findall(r"^```python\n(.*?)^```$", GUIDE, re.M | re.S)
ROWS = re.findall(r"^\| (timm|torchvision) \| `(\w+)` \| (\d+) \| `?([\w.]+)`? \|", GUIDE, re.M)


@pytest.mark.parametrize("program", PROGRAMS, ids=[re.sub(r"\W+", " ", p)[:30] for p in PROGRAMS])
def test_programs(program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path):
    monkeypatch.chdir(tmp_path)
    exec(compile(program, "docs/sources.md", "exec"), {})


def test_listing(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "100")
    [(command, shown)] = re.findall(r"^```console\n\$ bequest (.*?)\n(.*?)^```$", GUIDE, re.M | re.S)
    assert main(command.split()) == 0
    printed = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert printed[: len(shown.splitlines())] == shown.splitlines()


def tv(name: str) -> nn.Module:
    extra = {"aux_logits": False, "init_weights": False} if name == "googlenet" else {}
    return torchvision.models.get_model(name, **extra)


@pytest.mark.parametrize(("library", "name", "count", "head"), ROWS)
def test_table(library: str, name: str, count: str, head: str):
    with torch.device("meta"):
        network: nn.Module = timm.create_model(name) if library == "timm" else tv(name)
    assert find_head(network) == head
    assert len(layers(split(network, head).body)) == int(count)


def test_table_is_what_came_out(monkeypatch: pytest.MonkeyPatch):
    spec = importlib.util.spec_from_file_location("tried_sources", ROOT / "claims" / "tried_sources.py")
    assert spec and spec.loader
    tried: Any = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "tried_sources", tried)  # dataclasses look their module up
    spec.loader.exec_module(tried)
    rows = json.loads((ROOT / "claims" / "results" / "tried_sources.json").read_text(encoding="utf-8"))
    assert tried.table(list(rows.values())) in GUIDE
    assert ROWS and set(rows) <= {case.key for case in tried.cases()}
