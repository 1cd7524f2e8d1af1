from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from bequest.core.probing import LayerRow, ProbeRecord
from bequest.ui.probing import agreement_table, probe_table


@pytest.fixture
def record() -> ProbeRecord:
    def row(source: str, layer: str, linear: float) -> LayerRow:
        scores = {"leep": -1.25 if layer == "embedding" else None, "logme": linear - 1, "transrate": None}
        return LayerRow(source, layer, 1.0, 8, linear, 0.5, 0.1, scores)

    empty: dict[str, Any] = {}
    rows = [row("big", f"encoder.stages.layers.blocks.{i}.attention", 0.9 - i / 20) for i in range(6)]
    rows = [*rows[:4], row("small", "embedding", 0.7), *rows[4:], row("big", "embedding", 0.5)]
    protocol = {"validation": 20, "train_size": 100, "test": 30}
    names, tau = ["linear_probe", "leep", "logme"], [[1.0, None, 0.5], [None, 1.0, -0.25], [0.5, -0.25, 1.0]]
    return ProbeRecord(rows, "linear_probe", "accuracy", names, tau, empty, [], protocol, empty, {})


def printed(what: Any, width: int = 120) -> str:
    file = io.StringIO()
    Console(width=width, file=file).print(what)
    return file.getvalue()


def test_each_sources_best_layers_and_its_embedding(record: ProbeRecord) -> None:
    lines = printed(probe_table(record)).splitlines()
    assert lines[0].split() == ["source", "layer", "accuracy", "logme", "leep"], "a score that no layer has is left out"
    rows = [("0.attention", "90.0 %"), ("1.attention", "85.0 %"), ("2.attention", "80.0 %"), ("embedding", "50.0 %")]
    for line, (layer, accuracy) in zip(lines[2:], [*rows, ("embedding", "70.0 %")], strict=False):
        assert layer in line and accuracy in line
    assert lines[2].startswith("big") and lines[3].startswith(" ") and lines[6].startswith("small")
    assert "blocks.0.attention" in lines[2] and "stages" not in lines[2], "what all names share is left out"
    assert (
        "accuracy of a linear probe on 20 held out; scores on 100 labels, test part unread; 3 more layers" in lines[7]
    )


def test_scores_give_way_where_the_terminal_is_narrow(record: ProbeRecord) -> None:
    text = printed(probe_table(record, width=50), width=50)
    assert max(map(len, text.splitlines())) <= 50
    assert "logme" in text.splitlines()[0] and "leep" not in text.splitlines()[0]
    assert "not shown: leep" in " ".join(text.split())


def test_agreement_shows_each_pair_once(record: ProbeRecord) -> None:
    found = agreement_table(record)
    assert found is not None
    lines = printed(found).splitlines()
    assert lines[2].split() == ["linear_probe", "–", "0.50"]
    assert lines[3].split() == ["leep", "-0.25"]
    assert agreement_table(replace(record, names=["logme"], agreement=[[1.0]])) is None
