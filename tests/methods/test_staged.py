from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from bequest.core.errors import MethodError
from bequest.core.plan import Solve, Train
from bequest.core.registry import get_method
from bequest.optim.schedules import OneCycle, WarmupLinear

TASK: Any = SimpleNamespace(classes=("a", "b", "c"))


def stages(source: Any, **settings: Any) -> list[Any]:
    return list(get_method("staged").build({"batch_norm": "trained", **settings}).plan(source, TASK).stages)


def test_is_fastais_fine_tune(tiny_sources: dict[str, Any]) -> None:
    """Its signature is fine_tune(epochs, base_lr=2e-3, freeze_epochs=1, lr_mult=100, pct_start=0.3, div=5.0)."""
    head, rest = stages(tiny_sources["image"], epochs=6, batch_norm="trained")
    assert head.epochs == 1 and head.source_features
    assert head.schedule == OneCycle(0.99, div=25.0, div_final=1e5)
    assert [(g.names, g.learning_rate) for g in head.groups] == [(("head.weight", "head.bias"), 2e-3)]
    assert rest.epochs == 6
    assert rest.schedule == OneCycle(0.3, div=5.0, div_final=1e5)
    rates = {name: group.learning_rate for group in rest.groups for name in group.names}
    assert set(rates) == {name for name, _ in tiny_sources["image"].network().named_parameters()}
    # Three groups, the head being the last: base/2 divided by 100, 10, 1.
    assert rates["body.stem.weight"] == rates["body.blocks.0.norm.bias"] == pytest.approx(1e-5)
    assert rates["body.blocks.1.norm.bias"] == rates["body.blocks.2.pointwise.weight"] == pytest.approx(1e-4)
    assert rates["head.weight"] == rates["head.bias"] == 1e-3


def test_rates_are_geometric_over_any_number_of_groups(tiny_sources: dict[str, Any]) -> None:
    rest = stages(tiny_sources["image"], num_groups=4, rate_ratio=16.0, learning_rate=1.0)[-1]
    rates = {name: group.learning_rate for group in rest.groups for name in group.names}
    order = ["body.stem.bias", *(f"body.blocks.{i}.norm.bias" for i in range(3)), "head.bias"]
    assert [rates[name] for name in order] == pytest.approx([1 / 16, 1 / 8, 1 / 4, 1 / 2, 1])


def test_a_solved_head_takes_the_first_phases_place(tiny_sources: dict[str, Any]) -> None:
    first, second = stages(tiny_sources["text"], head_init="solved", schedule="linear")
    assert isinstance(first, Solve) and isinstance(second, Train)
    assert second.schedule == WarmupLinear(0.3)


def test_faults_are_named_at_once(tiny_sources: dict[str, Any]) -> None:
    settings = {"freeze_epochs": 0, "num_groups": 0, "rate_ratio": 0.5, "layer_decay": 0.9}
    with pytest.raises(MethodError) as caught:
        stages(tiny_sources["text"], **settings)
    assert str(caught.value) == (
        "freeze_epochs is 0, expected 1 or more; num_groups is 0, expected 1 or more; rate_ratio is 0.5, expected 1 or "
        "more; layer_decay is 0.9, expected none: set rate_ratio."
    )
