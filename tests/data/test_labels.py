"""`bequest.data.labels`: which kind of task labels pose, and what is refused in which words."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bequest.core.errors import DataError
from bequest.data.labels import LabelColumns, Labels, TaskChoice, read_labels, sorted_names


def labels_of(*columns: Any, task: TaskChoice = "auto", **options: Any) -> Labels:
    names = [f"column {i}" for i in range(len(columns))]
    return read_labels(LabelColumns([list(c) for c in columns], names, lambda i: f"row {i}", **options), task)


def carried(labels: Labels) -> list[list[str]]:
    return [[labels.classes[i] for i in np.flatnonzero(row)] for row in labels.values]


def test_words_are_classes() -> None:
    labels = labels_of(["b", "a", "b"])
    assert (labels.kind, labels.classes, labels.values.tolist(), labels.notes) == (
        "classification",
        ("a", "b"),
        [1, 0, 1],
        (),
    )
    assert labels.values.dtype == np.int64


def test_given_classes_keep_their_order() -> None:
    assert labels_of("aba", classes=["b", "a"]).values.tolist() == [1, 0, 1]
    with pytest.raises(DataError, match=r"labels hold 'c', not among the classes\. There are: a, b\."):
        labels_of("abc", classes=["b", "a"])


@pytest.mark.parametrize("cells", [[1.5, 2, 3], ["1.5", "2", "3"], ["-1e-3", "2", "0"]])
def test_fractions_are_a_regression_and_told(cells: list[Any]) -> None:
    labels = labels_of(cells)
    assert (labels.kind, labels.classes, labels.values.dtype) == ("regression", ("column 0",), np.float32)
    assert np.allclose(labels.values[:, 0], [float(c) for c in cells])
    assert labels.notes == (
        "Took the labels for numbers to predict (regression): they are not whole. If they are classes: --task "
        "classification.",
    )
    assert labels_of(cells, task="classification").kind == "classification"


@pytest.mark.parametrize(
    ("num", "different", "kind"),
    [
        (100, 20, "classification"),
        (100, 21, "regression"),
        (1000, 50, "classification"),
        (1000, 51, "regression"),
    ],
)
def test_many_whole_numbers_are_a_regression(num: int, different: int, kind: str) -> None:
    cells = [str(i % different) for i in range(num)]
    labels = labels_of(cells)
    assert labels.kind == kind
    assert bool(labels.notes) == (kind == "regression")
    assert labels_of(cells, count_integers=False).kind == "classification"


def test_a_slip_in_a_column_of_numbers_is_told_rather_than_made_a_class() -> None:
    cells = [f"{i}.5" for i in range(40)]
    cells[7], cells[9], cells[11] = "n/a", "inf", "nan"
    with pytest.raises(
        DataError,
        match=r"3 labels that are not a finite number: row 7 \('n/a'\), row 9 \('inf'\), row 11 \('nan'\)\. .*"
        "--task classification",
    ):
        labels_of(cells)
    with pytest.raises(DataError, match=r"1 label that is not a finite number: row 1 \('1e39'\)"):
        labels_of(["1.5", "1e39"])


def test_several_columns_of_numbers_are_targets() -> None:
    labels = labels_of([1, 2], ["0.5", "7"])
    assert (labels.kind, labels.classes, labels.values.tolist()) == (
        "regression",
        ("column 0", "column 1"),
        [[1, 0.5], [2, 7]],
    )


def test_one_value_throughout_is_nothing_to_predict() -> None:
    with pytest.raises(DataError, match="All samples have the same value of 'column 1'"):
        labels_of([1, 2], [3, 3], task="regression")


def test_columns_of_zeros_and_ones_are_classes_each() -> None:
    labels = labels_of(["1", "0", "0"], [True, False, True], [0.0, 1, 0])
    assert (labels.kind, labels.values.dtype) == ("multi-label", np.float32)
    assert carried(labels) == [["column 0", "column 1"], ["column 2"], ["column 1"]]
    assert labels.notes == ()


def test_flags_must_be_zero_or_one_and_whole() -> None:
    with pytest.raises(
        DataError, match=r"2 labels other than 0 and 1: 'x' for 'column 0' in row 1, 2 for 'column 1' in row 0"
    ):
        labels_of(["1", "x"], [2, 0], task="multi-label")
    with pytest.raises(DataError, match=r"2 samples without a label: row 0, row 1\."):
        labels_of(["1", ""], [None, "0"])


def test_classes_that_nobody_carries_are_left_out_and_bare_samples_counted() -> None:
    labels = labels_of([1, 0, 0], [0, 0, 0], [1, 1, 0])
    assert labels.classes == ("column 0", "column 2")
    assert labels.notes == (
        "Left out 1 class that no sample carries: 'column 1'.",
        "1 sample without any of the classes.",
    )
    with pytest.raises(DataError, match="No sample carries a label"):
        labels_of([0, 0], [0, 0])


@pytest.mark.parametrize(
    "cells",
    [
        [["b", "a"], [], ["a"]],
        [{"b", "a"}, set(), ("a",)],
        ['["b", "a"]', "[]", '["a"]'],
        ["['b', 'a']", "[]", "['a']"],
    ],
)
def test_lists_are_multi_label(cells: list[Any]) -> None:
    labels = labels_of(cells)
    assert (labels.kind, labels.classes, carried(labels)) == ("multi-label", ("a", "b"), [["a", "b"], [], ["a"]])
    assert labels.notes[0] == "Took the labels for lists of classes (multi-label)."


def test_bars_divide_where_pieces_come_back() -> None:
    labels = labels_of(["a|b", "b | c", "c", "a"])
    assert (labels.kind, carried(labels)) == ("multi-label", [["a", "b"], ["b", "c"], ["c"], ["a"]])
    assert "Split the labels at '|' into 3 classes (multi-label)." in labels.notes[0]
    assert labels_of(["a|b", "b|c", "c", "a"], task="classification").classes == ("a", "a|b", "b|c", "c")


@pytest.mark.parametrize("cells", [["yes|sure", "no|never", "yes|sure"], ["a|b", "a", "b", "c"]])
def test_bars_in_names_do_not_divide(cells: list[str]) -> None:
    labels = labels_of(cells)
    assert labels.kind == "classification"
    assert labels.notes == ("Took labels with '|' in them for names of classes. To split them: --task multi-label.",)


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["a|b,c", "a"], [["a", "b,c"], ["a"]]),
        (["a;b,c", "a"], [["a", "b,c"], ["a"]]),
        (["a, b", ""], [["a", "b"], []]),
        (["a b", "c"], [["a b"], ["c"]]),
        ([3, 4], [["3"], ["4"]]),
    ],
)
def test_named_multi_label_divides_at_the_first_separator_that_occurs(cells: Any, expected: Any) -> None:
    assert carried(labels_of(cells, task="multi-label")) == expected


def test_vectors_of_numbers_are_columns() -> None:
    flags = labels_of([[0, 1], [1, 1], [1, 0]])
    assert (flags.kind, flags.classes, flags.values.tolist()) == (
        "multi-label",
        ("column 0[0]", "column 0[1]"),
        [[0, 1], [1, 1], [1, 0]],
    )
    targets = labels_of([[0.5, 1], [1, 3]])
    assert (targets.kind, targets.values.tolist()) == ("regression", [[0.5, 1], [1, 3]])
    assert carried(labels_of([[3, 4], [4, 5]])) == [["3", "4"], ["4", "5"]]  # names, not numbers


def test_a_classification_takes_one_value_a_sample() -> None:
    with pytest.raises(DataError, match=r"2 columns of labels \(column 0, column 1\) for a classification"):
        labels_of([1, 0], [0, 1], task="classification")
    with pytest.raises(DataError, match=r"1 label of several values: row 1\. .* --task multi-label"):
        labels_of(["a", ["a", "b"]], task="classification")


def test_unknown_task() -> None:
    with pytest.raises(DataError, match=r"--task is 'regresion'; expected auto, .* mean 'regression'\?"):
        labels_of("ab", task="regresion")  # type: ignore[arg-type]


def test_missing_labels_are_all_named() -> None:
    cells = ["x", None, "", " \t", *("y" for _ in range(10))]
    with pytest.raises(DataError, match=r"^3 samples without a label: row 1, row 2, row 3\. Expected"):
        labels_of(cells)
    with pytest.raises(DataError, match=r"14 samples without a label: row 0, .*, row 9 and 4 more\."):
        labels_of([None] * 14)
    with pytest.raises(DataError, match=r"1 sample without a label: row 1\."):
        labels_of([["a"], None], task="multi-label")


def test_classes_sort_as_numbers_if_all_are() -> None:
    assert sorted_names(["10", "9", "-1", "9"]) == ("-1", "9", "10")
    assert sorted_names(["10", "9", "b"]) == ("10", "9", "b")
    assert sorted_names(["1", "01", "1.0"]) == ("01", "1", "1.0")
