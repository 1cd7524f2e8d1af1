"""`bequest.data.arrays`: what it reads, and what it refuses in which words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from bequest.core.errors import DataError
from bequest.data import from_arrays

RNG = np.random.default_rng(0)


def test_texts() -> None:
    task = from_arrays(["a", "b", "c"], ["y", "x", "y"], name="tiny")
    assert (task.modality, task.classes, list(task.labels), task.origin) == (
        "text",
        ("x", "y"),
        [1, 0, 1],
        {},
    )
    assert (task.name, task.samples[2], task.samples.describe(2)) == ("tiny", "c", "inputs[2]")
    assert from_arrays(np.array(["a", "b"]), [0, 1]).modality == "text"
    assert from_arrays(np.array(["a", "b"], object), [0, 1]).modality == "text"


def test_images_of_every_kind(tmp_path: Path) -> None:
    pixels = RNG.integers(0, 256, (3, 8, 8, 3), np.uint8)
    images = [Image.fromarray(p) for p in pixels]
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for image, path in zip(images, paths, strict=True):
        image.save(path)
    for inputs in (pixels, torch.from_numpy(pixels), list(pixels), images, paths):
        task = from_arrays(inputs, [0, 1, 0])
        assert task.modality == "image"
        assert all(np.array_equal(np.asarray(task.samples[i]), pixels[i]) for i in range(3))
    grey = from_arrays(pixels[..., 0], [0, 1, 0])
    assert (grey.modality, grey.samples[0].mode) == ("image", "L")


@pytest.mark.parametrize(
    "values",
    [
        RNG.normal(size=(4, 3)).astype(np.float32),
        np.arange(4),
        RNG.integers(0, 256, (4, 3, 8, 8), np.uint8),
        np.eye(4, dtype=bool),
        RNG.normal(size=(4, 2, 3, 5)),
    ],
)
def test_numbers(values: np.ndarray[Any, Any]) -> None:
    for inputs in (values, torch.from_numpy(values).clone(), list(torch.from_numpy(values)), values.tolist()):
        task = from_arrays(inputs, [0, 0, 1, 1])
        assert task.modality == "array"
        assert np.array_equal(np.stack([task.samples[i] for i in range(4)]), values)
    assert from_arrays(values, [0, 0, 1, 1]).samples[0].dtype == values.dtype


def test_tensors_with_gradients_and_as_labels() -> None:
    inputs = torch.randn(4, 3, requires_grad=True)
    for labels in (
        torch.tensor([3, 1, 3, 1]),
        [torch.tensor(3), torch.tensor(1)] * 2,
        np.array([3.0, 1, 3, 1]),
    ):
        task = from_arrays(inputs, labels)
        assert task.classes == ("1", "3")
        assert list(task.labels) == [1, 0, 1, 0]
    with pytest.raises(DataError, match=r"Cannot turn a tensor into a numpy array: .* Convert it, e\.g\. to float32"):
        from_arrays(inputs.to(torch.bfloat16), [0, 1, 0, 1])


def test_arrays_are_not_copied() -> None:
    values = RNG.normal(size=(4, 3))
    assert np.shares_memory(from_arrays(values, [0, 1, 0, 1]).samples[1], values)


def test_classes_are_in_numeric_order_or_as_given() -> None:
    texts = ["a", "b", "c"]
    assert from_arrays(texts, [10, 9, 10]).classes == ("9", "10")
    assert from_arrays(texts, [True, False, True]).classes == ("False", "True")
    given = from_arrays(texts, ["x", "y", "x"], classes=["y", "x"])
    assert (given.classes, list(given.labels)) == (("y", "x"), [1, 0, 1])
    indices = from_arrays(texts, np.array([1, 0, 1]), classes=["ham", "spam"])
    assert (indices.classes, list(indices.labels)) == (("ham", "spam"), [1, 0, 1])
    numbers = from_arrays(texts, [7, 3, 7], classes=[7, 3])
    assert (numbers.classes, list(numbers.labels)) == (("7", "3"), [0, 1, 0])


def test_labels_outside_the_classes() -> None:
    with pytest.raises(DataError, match=r"labels hold 'hma', not among the classes\. Did you mean 'ham'\?"):
        from_arrays(["a", "b"], ["hma", "spam"], classes=["ham", "spam"])
    with pytest.raises(DataError, match=r"labels hold -1, 2; expected indices of the 2 classes, from 0 to 1\."):
        from_arrays(["a", "b"], [2, -1], classes=["ham", "spam"])
    with pytest.raises(DataError, match="classes holds a name twice: 'x', 'x'"):
        from_arrays(["a", "b"], [0, 1], classes=["x", "x"])


def test_given_test_and_groups() -> None:
    task = from_arrays(
        ["a", "b", "c", "d"], [0, 1, 0, 1], test=(["e", "a"], [1, 0]), groups=["s", "s", "w", "w", "w", "s"]
    )
    assert task.split == ("train", "train", "train", "test", "test")
    assert [task.samples[i] for i in range(5)] == ["b", "c", "d", "e", "a"]
    assert [task.samples.describe(i) for i in (0, 3)] == ["inputs[1]", "test inputs[0]"]
    assert task.groups is not None
    assert list(task.groups) == [0, 1, 1, 1, 0]
    assert "1 stood in more than one given part" in task.notes[0]


def test_groups_are_numbered_in_order() -> None:
    task = from_arrays(["a", "b", "c"], [0, 1, 0], groups=np.array([10, 2, 10]))
    assert task.groups is not None
    assert list(task.groups) == [1, 0, 1]
    assert task.groups.dtype == np.int64
    with pytest.raises(DataError, match=r"3 groups for 4 samples; expected one for each of inputs, then of test's"):
        from_arrays(["a", "b"], [0, 1], test=(["c", "d"], [0, 1]), groups=[0, 1, 2])
    with pytest.raises(DataError, match=r"1 sample without a group: groups\[1\]"):
        from_arrays(["a", "b"], [0, 1], groups=[0, None])


@pytest.mark.parametrize(
    ("inputs", "labels", "expected"),
    [
        ("one text", [0], r"inputs is one str; expected a list of texts"),
        (7, [0], "inputs is one int; expected a list"),
        ({"a": 1}, [0], "inputs is one dict; expected a list"),
        ([], [], "inputs is empty; expected samples"),
        (np.empty((0, 3)), [], "inputs is empty; expected samples"),
        (["a", Path("b")], [0, 1], r"inputs holds 1 str, 1 PosixPath; expected samples of one kind"),
        (["a", None], [0, 1], r"inputs holds 1 str, 1 NoneType; expected samples of one kind"),
        (
            [np.zeros(2), np.zeros(3)],
            [0, 1],
            r"arrays of different shapes: \(2,\), \(3,\); expected one shape",
        ),
        (np.array([1j, 2j]), [0, 1], r"inputs is an array of complex128 \(2,\); expected numbers"),
        ([object(), object()], [0, 1], r"inputs is an array of object \(2,\); expected numbers"),
        (
            [[0.0], [np.nan], [np.inf]],
            [0, 1, 0],
            r"2 samples with numbers that are not finite.*: inputs\[1\], in",
        ),
        (["a", "b"], [0], "2 samples in inputs but 1 in labels; expected one label a sample"),
        (["a", "b"], "xy", "labels is one str; expected a list"),
        (["a", "b"], np.zeros((2, 2, 2)), r"labels has the shape \(2, 2, 2\); expected \(samples,\) or \(samples, c"),
        (["a", "b"], [b"0", b"1"], r"labels\[0\] is bytes; expected a number, a str, or a list of those"),
        (["a", "b", "c"], [0, None, float("nan")], r"2 samples without a label: inputs\[1\], inputs\[2\]"),
        (["a", "b"], ["x", " "], r"1 sample without a label: inputs\[1\]"),
        (["a", "b"], [0, 0], "All 2 samples of 'arrays' have one label, '0'"),
        (["a", "\n"], [0, 1], r"1 text without any content: inputs\[1\]"),
        ([Path("gone.png")], [0], r"1 file of 1 cannot be read as images: gone\.png \(No such file"),
    ],
)
def test_faults_are_told(inputs: Any, labels: Any, expected: str) -> None:
    with pytest.raises(DataError, match=expected):
        from_arrays(inputs, labels)


def test_test_part_must_be_alike() -> None:
    values = RNG.normal(size=(4, 3))
    with pytest.raises(DataError, match="inputs are of kind array, test inputs of kind text"):
        from_arrays(values, [0, 1, 0, 1], test=(["a"], [0]))
    with pytest.raises(DataError, match=r"inputs is float64 \(3,\), one of test inputs float64 \(2,\); expected"):
        from_arrays(values, [0, 1, 0, 1], test=(values[:, :2], [0, 1, 0, 1]))
    with pytest.raises(DataError, match="4 samples in test inputs but 1 in test labels"):
        from_arrays(values, [0, 1, 0, 1], test=(values, [0]))


def test_names_of_image_files_as_texts_are_told() -> None:
    task = from_arrays(["a.png", "b.JPG"], [0, 1])
    assert task.notes == (
        "Warning: the texts look like image files' names; pass them as pathlib.Path to read the images.",
    )


def test_floats_are_a_regression() -> None:
    task = from_arrays(["a", "b", "c"], [0.5, 1, 2], test=(["d"], [7.25]))
    assert (task.kind, task.classes, task.labels[:, 0].tolist()) == ("regression", ("target",), [0.5, 1, 2, 7.25])
    assert "Took the labels for numbers to predict (regression): they are not whole." in task.notes[0]
    targets = from_arrays(list("abc"), torch.tensor([[1.0, 2], [3, 4], [5, 6]]), classes=["height", "width"])
    assert (targets.kind, targets.classes, targets.labels.dtype) == ("regression", ("height", "width"), np.float32)
    assert from_arrays(list("abc"), [3, 4, 5], task="regression", classes=["stars"]).classes == ("stars",)
    with pytest.raises(DataError, match=r"1 label that is not a finite number: inputs\[1\] \(nan\)"):
        from_arrays(list("abc"), [0.5, float("nan"), 1])
    with pytest.raises(DataError, match=r"labels hold fractions: 0\.5; expected classes"):
        from_arrays(list("abc"), [0.5, 1, 2], task="classification")


def test_whole_numbers_are_classes_however_many() -> None:
    texts, labels = [str(i) for i in range(300)], np.arange(300) % 100
    assert len(from_arrays(texts, labels).classes) == 100
    assert from_arrays(texts, labels.astype(float)).kind == "regression"


@pytest.mark.parametrize("kind", [int, bool, float])
def test_columns_of_zeros_and_ones_are_multi_label(kind: type) -> None:
    flags = np.array([[1, 0], [1, 1], [0, 0]], kind)
    for labels in (flags, torch.from_numpy(flags.copy()), flags.tolist(), list(flags)):
        task = from_arrays(list("abc"), labels, classes=["x", "y"])
        assert (task.kind, task.classes, task.labels.tolist()) == ("multi-label", ("x", "y"), [[1, 0], [1, 1], [0, 0]])
    with pytest.raises(DataError, match="labels has 2 columns, but there are 3 classes; expected one name a column"):
        from_arrays(list("abc"), flags, classes=["x", "y", "z"])
    with pytest.raises(DataError, match="labels and test labels differ in their number of columns"):
        from_arrays(list("abc"), flags, test=(["d"], np.ones((1, 3))))


def test_lists_and_sets_of_names_are_multi_label() -> None:
    for labels in ([["x", "y"], ["x"], []], [{"x", "y"}, {"x"}, set()]):
        task = from_arrays(list("abc"), labels)
        assert (task.classes, task.labels.tolist()) == (("x", "y"), [[1, 1], [1, 0], [0, 0]])
    indices = from_arrays(list("abc"), [[0, 1], [1], []], classes=["no", "yes"])
    assert (indices.classes, indices.labels.tolist()) == (("no", "yes"), [[1, 1], [0, 1], [0, 0]])
    with pytest.raises(DataError, match=r"labels hold 2; expected indices of the 2 classes, from 0 to 1\."):
        from_arrays(list("abc"), [[0], [2], [1]], classes=["no", "yes"])
    assert from_arrays(list("abc"), ["x|y", "x", "y"], task="multi-label").labels.tolist() == [[1, 1], [1, 0], [0, 1]]


def test_group_names() -> None:
    assert from_arrays(list("abc"), [0, 1, 0], groups=["w", "l", "w"]).group_names == ("l", "w")
