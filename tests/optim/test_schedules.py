from __future__ import annotations

import math
from typing import Any, get_args

import pytest
import torch

from bequest.core.errors import MethodError
from bequest.core.plan import Group, Recipe, ScheduleName
from bequest.optim.schedules import (
    SCHEDULES,
    OneCycle,
    SlantedTriangular,
    WarmupConstant,
    WarmupCosine,
    WarmupLinear,
)
from bequest.stages import train


@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.3, 0.9, 0.99])
@pytest.mark.parametrize("name", SCHEDULES)
def test_rate_is_positive_and_at_most_its_peak_at_every_length(name: str, warmup: float) -> None:
    for num_steps in range(1, 201):
        factors = [SCHEDULES[name](warmup)(step, num_steps) for step in range(num_steps)]
        assert all(0 < f <= 1 for f in factors), num_steps
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


def test_constant_stays_at_its_peak() -> None:
    schedule = WarmupConstant(0.1)
    assert [schedule(s, 40) for s in (0, 3, 4, 39)] == pytest.approx([0.2, 0.8, 1, 1])
    assert [WarmupConstant(0.0)(s, 3) for s in range(3)] == [1, 1, 1]


def published(t: int, steps: int, cut_frac: float, ratio: float) -> float:
    """The equations of Howard & Ruder 2018, section 3.2, as they stand there."""
    cut = math.floor(steps * cut_frac)
    p = t / cut if t < cut else 1 - (t - cut) / (cut * (1 / cut_frac - 1))
    return (1 + p * (ratio - 1)) / ratio


@pytest.mark.parametrize(("cut_frac", "every"), [(0.1, 10), (0.25, 4), (0.29, 100), (0.5, 2)])
def test_slanted_is_the_papers_where_its_cut_is_whole(cut_frac: float, every: int) -> None:
    for steps in range(every, 401, every):
        # Rounding must not take a whole cut for one that is not.
        exact = cut_frac if math.floor(steps * cut_frac) == round(steps * cut_frac) else cut_frac + 1e-15
        ours = [SlantedTriangular(cut_frac)(t, steps) for t in range(steps)]
        assert ours == pytest.approx([published(t, steps, exact, 32.0) for t in range(steps)], rel=1e-10, abs=1e-12)


def test_slanted_mends_what_the_papers_floor_breaks() -> None:
    assert published(18, 19, 0.1, 32.0) == pytest.approx(-0.83, abs=0.01)
    assert SlantedTriangular()(18, 19) == pytest.approx((1 + 31 / 18) / 32)


def torchs_one_cycle(steps: int, pct_start: float, div: float, div_final: float) -> list[float]:
    """Torch's ends at its last step, ours (fastai's) after it: one step more, the peak at the same place."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    cycle: Any = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        max_lr=1.0,
        total_steps=steps + 1,
        pct_start=(pct_start * steps + 1) / (steps + 1),
        div_factor=div,
        final_div_factor=div_final / div,
        cycle_momentum=False,
    )
    rates = []
    for _ in range(steps):
        rates.append(cycle.get_last_lr()[0])
        optimizer.step()
        cycle.step()
    return rates


@pytest.mark.parametrize(("steps", "pct_start", "div"), [(100, 0.25, 25.0), (64, 0.3, 5.0), (13, 0.99, 25.0)])
def test_one_cycle_is_torchs(steps: int, pct_start: float, div: float) -> None:
    ours = [OneCycle(pct_start, div)(step, steps) for step in range(steps)]
    assert ours == pytest.approx(torchs_one_cycle(steps, pct_start, div, 1e5), rel=1e-9)


def test_one_cycle_goes_by_its_three_rates() -> None:
    factors = [OneCycle(0.25)(step, 100) for step in (0, 25, 99)]
    assert factors[:2] == pytest.approx([1 / 25, 1])
    # One step of 75 before the end the cosine is (π/75)²/4 above it.
    assert factors[2] == pytest.approx(1e-5 + (math.pi / 75) ** 2 / 4, rel=1e-3)


def test_a_recipe_names_its_schedule() -> None:
    assert set(SCHEDULES) == set(get_args(ScheduleName))
    recipe = Recipe(3, 8, 1e-3, 1e-3, 0.0, 0.2, 1.0, 0, "linear", "random", schedule="one_cycle")
    assert train(recipe, (Group(("w",), 1e-3),)).schedule == OneCycle(0.2)
    with pytest.raises(MethodError, match="schedule is 'flat', expected linear or cosine or one_cycle or slanted or"):
        Recipe(schedule="flat").over(recipe)  # pyright: ignore[reportArgumentType]
