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
