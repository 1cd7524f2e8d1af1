"""`bequest probe` from words to files."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from bequest.cli.main import main

Bequest = Callable[..., tuple[int, str, str]]
SIZES = ("--train-size", 60, "--test-size", 30)


def test_two_sources_end_to_end(bequest: Bequest, table: Path, bert: Path, tmp_path: Path) -> None:
    out, copy = tmp_path / "probe", tmp_path / "other"
    copy.symlink_to(bert, target_is_directory=True)
    words = ("probe", table, "--source", f"hf:{bert},hf:{copy}", *SIZES, "--out", out)
    status, printed, told = bequest(*words)
    assert status == 0, told
    record = json.loads((out / "probe.json").read_text(encoding="utf-8"))
    layers = sorted(row["layer"] for row in record["rows"] if row["source"] == f"hf:{bert}")
    assert layers == ["embedding", "encoder.embeddings", *(f"encoder.encoder.layer.{i}" for i in range(3))]
    assert record["protocol"]["train_size"] == 60 and record["protocol"]["test"] == 30
    best = record["rows"][0]
    lines = printed.splitlines()
    assert lines[0].split()[:3] == ["source", "layer", "accuracy"] and f"{100 * best['linear']:.1f} %" in lines[2]
    assert "Kendall’s τ" in printed and "No single score is reliable." in " ".join(printed.split())
    assert (out / "probe.html").is_file()
    command = shlex.split(lines[-1])
    assert command[:5] == ["bequest", "compare", str(table), "--source", best["source"]]
    status, again, _ = bequest(*words)
    assert (status, again) == (0, printed)
    passes = json.loads((out / "probe.json").read_text(encoding="utf-8"))["passes"]
    assert all(found["computed"] == 0 for found in passes.values()), "what is stored is not computed again"


def test_taps_and_no_linear(bequest: Bequest, table: Path, bert: Path, tmp_path: Path) -> None:
    words = ("probe", table, "--source", f"hf:{bert}", *SIZES, "--quiet", "--no-linear")
    status, printed, told = bequest(*words, "--taps", "layer.0.attention", "--out", tmp_path / "a")
    assert status == 0 and not told
    assert "accuracy" not in printed.splitlines()[0] and "no linear probe was fitted" in " ".join(printed.split())
    record = json.loads((tmp_path / "a" / "probe.json").read_text(encoding="utf-8"))
    assert sorted(row["layer"] for row in record["rows"]) == ["embedding", "encoder.encoder.layer.0.attention"]
    status, *_ = bequest(*words, "--taps", "all", "--out", tmp_path / "b")
    every = json.loads((tmp_path / "b" / "probe.json").read_text(encoding="utf-8"))["rows"]
    assert status == 0 and len(every) > 6


def test_faults_are_told_together(bequest: Bequest, table: Path, bert: Path, resnet: Path, tmp_path: Path) -> None:
    words = ("probe", table, "--source", f"minilm,hf:{bert},hf:{resnet}", "--taps", "layer.7", "--out", tmp_path / "p")
    status, printed, told = bequest(*words)
    assert (status, printed) == (1, "")
    assert "There is no source 'minilm'. Did you mean" in told
    assert "takes samples of kind 'image', but 'words' holds 'text'" in told
    assert "There is no layer 'layer.7'. Did you mean" in told and "`bequest ls layers SOURCE --taps`" in told
    assert not (tmp_path / "p").exists()


def test_help_has_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["probe", "--help"])
    printed = capsys.readouterr().out
    assert "bequest probe reviews.csv --source minilm_l6,minilm_l3" in printed
    assert "--no-linear" in printed and "--taps" in printed and "--seeds" not in printed
