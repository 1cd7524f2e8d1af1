"""Features read in blocks: the same solutions as from one block, and folds until enough is held out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny
import torch

from bequest.core.plan import Features
from bequest.core.task import Task
from bequest.optim import design
from bequest.optim.design import splits, standardise
from bequest.optim.linear import LinearSolver


def part(kind: str) -> Features:
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(90, 6)) + 3).astype(np.float32)
    scores = (x @ rng.normal(size=(6, 3)) + rng.normal(size=(90, 3))).astype(np.float32)
    labels = {
        "classification": (scores - scores.mean(0)).argmax(1),
        "multi-label": (scores > scores.mean(0)).astype(np.float32),
        "regression": scores,
    }
    return Features(x, labels[kind], None, 3, kind=kind)


@pytest.mark.parametrize("kind", ["classification", "multi-label", "regression"])
def test_blocks_give_the_solution_of_the_whole(kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    whole, _ = LinearSolver(penalty=0.01)(part(kind), seed=0)
    monkeypatch.setattr(design, "_BLOCK", 6 * 7)
    given = part(kind)
    np.save(tmp_path / "x.npy", given.values)
    mapped = Features(np.load(tmp_path / "x.npy", mmap_mode="r"), given.labels, None, 3, kind=kind)
    blocked, _ = LinearSolver(penalty=0.01)(mapped, seed=0)
    expected, got = (head(torch.from_numpy(given.values)).detach() for head in (whole, blocked))
    if kind == "classification":  # a number added to all logits changes nothing
        expected, got = (logits - logits.mean(1, keepdim=True) for logits in (expected, got))
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-3)


def test_blocks_are_the_centred_and_scaled_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(design, "_BLOCK", 6 * 7)
    x, rows = part("classification").values, np.arange(80)[::-1]
    found = standardise(x, rows)
    assert found.whole is None and [len(block) for block in found] == [7] * 11 + [3]
    block = np.concatenate(list(found))
    np.testing.assert_allclose(block.mean(0), 0, atol=1e-12)
    assert np.mean(np.sum(block**2, 1)) == pytest.approx(1)
    np.testing.assert_allclose(block * found.scale + found.mean, x[rows], rtol=1e-12)


def test_folds_end_when_enough_is_held_out(monkeypatch: pytest.MonkeyPatch) -> None:
    dealt = list(splits(part("classification"), 5, np.random.default_rng(0)))
    assert sorted(np.concatenate([held for _, held in dealt]).tolist()) == list(range(90))
    for train, held in dealt:
        assert sorted([*train, *held]) == list(range(90))
    monkeypatch.setattr(design, "_ENOUGH_HELD_OUT", 30)
    assert [len(held) for _, held in splits(part("classification"), 5, np.random.default_rng(0))] == [18, 18]


def test_folds_dealt_by_groups_are_dealt_by_classes_too() -> None:
    """Groups of one class are numbered consecutively, so that dealing them in turn deals their class in turn."""
    rng = np.random.default_rng(0)
    sizes = [[31, 7, 2], [3, 40, 0], [5, 5, 13]]
    labels = np.repeat([0, 1, 2], [sum(row) for row in sizes])
    attributes = np.concatenate([np.repeat([0, 1, 2], row) for row in sizes])
    order = rng.permutation(len(labels))
    task = Task(
        "t", tiny.text_task(3).samples, labels[order], ("a", "b", "c"), groups=attributes[order].astype(np.int64)
    )
    part = Features(np.zeros((len(labels), 2)), task.labels, None, 3, strata=task.strata)
    for _, held in splits(part, 5, rng):
        for numbers in (task.labels, task.strata):
            counts, held_counts = np.bincount(numbers), np.bincount(numbers[held], minlength=numbers.max() + 1)
            assert np.all(np.abs(held_counts - counts / 5) < 1)
