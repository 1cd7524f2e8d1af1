"""Single test samples: what the best model gets wrong, and where methods disagree."""

from __future__ import annotations

from typing import Any

from bequest.core.examples import Examples
from bequest.report.units import NONE, plural

_STRONGEST = 40
"""Per cent of the heat colour behind the largest disagreement: the text on it stays readable."""


def sections(examples: Examples | None) -> dict[str, Any]:
    """Values of the page's two sections on samples, each None where there is nothing to show."""
    if examples is None:
        return {"mistakes": None, "disagreement": None}
    return {"mistakes": _mistakes(examples), "disagreement": _disagreement(examples)}


def _mistakes(examples: Examples) -> dict[str, Any] | None:
    if not examples.mistakes:
        return None
    number = plural(len(examples.mistakes), "sample")
    if examples.wrong is None:
        told = f"The {number} of {examples.tested:,} in the test part where the prediction is furthest off."
    elif examples.wrong == len(examples.mistakes):
        told = f"All of the {examples.tested:,} in the test part that it got wrong, the surest first."
    else:
        told = f"The {number} that it was surest of, of {examples.wrong:,} wrong ones among {examples.tested:,} tested."
    items = [
        {"sample": m.sample, "taken": m.taken, "sure": "" if m.probability is None else f"{100 * m.probability:.0f} %"}
        for m in examples.mistakes
    ]
    return {"method": examples.method, "seed": examples.seed, "told": told, "found": items}


def _disagreement(examples: Examples) -> dict[str, Any] | None:
    if not examples.methods:
        return None
    most = max((share or 0.0 for row in examples.disagreement for share in row), default=0.0) or 1.0
    rows = [
        {"method": method, "cells": [_cell(share, most, here=i == j) for j, share in enumerate(row)]}
        for i, (method, row) in enumerate(zip(examples.methods, examples.disagreement, strict=True))
    ]
    over = "with one seed" if examples.seeds == 1 else f"mean over {examples.seeds} seeds"
    return {
        "rows": rows,
        "told": f"Share of the test part of which two methods say different things, {over}.",
        "splits": examples.splits,
    }


def _cell(share: float | None, most: float, *, here: bool) -> dict[str, Any]:
    if here or share is None:
        return {"text": "" if here else NONE, "shade": 0}
    return {"text": f"{100 * share:.1f} %", "shade": round(_STRONGEST * share / most)}
