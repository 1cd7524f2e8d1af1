"""Numbers that users give: refused where no data could make sense of them, else as plain Python numbers."""

from __future__ import annotations

import operator
from numbers import Real
from typing import Any

from bequest.core.errors import DataError

_LARGEST_SEED = 2**32 - 1
_SECONDS = {"s": 1, "m": 60, "h": 3600}


def as_whole(value: Any) -> int | None:
    """The value as an int, also where it is one of numpy's; None where it is no whole number."""
    try:
        return None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        return None


def check_count(flag: str, count: Any, least: int) -> int:
    """The count as an int.

    Args:
        flag: What it is called on the command line.
        count: What the user gave.
        least: The least that makes sense.

    Raises:
        DataError: It is no whole number, or less.
    """
    whole = as_whole(count)
    if whole is None or whole < least:
        raise DataError(f"{flag} is {count!r}; expected a whole number, {least} or more.")
    return whole


def check_seed(flag: str, seed: Any) -> int:
    """The seed as an int.

    Args:
        flag: What it is called on the command line.
        seed: What the user gave.

    Raises:
        DataError: It is no whole number, is negative, or has more than 32 bits.
    """
    whole = as_whole(seed)
    if whole is None or not 0 <= whole <= _LARGEST_SEED:
        raise DataError(f"{flag} is {seed!r}; expected a whole number from 0 to {_LARGEST_SEED}.")
    return whole


def check_seeds(seeds: Any) -> tuple[int, ...]:
    """The seeds that a number of them, or the seeds themselves, stand for.

    Raises:
        DataError: There is none, one is there twice, or one is none.
    """
    count = as_whole(seeds)
    if count is not None and count > 0:
        return tuple(range(count))
    given = [as_whole(seed) for seed in seeds] if hasattr(seeds, "__iter__") else []
    chosen = tuple(seed for seed in given if seed is not None and 0 <= seed <= _LARGEST_SEED)
    if not chosen or len(set(chosen)) != len(given):
        raise DataError(
            f"--seeds is {seeds!r}; expected how many, 1 or more, or, from Python, different whole numbers from 0 to "
            f"{_LARGEST_SEED}."
        )
    return chosen


def check_duration(flag: str, duration: Any) -> float:
    """A duration in seconds.

    Args:
        flag: What it is called on the command line.
        duration: Seconds, or text with a unit: `90s`, `10m`, `1.5h`.

    Raises:
        DataError: It is neither, or not above 0.
    """
    text = str(duration).strip().lower()
    unit = _SECONDS.get(text[-1:])
    try:
        seconds = float(text[:-1] if unit else text) * (unit or 1)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise DataError(f"{flag} is {duration!r}; expected a time above 0, e.g. 90s, 10m or 1.5h.")
    return seconds


def check_train_size(size: Any) -> int | None:
    """The number of labels as an int; None for all that are not test.

    Raises:
        DataError: It is no whole number, or below 1.
    """
    whole = as_whole(size)
    if size is not None and (whole is None or whole < 1):
        raise DataError(f"--train-size is {size!r}; expected a whole number, 1 or more. Leave it out for all labels.")
    return whole


def check_train_sizes(sizes: Any) -> tuple[int, ...]:
    """The numbers of labels of learning curves, fewest first; also of a text with commas between. None for none.

    Raises:
        DataError: One of them is no number of labels, or there are fewer than two.
    """
    if sizes is None:
        return ()
    words: list[Any] = sizes.split(",") if isinstance(sizes, str) else list(sizes)
    given = [int(word) if isinstance(word, str) and word.strip().isdigit() else as_whole(word) for word in words]
    whole = sorted({size for size in given if size is not None and size > 0})
    if len(whole) < len(given) or len(whole) < 2:
        raise DataError(f"--train-sizes is {sizes!r}; expected two or more different whole numbers, e.g. 25,50,100.")
    return tuple(whole)


def check_test_size(size: Any) -> int | float:
    """A number of samples as an int, a fraction of them as a float.

    Raises:
        DataError: It is neither.
    """
    number = float(size) if not isinstance(size, bool) and isinstance(size, Real) else float("nan")
    if number >= 1 and number.is_integer():
        return int(number)
    if not 0 < number < 1:
        raise DataError(f"--test-size is {size!r}; expected a fraction between 0 and 1, or a whole number from 1.")
    return number
