import pytest

from bequest.core.intervals import t_interval


def test_ends_by_hand():
    # Mean 2, standard deviation 1, t(0.975, 2) = 4.302653.
    assert t_interval([1.0, 2.0, 3.0]) == pytest.approx((2 - 4.302653 / 3**0.5, 2 + 4.302653 / 3**0.5), abs=1e-6)


@pytest.mark.parametrize("values", [[0.3], [0.2, 0.2, 0.2], [0.1 + 0.2, 0.3]])
def test_one_value_or_equal_ones_give_none(values: list[float]):
    assert t_interval(values) is None
