from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from bequest.core import checks
from bequest.core.errors import DataError


def faults(check: Any, value: Any, text: str) -> None:
    with pytest.raises(DataError, match="^" + re.escape(text) + "$"):
        check(value)


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3), np.array(3)])
def test_numpys_whole_numbers_become_pythons(value: Any):
    assert checks.as_whole(value) == 3
    assert type(checks.as_whole(value)) is int
    assert type(checks.check_train_size(value)) is int
    assert type(checks.check_test_size(np.int64(3))) is int


@pytest.mark.parametrize("value", [True, 3.0, "3", None, [3]])
def test_other_things_are_no_whole_numbers(value: Any):
    assert checks.as_whole(value) is None


@pytest.mark.parametrize("seed", [-1, 2**32, 0.5, "0", None, True])
def test_seed(seed: Any):
    text = f"--split-seed is {seed!r}; expected a whole number from 0 to 4294967295."
    faults(lambda value: checks.check_seed("--split-seed", value), seed, text)
    assert checks.check_seed("--seed", 2**32 - 1) == 2**32 - 1


@pytest.mark.parametrize("seeds", [-1, 0, 2.5, "3", None, True, [], [1, 1], [0, -1], [0, "a"], [0, 2**32]])
def test_seeds(seeds: Any):
    expected = "expected how many, 1 or more, or, from Python, different whole numbers from 0 to 4294967295."
    faults(checks.check_seeds, seeds, f"--seeds is {seeds!r}; {expected}")


def test_seeds_are_a_number_of_them_or_themselves():
    assert checks.check_seeds(3) == checks.check_seeds(range(3)) == checks.check_seeds(np.arange(3)) == (0, 1, 2)
    assert checks.check_seeds([7, 5]) == (7, 5)


@pytest.mark.parametrize("size", [-5, 0, 2.5, "40", True])
def test_train_size(size: Any):
    text = f"--train-size is {size!r}; expected a whole number, 1 or more. Leave it out for all labels."
    faults(checks.check_train_size, size, text)
    assert checks.check_train_size(None) is None


@pytest.mark.parametrize("size", [0, -3, -0.5, 2.5, float("inf"), float("nan"), "0.2", None, True])
def test_test_size(size: Any):
    text = f"--test-size is {size!r}; expected a fraction between 0 and 1, or a whole number from 1."
    faults(checks.check_test_size, size, text)
    assert checks.check_test_size(0.25) == 0.25
    assert checks.check_test_size(30.0) == 30
