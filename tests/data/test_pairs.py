"""`bequest.data.pairs`: what it reads, and what it refuses in which words."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset, Subset, TensorDataset

import bequest
from bequest.core.errors import DataError
from bequest.data import from_arrays, from_dataset

RNG = np.random.default_rng(0)


class Pairs(Dataset[Any]):
    """Counts its reads."""

    def __init__(self, inputs: Any, labels: Any, classes: Any = None) -> None:
        self.inputs, self.labels, self.reads = inputs, labels, Counter[int]()
        if classes is not None:
            self.classes = classes

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> Any:
        self.reads[index] += 1
        return self.inputs[index], self.labels[index]


def test_texts_are_read_on_access() -> None:
    pairs = Pairs([f"text {i}" for i in range(10)], ["x", "y"] * 5)
    task = from_dataset(pairs, name="tiny")
    assert (task.name, task.modality, task.classes, task.origin) == ("tiny", "text", ("x", "y"), {})
    assert pairs.reads[9] == 2  # for its hash, and to see that it is not empty
    assert task.samples[9] == "text 9"
    assert task.fingerprint == from_arrays(pairs.inputs, pairs.labels).fingerprint
    assert pairs.reads[9] <= 3
    assert task.samples.describe(3) == "dataset[3]"
    assert bequest.task_from_dataset is from_dataset


def test_images_of_every_kind() -> None:
    pixels = RNG.integers(0, 256, (4, 8, 8, 3), np.uint8)
    images = [Image.fromarray(p) for p in pixels]
    for inputs in (pixels, torch.from_numpy(pixels), images):
        task = from_dataset(Pairs(inputs, [0, 1, 0, 1]))
        assert task.modality == "image"
        assert all(np.array_equal(np.asarray(task.samples[i]), pixels[i]) for i in range(4))
    assert from_dataset(Pairs(images, [0, 1, 0, 1])).fingerprint == from_arrays(images, [0, 1, 0, 1]).fingerprint


def test_tensors_are_arrays() -> None:
    inputs, labels = torch.randn(6, 3, 8, 8), torch.tensor([0, 1, 2, 0, 1, 2])
    task = from_dataset(TensorDataset(inputs, labels))
    assert (task.name, task.modality, task.classes) == ("TensorDataset", "array", ("0", "1", "2"))
    assert np.array_equal(task.samples[4], inputs[4].numpy())
    assert task.fingerprint == from_arrays(inputs, labels).fingerprint


def test_names_of_classes_are_the_datasets_own() -> None:
    task = from_dataset(Pairs(list("abcd"), [2, 0, 2, 0], classes=["cat", "dog", "emu"]))
    assert (task.classes, task.labels.tolist()) == (("cat", "emu"), [1, 0, 1, 0])
    given = from_dataset(Pairs(list("abcd"), [1, 0, 1, 0], classes=["cat", "dog"]), classes=["no", "yes"])
    assert given.classes == ("no", "yes")
    part = from_dataset(Subset(Pairs(list("abcd"), [1, 0, 1, 0]), [3, 0]))
    assert [part.samples[i] for i in range(2)] == ["d", "a"]


def test_other_kinds_of_task() -> None:
    regression = from_dataset(TensorDataset(torch.randn(4, 3), torch.tensor([0.5, 1, 2, 3])))
    assert (regression.kind, regression.classes, regression.labels[:, 0].tolist()) == (
        "regression",
        ("target",),
        [0.5, 1, 2, 3],
    )
    flags = torch.tensor([[1, 0, 1], [0, 1, 0], [1, 1, 0], [0, 0, 0]]).float()
    multi = from_dataset(TensorDataset(torch.randn(4, 3), flags))
    assert (multi.kind, multi.labels.tolist()) == ("multi-label", flags.tolist())
    many = from_dataset(Pairs([str(i) for i in range(200)], [i % 100 for i in range(200)]))
    assert (many.kind, len(many.classes)) == ("classification", 100)


def test_given_test_split_and_copies() -> None:
    task = from_dataset(Pairs(list("abc"), [0, 1, 0]), test=Pairs(list("da"), [1, 0]))
    found = {task.samples[i]: part for i, part in enumerate(task.split)}
    assert found == {"b": "train", "c": "train", "d": "test", "a": "test"}
    with pytest.raises(DataError, match="samples of kind text, the test dataset array"):
        from_dataset(Pairs(list("abc"), [0, 1, 0]), test=Pairs(np.eye(2), [1, 0]))


class Noisy(Pairs):
    def __getitem__(self, index: int) -> Any:
        return torch.rand(3), self.labels[index]


@pytest.mark.parametrize(
    ("dataset", "expected"),
    [
        (iter([("a", 0)]), "without a length or positions; expected a map-style dataset"),
        (Pairs([], []), "The dataset is empty"),
        ([("a", 0, 1)], r"dataset\[0\] gives a tuple of 3; expected a pair"),
        ([{"text": "a", "label": 0}], r"dataset\[0\] gives a dict; expected a pair .* load_task\(dataset\)"),
        ([(None, 0)], r"The input of dataset\[0\] is a NoneType; expected a str, a PIL image, or numbers"),
        ([("a", 0), (np.zeros(2), 1)], r"different kinds: text \(dataset\[0\]\), array float64 \(2,\) \(dataset\[1\]"),
        ([(np.zeros(2), 0), (np.full(2, np.nan), 1)], r"1 sample with numbers that are not finite .*dataset\[1\]"),
        ([("a", object())], r"the label of dataset\[0\] is object; expected a number, a str, or a list"),
        (Noisy([1, 2], [0, 1]), r"dataset\[0\] gives something else each time it is read.* bequest augments by itself"),
    ],
)
def test_faults_are_told(dataset: Any, expected: str) -> None:
    with pytest.raises(DataError, match=expected):
        from_dataset(dataset)
