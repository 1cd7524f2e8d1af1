from __future__ import annotations

from typing import Any

from bequest.core.probing import LayerRow, ProbeRecord


def row(source: str, layer: str, linear: float | None, **scores: float | None) -> LayerRow:
    return LayerRow(source, layer, 0.5, 4, linear, None if linear is None else 0.1, None, scores)


def record(*rows: LayerRow) -> ProbeRecord:
    empty: dict[str, Any] = {}
    return ProbeRecord(list(rows), "linear_probe", "accuracy", [], [], empty, [], empty, empty, {})


def test_choice_is_the_highest_and_of_equals_the_first() -> None:
    found = record(
        row("a", "x", 0.9, s=1.0, t=None), row("b", "y", 0.8, s=2.0, t=-3.0), row("a", "z", 0.7, s=2.0, t=-5)
    )
    assert found.best.layer == found.choice("linear_probe").layer == "x"
    assert found.choice("s").layer == "y"
    assert found.choice("t").layer == "y", "negative values count, undefined ones do not"


def test_sources_stand_in_the_order_of_their_best_rows() -> None:
    found = record(row("b", "x", 0.9), row("a", "y", 0.8), row("b", "z", 0.7))
    assert [(source, [r.layer for r in rows]) for source, rows in found.by_source.items()] == [
        ("b", ["x", "z"]),
        ("a", ["y"]),
    ]
    assert found.to_json()["rows"][1]["source"] == "a"
