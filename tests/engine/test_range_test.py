from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from bequest.core.errors import MethodError, TrainingError
from bequest.core.registry import get_method
from bequest.engine.range_test import RangeTest, range_test, valley


def tried(context: Any, name: str = "full", **changes: Any) -> RangeTest:
    settings = {"batch_size": 8, "head_init": "random", **changes.pop("settings", {})}
    draw = context.task.draw(0, train_size=40, test_size=30)
    options = {"learning_rate": 3e-4, "start": 1e-5, "end": 10.0, "num_steps": 40, **changes}
    return range_test(context, get_method(name).build(settings), draw, seed=0, **options)


def test_rates_rise_geometrically_and_losses_are_the_steps(context_of: Callable[..., Any]) -> None:
    test = tried(context_of("text"), end=1e-2)
    assert test.rates == pytest.approx(np.geomspace(1e-5, 1e-2, 40))
    assert len(test.losses) == len(test.smoothed) == 40
    weights = 0.98 ** np.arange(39, -1, -1)
    assert test.smoothed[-1] == pytest.approx(float(np.sum(weights * test.losses) / weights.sum()))
    assert test.smoothed[0] == test.losses[0]


def test_the_optimizer_runs_at_those_rates_and_keeps_their_proportions(
    context_of: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[float]] = []

    class Spy(torch.optim.AdamW):
        def step(self, closure: Any = None) -> Any:
            seen.append([group["lr"] for group in self.param_groups])
            return super().step(closure)

    monkeypatch.setattr(torch.optim, "AdamW", Spy)
    settings = {"learning_rate": 1e-3, "head_learning_rate": 5e-3, "layer_decay": 1.0}
    test = tried(context_of("image"), settings=settings, learning_rate=1e-3, end=1e-2)
    # The last step's loss ends the test.
    assert [rates[0] for rates in seen] == pytest.approx(list(test.rates[:-1]))
    assert all(rates[-1] == pytest.approx(5 * rates[0]) for rates in seen)


def test_it_ends_when_the_loss_runs_away(context_of: Callable[..., Any]) -> None:
    test = tried(context_of("image"), end=1e6, num_steps=60)
    assert len(test.rates) < 60
    assert all(math.isfinite(loss) for loss in test.losses)
    assert all(b / a == pytest.approx(1e11 ** (1 / 59)) for a, b in pairwise(test.rates))


def test_the_suggestion_trains_better_than_far_below_it(context_of: Callable[..., Any]) -> None:
    from bequest.engine.run import run

    def best(rate: float) -> float:
        context = context_of("image")
        draw = context.task.draw(0, train_size=40, test_size=30)
        settings = {"batch_size": 8, "head_init": "random", "epochs": 6, "learning_rate": rate}
        outcome = run(context, get_method("full").build({**settings, "head_learning_rate": 10 * rate}), draw, seed=0)
        return min(epoch.validation_loss for epoch in outcome.history)

    suggestion = tried(context_of("image"), num_steps=60).suggestion
    assert 1e-5 < suggestion < 10
    assert best(suggestion) < best(suggestion / 1000)


def test_the_test_part_is_not_read_and_the_source_untouched(context_of: Callable[..., Any]) -> None:
    context = context_of("image")
    before = {name: t.clone() for name, t in context.source.body.state_dict().items()}
    draw = context.task.draw(0, train_size=40, test_size=30)
    read: list[int] = []
    hashes = context.hashes

    def hashing(indices: Any) -> Any:
        read.extend(int(i) for i in indices)
        return hashes(indices)

    context.hashes = hashing
    tried(context)
    assert read and set(read) <= set(draw.labelled.tolist())
    assert all(torch.equal(before[name], t) for name, t in context.source.body.state_dict().items())


def test_valley_by_hand() -> None:
    # Longest falling subsequence: 9 8 7 6 5 4, six long, its end at position 7.
    assert valley([9, 8, 10, 7, 11, 6, 5, 4, 20, 30]) == 7 - 6 + 2 + 1
    assert valley([float(i) for i in range(9, 0, -1)]) == 8 - 9 + 3 + 1
    assert valley([1.0, 1.0, 2.0]) is None
    assert valley([]) is None


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"start": 0.0}, r"rates go from 0\.0 to 10\.0; expected a first one above 0 and a larger last one"),
        ({"end": 1e-6}, r"expected a first one above 0 and a larger last one"),
        ({"num_steps": 5}, r"steps are 5, expected 20 or more"),
    ],
)
def test_faults(changes: dict[str, Any], text: str, context_of: Callable[..., Any]) -> None:
    with pytest.raises(MethodError, match=text):
        tried(context_of("image"), **changes)


def test_a_method_that_only_solves_is_refused(context_of: Callable[..., Any]) -> None:
    context = context_of("image")
    draw = context.task.draw(0, train_size=40, test_size=30)
    options = {"learning_rate": 1.0, "start": 1e-5, "end": 1.0, "num_steps": 20}
    with pytest.raises(MethodError, match="needs a method that trains by gradient descent"):
        range_test(context, get_method("linear_probe").build({}), draw, seed=0, **options)


def test_a_loss_that_never_falls_gives_no_suggestion() -> None:
    rising = tuple(float(i) for i in range(30))
    with pytest.raises(TrainingError, match=r"fell at no rate from 1 to 30; expected a stretch .* Start lower, end"):
        _ = RangeTest(tuple(i + 1 for i in rising), rising, rising).suggestion
