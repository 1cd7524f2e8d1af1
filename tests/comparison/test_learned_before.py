"""What a network has learned from is known wherever it goes, and told where that is tested on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from safetensors.torch import save_file

import bequest
from bequest.core.errors import RunError
from bequest.sources import get, initialise

SIZES: dict[str, Any] = {"train_size": 40, "test_size": 30, "precision": "float32", "progress": False}


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> bequest.Run:
    folder = tmp_path_factory.mktemp("first")
    places = {"out": folder / "run", "cache": folder / "cache"}
    return bequest.adapt(tiny.text_task(), tiny.text_source(), "linear_probe", **SIZES, **places)


def notes(tmp_path: Path, source: Any, **changes: Any) -> list[str]:
    places = {"out": tmp_path / "run", "cache": tmp_path / "cache"}
    run = bequest.compare(tiny.text_task(), source, ["linear_probe"], seeds=1, **{**SIZES, **places, **changes})
    return [note for note in run.board.task["notes"] if "has learned from labels" in note]


def test_a_saved_model_names_the_samples_that_it_knows(first: bequest.Run) -> None:
    task = tiny.text_task()
    labelled = task.hashes[task.draw(0, train_size=40, test_size=30).labelled]
    found = first.best.learned  # pyright: ignore[reportAttributeAccessIssue]
    assert found is not None and set(map(bytes, found)) == set(map(bytes, labelled))
    assert get(str(first.folder)).learned is not None and tiny.text_source().learned is None


def test_the_same_split_tests_on_nothing_that_is_known(first: bequest.Run, tmp_path: Path) -> None:
    assert notes(tmp_path, str(first.folder)) == []


@pytest.mark.parametrize("changes", [{"split_seed": 1}, {"folds": 3, "test_size": 0.25}], ids=["split", "folds"])
def test_another_split_is_told(changes: dict[str, Any], first: bequest.Run, tmp_path: Path) -> None:
    task = tiny.text_task()
    known = set(map(bytes, first.best.learned))  # pyright: ignore[reportAttributeAccessIssue]
    tested = np.arange(len(task.labels)) if "folds" in changes else task.draw(0, **{**SPLIT, **changes}).test
    again = sum(bytes(task.hashes[i]) in known for i in tested)
    [note] = notes(tmp_path, str(first.folder), **changes)
    assert note.startswith(f"The source {first.folder} has learned from labels of {again} of the {len(tested)} samples")
    grown = bequest.load(tmp_path / "run").learned
    assert grown is not None and known < set(map(bytes, grown)), "what its source knows, it knows"


SPLIT: dict[str, Any] = {"train_size": 40, "test_size": 30}


def test_a_teacher_is_told_of_too(first: bequest.Run, tmp_path: Path) -> None:
    places = {"out": tmp_path / "run", "cache": tmp_path / "cache", "seeds": 1, "epochs": 1, "split_seed": 1}
    run = bequest.distill(tiny.text_task(), first, tiny.text_source(), **SIZES, **places)
    [note] = [note for note in run.board.task["notes"] if "has learned" in note]
    assert note.startswith(f"The teacher {first.folder} has learned")


def test_weights_that_are_selected_bring_it_along(first: bequest.Run) -> None:
    larger = get(str(first.folder))
    made = initialise(replace(larger, learned=None), larger, "first")
    assert made.learned is not None and np.array_equal(made.learned, larger.learned)  # pyright: ignore


def test_a_foreign_file_is_refused(first: bequest.Run, tmp_path: Path) -> None:
    model = bequest.load(first.folder)
    model.save(tmp_path / "model")
    save_file({"hashes": torch.zeros(3, 16)}, tmp_path / "model" / "learned.safetensors")
    with pytest.raises(RunError, match=r"learned\.safetensors is damaged"):
        bequest.load(tmp_path / "model")
