"""`bequest ls sources` and `bequest ls layers`."""

from __future__ import annotations

import pytest

from bequest import sources
from bequest.cli.main import main


def listed(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["ls", *words]) == 0
    return capsys.readouterr().out


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "160")


def test_sources(capsys: pytest.CaptureFixture[str]):
    text = listed(capsys, "sources")
    assert all(name in text for name in (*sources.names(), *sources.FORMS))


def test_layers_need_no_weights(capsys: pytest.CaptureFixture[str]):
    lines = listed(capsys, "layers", "timm:resnet18", "--image-size", "64").splitlines()
    rows = [line.split() for line in lines[1:10]]
    assert rows[0] == ["0", "conv1", "Conv2d", "9.5", "k", "0%"]
    assert rows[-1] == ["8", "layer4.1", "BasicBlock", "4.7", "M", "100%"]
    assert lines[10].startswith("Embedding: 512 numbers. 11.2 M parameters")


def test_layers_of_a_cut_body(capsys: pytest.CaptureFixture[str]):
    text = listed(capsys, "layers", "timm:resnet18", "--image-size", "64", "--cut-at", "layer2")
    assert "body.layer2.1" in text and "layer3" not in text and "Embedding: 128 numbers" in text


def test_faults(capsys: pytest.CaptureFixture[str]):
    assert main(["ls", "layers"]) == 1
    assert "needs a source" in capsys.readouterr().err
    assert main(["ls", "layers", "timm:resnet19"]) == 1
    assert "Did you mean 'resnet18'" in capsys.readouterr().err
