"""`bequest.data.assemble`: what it reads, and what it refuses in which words."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bequest.core.errors import DataError
from bequest.core.task import Task
from bequest.data.assemble import Labelled, assemble
from bequest.data.labels import LabelColumns, Labels, read_labels
from bequest.data.text import Texts


def names(labels: Any, classes: Any = None) -> Labels:
    return read_labels(LabelColumns([list(labels)], ["label"], lambda i: f"row {i}", classes), "classification")


def task_of(texts: str, labels: str, split: str = "", **others: Any) -> Task:
    """One letter a text and a label; parts by their first letters."""
    parts = [{"t": "train", "v": "validation", "x": "test"}[s] for s in split]
    samples = Texts(list(texts), [f"row {i}" for i in range(len(texts))])
    return assemble(Labelled(samples, names(labels), parts, **others), "letters")


def texts_of(task: Task) -> str:
    return "".join(task.samples[i] for i in range(len(task.samples)))


def test_sound_samples_become_a_task() -> None:
    task = task_of("abcd", "yxyx")
    assert (task.name, task.classes, task.split, task.notes, task.origin) == (
        "letters",
        ("x", "y"),
        (),
        (),
        {},
    )
    assert task.labels.dtype == np.int64
    assert [task.classes[i] for i in task.labels] == list("yxyx")
    assert texts_of(task) == "abcd"


def test_duplicates_are_reduced_to_the_first() -> None:
    task = task_of("abcaab", "xyxxxy", groups=np.array([5, 4, 3, 2, 1, 0]))
    assert texts_of(task) == "abc"
    assert task.notes == ("Dropped 3 exact duplicates, keeping one of each.",)
    assert task.groups is not None
    assert list(task.groups) == [5, 4, 3]
    assert len(task.hashes) == 3


def test_test_is_kept_before_validation_before_train() -> None:
    task = task_of("abcabdacdde", "xyxxyyxxyyx", "tttvvvxxtxt")
    kept = dict(zip(texts_of(task), task.split, strict=True))
    assert kept == {"a": "test", "b": "validation", "c": "test", "d": "test", "e": "train"}
    assert [task.samples.describe(i) for i in range(5)] == ["row 4", "row 6", "row 7", "row 9", "row 10"]
    assert task.notes == (
        "Dropped 6 exact duplicates, keeping one of each; 4 stood in more than one given part and stay in "
        "test, or else validation.",
    )


def test_contradictory_labels_drop_all_copies() -> None:
    task = task_of("abcabdd", "xyxxxyy")
    assert texts_of(task) == "acd"
    assert task.notes == (
        "Dropped 2 exact duplicates, keeping one of each.",
        "Dropped 2 samples whose content stands under different labels: row 1 ('y') = row 4 ('x'). Correct "
        "their labels to use them.",
    )


def test_three_contradictions_are_named_and_the_rest_counted() -> None:
    note = task_of("abcdeabcdezw", "xxxxxyyyyyxy").notes[0]
    assert note.startswith("Dropped 10 samples whose content stands under different labels: row 0 ('x') = row 5")
    assert "row 2 ('x') = row 7 ('y') and 2 more. " in note
    assert "row 3" not in note


def test_empty_texts_are_all_named() -> None:
    with pytest.raises(DataError, match=r"^2 texts without any content: row 1, row 3\. Expected more than white"):
        task_of("a b\n", "xyxy")


def test_names_that_differ_in_case_or_space_are_told_and_kept_apart() -> None:
    samples = Texts(list("abcd"), list("abcd"))
    task = assemble(Labelled(samples, names(["Spam", "spam ", "ham", "spam"])), "t")
    assert task.classes == ("Spam", "ham", "spam", "spam ")
    assert task.notes[0].startswith(
        "Warning: labels that differ only in case or surrounding space are kept apart: 'Spam' and 'spam' and 'spam '."
    )


def test_one_class_is_refused() -> None:
    with pytest.raises(DataError, match=r"All 3 samples of 'letters' have one label, 'x'; expected two classes"):
        task_of("abc", "xxx")


def test_class_without_samples_is_refused() -> None:
    with pytest.raises(DataError, match=r"No samples of 'y'; content that stands under different labels is not"):
        task_of("aab", "xyx")
    samples = Texts(list("ab"), list("ab"))
    with pytest.raises(DataError, match=r"^No samples of 'z'\. Expected samples of every class"):
        assemble(Labelled(samples, names("xy", ("z", "x", "y"))), "t")
    assert list(assemble(Labelled(samples, names("xy", ("y", "x"))), "t").labels) == [1, 0]


def test_given_part_that_vanishes_is_refused() -> None:
    with pytest.raises(DataError, match="No sample of the given validation part is left"):
        task_of("abcc", "xyxx", "ttvx")
