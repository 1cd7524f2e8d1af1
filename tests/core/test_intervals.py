import math

import pytest

from bequest.core.intervals import paired, seeds_for, t_interval


def test_ends_by_hand():
    # Mean 2, standard deviation 1, t(0.975, 2) = 4.302653.
    assert t_interval([1.0, 2.0, 3.0]) == pytest.approx((2 - 4.302653 / 3**0.5, 2 + 4.302653 / 3**0.5), abs=1e-6)


@pytest.mark.parametrize("values", [[0.3], [0.2, 0.2, 0.2], [0.1 + 0.2, 0.3]])
def test_one_value_or_equal_ones_give_none(values: list[float]):
    assert t_interval(values) is None


def test_methods_are_paired_by_the_seeds_that_both_finished() -> None:
    found = paired({0: 0.9, 1: 0.8, 3: 0.1}, {0: 0.7, 1: 0.7, 2: 0.0})
    assert found is not None and found.seeds == 2
    assert found.mean == pytest.approx(0.15)
    # t of one degree of freedom is 12.706, the standard error 0.05.
    assert (found.low, found.high) == (pytest.approx(0.15 - 0.6353, abs=1e-4), pytest.approx(0.15 + 0.6353, abs=1e-4))
    assert not found.is_told
    told = paired({0: 0.9, 1: 0.91}, {0: 0.5, 1: 0.511})
    assert told is not None and told.is_told
    single = paired({0: 0.9}, {0: 0.5})
    assert single is not None and single.low is None and not single.is_told
    assert paired({0: 0.9}, {1: 0.5}) is None


def test_seeds_that_would_narrow_an_interval() -> None:
    half = 4.302653 / math.sqrt(3)  # three seeds, standard deviation 1
    assert seeds_for(half, 3, 1.0) == 7  # 2.447 / √7 = 0.92, 2.571 / √6 = 1.05
    assert seeds_for(half, 3, 100.0) == 2
    assert seeds_for(half, 3, 0.01) == 1001
