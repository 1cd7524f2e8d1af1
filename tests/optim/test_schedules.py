from __future__ import annotations

import math

import pytest

from bequest.optim.schedules import WarmupCosine, WarmupLinear


@pytest.mark.parametrize("schedule", [WarmupLinear(0.1), WarmupCosine(0.1), WarmupLinear(0.0), WarmupCosine(0.9)])
@pytest.mark.parametrize("num_steps", [1, 2, 3, 10, 19, 65, 200])
def test_rate_is_positive_and_at_most_its_peak(schedule: WarmupLinear, num_steps: int) -> None:
    factors = [schedule(step, num_steps) for step in range(num_steps)]
    assert all(0 < f <= 1 for f in factors)
    peak = factors.index(max(factors))
    assert factors[:peak] == sorted(factors[:peak])
    assert factors[peak:] == sorted(factors[peak:], reverse=True)


def test_linear_is_the_formula() -> None:
    schedule = WarmupLinear(0.1)
    assert [schedule(s, 100) for s in (0, 9, 10, 55, 99)] == pytest.approx([1 / 11, 10 / 11, 1, 0.5, 1 / 90])


def test_cosine_is_the_formula() -> None:
    schedule = WarmupCosine(0.2)
    expected = [0.5 * (1 + math.cos(math.pi * (s - 20) / 80)) for s in (20, 60, 99)]
    assert [schedule(s, 100) for s in (20, 60, 99)] == pytest.approx(expected)
