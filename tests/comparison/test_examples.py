"""Which samples the report shows, from outputs that are made up."""

from __future__ import annotations

import base64
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from bequest.comparison.examples import MOST_MISTAKES, collect, small_copy
from bequest.comparison.folder import EXAMPLES_FILE, RunFolder
from bequest.comparison.statistics import make_row
from bequest.core.errors import RunError
from bequest.core.examples import Examples
from bequest.core.results import Leaderboard, TrialRecord
from bequest.core.task import Task
from bequest.data import from_arrays

TEXTS = [f"text {i}" for i in range(6)]
RIGHT = [[4.0, 0.0], [0.0, 4.0]]


def task_of(inputs: Any, labels: Any, **options: Any) -> Task:
    return from_arrays(inputs, labels, name="made up", **options)


def run(folder: Path, outputs: dict[str, list[list[list[float]]]]) -> tuple[RunFolder, Leaderboard]:
    """A finished run of methods whose outputs for all samples are given by seed; the first is the best."""
    kept, trials = RunFolder(folder), []
    for place, (method, seeds) in enumerate(outputs.items()):
        for seed, values in enumerate(seeds):
            trial = TrialRecord(method, seed, {}, validation=0.9 - 0.1 * place, test=0.5)
            kept.finish(trial, "", {}, {}, torch.tensor(values), np.arange(len(values)))
            trials.append(trial)
    rows = [make_row([t for t in trials if t.method == method]) for method in outputs]
    return kept, Leaderboard(rows, {}, {}, {}, {}, {}, trials)


def test_the_surest_mistakes_come_first(tmp_path: Path) -> None:
    task = task_of(TEXTS, ["a", "b", "a", "b", "a", "b"])
    unsure, sure = [0.0, 0.5], [0.0, 3.0]
    values = [unsure, RIGHT[1], sure, RIGHT[1], RIGHT[0], RIGHT[1]]
    found = collect(task, *run(tmp_path, {"full": [values]}))
    assert found is not None
    assert (found.method, found.seed, found.tested, found.wrong) == ("full", 0, 6, 2)
    assert [(m.sample.text, m.sample.true, m.taken) for m in found.mistakes] == [
        ("text 2", "a", "b"),
        ("text 0", "a", "b"),
    ]
    assert found.mistakes[0].probability == pytest.approx(1 / (1 + np.exp(-3)))
    assert found.methods == found.splits == [], "one method disagrees with nobody"


def test_disagreement_is_the_mean_share_over_shared_seeds(tmp_path: Path) -> None:
    task = task_of(TEXTS, ["a", "b"] * 3)
    agree = RIGHT * 3
    other = [RIGHT[1], *agree[1:]]
    outputs = {"full": [agree, agree], "lora": [agree, other], "probe": [[RIGHT[1]] * 6]}
    found = collect(task, *run(tmp_path, outputs))
    assert found is not None
    assert found.methods == ["full", "lora", "probe"] and found.seeds == 2
    assert found.disagreement[0] == pytest.approx([0, 1 / 12, 1 / 2])
    assert [row[0] for row in found.disagreement] == found.disagreement[0]
    assert [split.sample.text for split in found.splits] == ["text 0", "text 2", "text 4"]
    assert found.splits[0].answers == {"a": ["full", "lora"], "b": ["probe"]}


def test_methods_without_a_shared_seed_are_not_compared(tmp_path: Path) -> None:
    kept, board = run(tmp_path, {"full": [RIGHT], "lora": [RIGHT, RIGHT]})
    trials = [t for t in board.trials if (t.method, t.seed) != ("lora", 0)]
    rows = [make_row([t for t in trials if t.method == name]) for name in ("full", "lora")]
    found = collect(task_of(TEXTS[:2], ["a", "b"]), kept, replace(board, trials=trials, rows=rows))
    assert found is not None
    assert found.disagreement == [[0.0, None], [None, 0.0]]


def test_several_labels(tmp_path: Path) -> None:
    task = task_of(TEXTS[:3], [["a", "b"], [], ["a"]], task="multi-label")
    found = collect(task, *run(tmp_path, {"full": [[[2.0, -1.0], [-2.0, -2.0], [1.0, 3.0]]]}))
    assert found is not None
    assert found.wrong == 2
    assert [(m.sample.true, m.taken) for m in found.mistakes] == [("a", "a, b"), ("a, b", "a")]
    assert found.mistakes[0].probability == pytest.approx(1 / (1 + np.exp(-3)))


def test_values_are_shown_where_they_are_furthest_off(tmp_path: Path) -> None:
    task = task_of(np.arange(30, dtype=np.float32).reshape(3, 10), np.array([1.0, 2.0, 3.5]), task="regression")
    found = collect(task, *run(tmp_path, {"full": [[[1.1], [0.5], [3.0]]], "lora": [[[1.0], [1.0], [1.0]]]}))
    assert found is not None
    assert found.wrong is None and found.methods == []
    assert [(m.sample.true, m.taken, m.probability) for m in found.mistakes] == [
        ("2", "0.5", None),
        ("3.5", "3", None),
        ("1", "1.1", None),
    ]
    assert found.mistakes[0].sample.text == "10, 11, 12, 13, 14, 15, 16, 17, … (10 numbers)"


def test_long_texts_are_cut_and_mistakes_are_capped(tmp_path: Path) -> None:
    number = MOST_MISTAKES + 3
    task = task_of([f"{i} " + "word " * 200 for i in range(number)], ["a"] * (number - 1) + ["b"])
    found = collect(task, *run(tmp_path, {"full": [[RIGHT[1]] * (number - 1) + [RIGHT[0]]]}))
    assert found is not None
    assert found.wrong == number and len(found.mistakes) == MOST_MISTAKES
    assert all(len(m.sample.text) <= 400 and m.sample.text.endswith("…") for m in found.mistakes)


@pytest.mark.parametrize(("side", "kind", "shown"), [(8, "png", (8, 8)), (400, "jpeg", (112, 56))])
def test_images_are_shown_small(side: int, kind: str, shown: tuple[int, int]) -> None:
    image = Image.new("RGBA", (side, side if side == 8 else side // 2), (200, 10, 10, 255))
    head, data = small_copy(image).split(",")
    assert head == f"data:image/{kind};base64"
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == shown
    assert len(data) < 4000


def test_examples_are_read_as_they_were_written(tmp_path: Path) -> None:
    kept, board = run(tmp_path, {"full": [RIGHT], "lora": [RIGHT[::-1]]})
    found = collect(task_of(TEXTS[:2], ["a", "b"]), kept, board)
    kept.write_examples(found)
    assert found is not None and found.splits and kept.examples() == found
    kept.write_examples(None)
    assert kept.examples() is None
    (tmp_path / EXAMPLES_FILE).write_text('{"mistakes": []}', encoding="utf-8")
    with pytest.raises(RunError, match=r"examples\.json: These are not examples that this version"):
        kept.examples()


def test_a_language_models_windows_are_not_shown(tmp_path: Path) -> None:
    kept, board = run(tmp_path, {"full": [RIGHT]})
    assert collect(replace(task_of(TEXTS[:2], ["a", "b"]), kind="causal-lm"), kept, board) is None


def test_a_record_of_another_version_is_refused() -> None:
    with pytest.raises(RunError, match="run again"):
        Examples.from_json({"mistakes": [], "splits": [], "extra": 1})
