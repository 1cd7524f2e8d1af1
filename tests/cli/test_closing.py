"""What stands below the table when a run has ended."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

Bequest = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize("methods", ["linear_probe,from_scratch", "linear_probe"])
def test_domain_affinity_is_told_where_it_was_measured(
    bequest: Bequest, table: Path, bert: Path, tmp_path: Path, methods: str
) -> None:
    quick = ("--set", "from_scratch.epochs=1") if "from_scratch" in methods else ()
    words = ("--methods", methods, *quick, "--seeds", 2, "--train-size", 40, "--quiet", "--out", tmp_path / "run")
    status, out, err = bequest("compare", table, "--source", f"hf:{bert}", *words)
    assert status == 0, err
    assert ("Domain affinity " in out) == ("from_scratch" in methods)
    plain = " ".join(out.split())
    if "from_scratch" in methods:
        assert "the test accuracy of linear_probe minus that of from_scratch, mean over 2 seeds, " in plain
        assert out.index("Domain affinity") < out.index("Best by validation: linear_probe")


def test_the_open_questions_are_told_a_line_each(bequest: Bequest, table: Path, bert: Path, tmp_path: Path) -> None:
    chosen = ("epochs=4", "learning_rate=3e-3", "head_init=random")
    settings = [f"{method}.{setting}" for method in ("full", "lora") for setting in chosen]
    trained = [word for setting in settings for word in ("--set", setting)]
    words = ("--methods", "full,lora", *trained, "--train-size", 40)
    where = ("--source", f"hf:{bert}", "--seeds", 1, "--quiet", "--out", tmp_path / "run")
    status, out, err = bequest("compare", table, *where, *words)
    assert status == 0, err
    plain = " ".join(out.split())
    for start in (
        "Against full fine-tuning, test accuracy: lora ",
        "Effective rank of what training adds",
        "After merging, ",
    ):
        assert plain.index(start) < plain.index("Best by validation:")
    assert "Optimizer steps to come within 0.5 points" in plain or "Steps to parity: " in plain
