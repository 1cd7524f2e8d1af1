"""From cells to labels: which kind of task they pose, and what they are in numbers.

A kind that was chosen rather than named, and was not the only one possible, is told in a note with its remedy.
"""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast, get_args

import numpy as np

from bequest.core.errors import DataError, nearest
from bequest.core.task import Kind, LabelArray
from bequest.data.messages import counted, listed
from bequest.data.spool import Lazy

TaskChoice = Literal["auto", "classification", "multi-label", "regression", "causal-lm"]
Describe = Callable[[int], str]

SEPARATORS = ("|", ";", ",")
"""What may stand between the classes of a sample in one cell; the first that occurs in the column does."""

_FEW_NUMBERS = 20  # so many different whole numbers may be classes in a table of any size
_FEW_NUMBERS_RATE = 0.05  # or so many of the rows
_MOSTLY = 0.9  # of the cells are numbers: the others are slips
_LARGEST = float(np.finfo(np.float32).max)
_ZERO_ONE = {"0": 0.0, "1": 1.0, "0.0": 0.0, "1.0": 1.0, "false": 0.0, "true": 1.0}


@dataclass(frozen=True)
class Labels:
    """Labels of all samples, with what `bequest.core.task.Task` says of them.

    Attributes:
        kind: What is predicted.
        values: As `Task.labels`.
        classes: Names of the classes or targets.
        notes: What the user should know.
    """

    kind: Kind
    values: LabelArray
    classes: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def text(self, index: int) -> str:
        """The label of one sample, for messages."""
        value = self.values[index]
        if self.kind == "classification":
            return repr(self.classes[int(value)])
        if self.kind == "regression":
            return ", ".join(f"{v:g}" for v in value)
        return repr("|".join(self.classes[i] for i in np.flatnonzero(value)))


@dataclass(frozen=True)
class LabelColumns:
    """The cells that labels are read from.

    Attributes:
        cells: One sequence a column, one cell a sample: str, number, bool, a list of those, or None.
        names: Of the columns.
        describe: Names a sample in messages.
        classes: Names of the classes in order; None for those found, sorted.
        count_integers: Whether many different whole numbers are quantities rather than classes.
    """

    cells: Sequence[Sequence[Any]]
    names: Sequence[str]
    describe: Describe
    classes: Sequence[str] | None = None
    count_integers: bool = True


def check_task(task: str) -> None:
    """Refuses what is no kind of task.

    Raises:
        DataError: It is none.
    """
    known = get_args(TaskChoice)
    if task not in known:
        raise DataError(f"--task is {task!r}; expected {', '.join(known)}. {nearest(task, known)}")


def read_labels(columns: LabelColumns, task: TaskChoice = "auto") -> Labels:
    """The labels in one column or several.

    Args:
        columns: The cells.
        task: The kind, or `auto`: several columns of 0 and 1 only, lists, and cells with `|` between classes
            that also occur otherwise, are multi-label; numbers that are not whole, and more different numbers
            than 20 and than 5 % of the samples, are regression; all else are classes.

    Raises:
        DataError: Labels are missing, or are not what the kind asks for.
    """
    check_task(task)
    if task == "causal-lm":
        raise DataError(
            "--task causal-lm is for texts without labels, but labels are given; expected texts, or prompts and "
            "completions. From Python: bequest.task_from_texts."
        )
    columns = _unpacked(columns)
    kind, notes = (task, []) if task != "auto" else _chosen(columns)
    if kind == "regression":
        return _regression(columns, notes)
    if kind == "multi-label":
        return _flags(columns, notes) if len(columns.cells) > 1 else _tags(columns, notes)
    return _classes(columns, notes)


def no_labels(num_samples: int) -> Labels:
    """The labels of texts for a language model: what is to be predicted stands in the texts."""
    return Labels("causal-lm", np.zeros((num_samples, 0), np.float32), ())


def class_name(value: Any) -> str | None:
    """The class name of a label; None where it is missing."""
    value = value.item() if isinstance(value, np.generic) else value
    if value is None or (isinstance(value, float) and value != value):
        return None
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def sorted_names(names: Iterable[str]) -> tuple[str, ...]:
    """The different names, in numeric order if all are numbers, else in alphabetic order."""
    different = set(names)
    try:
        return tuple(sorted(different, key=lambda name: (float(name), name)))
    except ValueError:
        return tuple(sorted(different))


def is_missing(value: Any) -> bool:
    """Whether a cell holds nothing: None, not-a-number, or white space."""
    if isinstance(value, str):
        return not value.strip()
    return value is None or (isinstance(value, float | np.floating) and bool(value != value))


def refuse_missing(missing: Sequence[int], describe: Describe, what: str = "label") -> None:
    """Raises `DataError` if labels, or other cells that every sample needs, are missing."""
    if missing:
        raise DataError(
            f"{counted(len(missing), 'sample')} without a {what}: {listed([describe(i) for i in missing])}. Expected a "
            f"{what} for each. {'Label' if what == 'label' else 'Complete'} or remove them."
        )


@dataclass
class _Survey:
    """What one column holds."""

    limit: float  # of different numbers; more are not counted
    filled: int = 0
    lists: int = 0
    numbers: int = 0
    has_fraction: bool = False
    different: set[float] = field(default_factory=set[float])
    divided: int = 0
    whole: set[str] = field(default_factory=set[str])
    pieces: set[str] = field(default_factory=set[str])

    def add(self, cell: Any) -> None:
        if is_missing(cell):
            return
        self.filled += 1
        if _listed_cell(cell) is not None:
            self.lists += 1
        elif (number := _number(cell)) is not None:
            self.numbers += 1
            self.has_fraction |= math.isfinite(number) and not number.is_integer()
            if len(self.different) <= self.limit:
                self.different.add(number)
        elif isinstance(cell, str):
            self.divided += "|" in cell
            self.whole.add(cell)
            self.pieces.update(_pieces(cell, "|"))

    @property
    def clearly_divided(self) -> bool:
        """Pieces come back in other company: else `|` is a part of the names."""
        return self.divided > 1 and len(self.pieces) <= len(self.whole)


def _chosen(columns: LabelColumns) -> tuple[Kind, list[str]]:
    if len(columns.cells) > 1:
        return _chosen_of_several(columns)
    survey = _Survey(max(_FEW_NUMBERS, _FEW_NUMBERS_RATE * len(columns.cells[0])))
    for cell in columns.cells[0]:
        survey.add(cell)
    if survey.lists and survey.lists == survey.filled:
        return "multi-label", ["Took the labels for lists of classes (multi-label)."]
    if survey.clearly_divided:
        return "multi-label", [
            f"Split the labels at '|' into {counted(len(survey.pieces), 'class', 'classes')} (multi-label). If '|' is "
            "a part of their names: --task classification."
        ]
    if survey.has_fraction and survey.numbers >= _MOSTLY * survey.filled:
        return "regression", [_regression_note("they are not whole")]
    if columns.count_integers and survey.numbers == survey.filled and len(survey.different) > survey.limit:
        return "regression", [_regression_note(f"there are more than {int(survey.limit):,} different ones")]
    notes = []
    if survey.divided:
        notes = ["Took labels with '|' in them for names of classes. To split them: --task multi-label."]
    return "classification", notes


def _chosen_of_several(columns: LabelColumns) -> tuple[Kind, list[str]]:
    if all(_zero_one(cell) is not None or is_missing(cell) for cells in columns.cells for cell in cells):
        return "multi-label", []
    return "regression", []


def _has_fraction(numbers: set[float]) -> bool:
    return any(math.isfinite(number) and not number.is_integer() for number in numbers)


def _regression_note(why: str) -> str:
    return f"Took the labels for numbers to predict (regression): {why}. If they are classes: --task classification."


def _unpacked(columns: LabelColumns) -> LabelColumns:
    """One column of vectors of numbers as several columns; all else as it is."""
    if len(columns.cells) != 1:
        return columns
    cells = columns.cells[0]
    first = cells[0] if len(cells) else None
    if not isinstance(first, list | tuple | np.ndarray) or len(cast(Sequence[Any], first)) < 2:
        return columns
    width = len(cast(Sequence[Any], first))
    numbers: set[float] = set()
    for cell in cells:
        values = _vector(cell, width)
        if values is None:
            return columns
        if len(numbers) <= 2:
            numbers.update(values)
    if not (numbers <= {0.0, 1.0} or _has_fraction(numbers)):
        return columns
    names = columns.classes or [f"{columns.names[0]}[{i}]" for i in range(width)]
    if len(names) != width:
        raise DataError(
            f"The labels have {width} numbers each, but there are {counted(len(names), 'class', 'classes')}; expected "
            "one name for each."
        )
    split = [Lazy(len(cells), lambda i, k=k: cells[i][k]) for k in range(width)]
    return LabelColumns(split, names, columns.describe, None, columns.count_integers)


def _vector(cell: Any, width: int) -> list[float] | None:
    if not isinstance(cell, list | tuple | np.ndarray) or len(cast(Sequence[Any], cell)) != width:
        return None
    values = list(cast(Sequence[Any], cell))
    if not all(isinstance(v, int | float | np.number | np.bool_) for v in values):
        return None
    return [float(v) for v in values]


def _classes(columns: LabelColumns, notes: list[str]) -> Labels:
    if len(columns.cells) > 1:
        raise DataError(
            f"{len(columns.cells)} columns of labels ({listed(list(columns.names))}) for a classification; expected "
            "one. Name one column, or choose --task multi-label or --task regression."
        )
    codes: dict[str, int] = {}
    values = np.zeros(len(columns.cells[0]), np.int64)
    missing: list[int] = []
    wrong: list[int] = []
    for i, cell in enumerate(columns.cells[0]):
        if is_missing(cell):
            missing.append(i)
        elif isinstance(cell, list | tuple | set | frozenset | dict | np.ndarray):
            wrong.append(i)
        else:
            values[i] = codes.setdefault(cast(str, class_name(cell)), len(codes))
    refuse_missing(missing, columns.describe)
    if wrong:
        raise DataError(
            f"{counted(len(wrong), 'label')} of several values: {listed([columns.describe(i) for i in wrong])}. "
            "Expected one class a sample. Correct them, or choose --task multi-label."
        )
    order = tuple(columns.classes) if columns.classes is not None else sorted_names(codes)
    rank = _ranks(codes, order)
    return Labels("classification", np.array([rank[name] for name in codes], np.int64)[values], order, tuple(notes))


def _ranks(names: Iterable[str], order: Sequence[str]) -> dict[str, int]:
    rank = {name: i for i, name in enumerate(order)}
    others = sorted(name for name in names if name not in rank)
    if others:
        raise DataError(
            f"labels hold {listed([repr(n) for n in others])}, not among the classes. {nearest(others[0], order)}"
        )
    return rank


def _flags(columns: LabelColumns, notes: list[str]) -> Labels:
    """Several columns, one a class, of 0 and 1."""
    values = np.zeros((len(columns.cells[0]), len(columns.cells)), np.float32)
    missing: list[int] = []
    wrong: list[str] = []
    for k, cells in enumerate(columns.cells):
        for i, cell in enumerate(cells):
            flag = _zero_one(cell)
            if flag is not None:
                values[i, k] = flag
            elif is_missing(cell):
                missing.append(i)
            else:
                wrong.append(f"{_brief(cell)} for {columns.names[k]!r} in {columns.describe(i)}")
    refuse_missing(sorted(set(missing)), columns.describe)
    if wrong:
        raise DataError(
            f"{counted(len(wrong), 'label')} other than 0 and 1: {listed(wrong)}. Expected 1 where a sample carries "
            "the class, else 0. Correct them, or choose --task regression."
        )
    return _carried(values, tuple(columns.classes or columns.names), notes)


def _tags(columns: LabelColumns, notes: list[str]) -> Labels:
    """One column, with any number of class names in each cell."""
    cells = columns.cells[0]
    separator = _separator(cells)
    codes: dict[str, int] = {}
    missing: list[int] = []
    for i, cell in enumerate(cells):
        if cell is None:
            missing.append(i)
        else:
            for name in _names(cell, separator):
                codes.setdefault(name, len(codes))
    refuse_missing(missing, columns.describe)
    if not codes:
        raise DataError("No sample carries a label; expected classes in the labels. Add them.")
    order = tuple(columns.classes) if columns.classes is not None else sorted_names(codes)
    rank = _ranks(codes, order)
    values = np.zeros((len(cells), len(order)), np.float32)
    for i, cell in enumerate(cells):
        values[i, [rank[name] for name in _names(cell, separator)]] = 1
    return _carried(values, order, notes)


def _carried(values: LabelArray, classes: tuple[str, ...], notes: list[str]) -> Labels:
    """Without classes that no sample carries: there is nothing to learn of them."""
    used = [bool(column.any()) for column in values.T]
    if not any(used):
        raise DataError("No sample carries a label; expected a 1 in some. Add them.")
    if not all(used):
        lost = [repr(name) for name, is_used in zip(classes, used, strict=True) if not is_used]
        notes = [*notes, f"Left out {counted(len(lost), 'class', 'classes')} that no sample carries: {listed(lost)}."]
        values, classes = values[:, used], tuple(n for n, is_used in zip(classes, used, strict=True) if is_used)
    bare = int((~values.any(1)).sum())
    if bare:
        notes = [*notes, f"{counted(bare, 'sample')} without any of the classes."]
    return Labels("multi-label", values, classes, tuple(notes))


def _regression(columns: LabelColumns, notes: list[str]) -> Labels:
    values = np.zeros((len(columns.cells[0]), len(columns.cells)), np.float32)
    missing: list[int] = []
    wrong: list[str] = []
    for k, cells in enumerate(columns.cells):
        for i, cell in enumerate(cells):
            number = _number(cell)
            if number is not None and abs(number) <= _LARGEST:
                values[i, k] = number
            elif is_missing(cell) and not isinstance(cell, float):
                missing.append(i)
            else:
                wrong.append(f"{columns.describe(i)} ({_brief(cell)})")
    refuse_missing(sorted(set(missing)), columns.describe)
    if wrong:
        raise DataError(
            f"{counted(len(wrong), 'label')} that {'is' if len(wrong) == 1 else 'are'} not a finite number: "
            f"{listed(wrong)}. Expected numbers (regression). Correct or remove them; if they are classes: --task "
            "classification."
        )
    names = tuple(columns.classes or columns.names)
    flat = [repr(name) for k, name in enumerate(names) if len(values) and np.ptp(values[:, k]) == 0]
    if flat:
        raise DataError(f"All samples have the same value of {listed(flat)}; expected different ones to learn from.")
    return Labels("regression", values, names, tuple(notes))


def _number(cell: Any) -> float | None:
    """The number in a cell, finite or not; None where there is none."""
    if isinstance(cell, bool | np.bool_):
        return float(cell)
    if not isinstance(cell, str | int | float | np.number):
        return None
    try:
        return float(cast(Any, cell))
    except (ValueError, OverflowError):
        return None


def _zero_one(cell: Any) -> float | None:
    if isinstance(cell, str):
        return _ZERO_ONE.get(cell.strip().lower())
    if isinstance(cell, bool | int | float | np.number | np.bool_) and cell in (0, 1):
        return float(cell)
    return None


def _listed_cell(cell: Any) -> list[Any] | None:
    """The items of a list, or of one that is written as JSON or Python writes it."""
    if isinstance(cell, list | tuple | set | frozenset | np.ndarray):
        return list(cast(Iterable[Any], cell))
    if not isinstance(cell, str) or not (cell.strip().startswith("[") and cell.strip().endswith("]")):
        return None
    for parse in (json.loads, ast.literal_eval):
        try:
            return list(parse(cell.strip()))
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
    return None


def _separator(cells: Iterable[Any]) -> str:
    found = {
        s for cell in cells if isinstance(cell, str) and _listed_cell(cell) is None for s in SEPARATORS if s in cell
    }
    return next((separator for separator in SEPARATORS if separator in found), SEPARATORS[0])


def _names(cell: Any, separator: str) -> list[str]:
    items = _listed_cell(cell)
    if items is None:
        return _pieces(cell, separator) if isinstance(cell, str) else [name for name in [class_name(cell)] if name]
    return [name for name in map(class_name, items) if name and name.strip()]


def _pieces(cell: str, separator: str) -> list[str]:
    return [piece.strip() for piece in cell.split(separator) if piece.strip()]


def _brief(cell: Any) -> str:
    return repr(cell if not isinstance(cell, str) else cell[:40])
