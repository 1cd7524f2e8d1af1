from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from bequest.core.errors import MethodError
from bequest.core.plan import Train
from bequest.core.registry import get_method
from bequest.engine.run import make_plan, restore, run
from bequest.nn.lowrank import low_rank_layers
from bequest.sources import from_module

TASK: Any = SimpleNamespace(classes=("a", "b", "c"))


def planned(source: Any, **settings: Any) -> tuple[Any, dict[str, float]]:
    plan = get_method("lora").build(settings).plan(source, TASK)
    stage = plan.stages[-1]
    assert isinstance(stage, Train)
    return plan, {name: group.learning_rate for group in stage.groups for name in group.names}


def test_every_linear_layer_is_adapted_but_not_the_head(tiny_sources: dict[str, Any]) -> None:
    plan, rates = planned(tiny_sources["text"], learning_rate=1e-3, head_learning_rate=1e-2)
    layers = low_rank_layers(plan.network)
    assert len(layers) == 12 and all(name.startswith("body.") for name in layers)
    assert type(plan.network.head) is nn.Linear
    factors = {f"{name}.{factor}": 1e-3 for name in layers for factor in ("A", "B")}
    assert rates == {**factors, "head.weight": 1e-2, "head.bias": 1e-2}


def test_patterns_choose_layers_ranks_and_alphas(tiny_sources: dict[str, Any]) -> None:
    settings = {"targets": "query,value", "rank_pattern": "layer.1.*.query=2,value=6", "lora_alpha_pattern": "value=3"}
    plan, _ = planned(tiny_sources["text"], rank=4, lora_alpha=8.0, **settings)
    found = {name: (layer.A.shape[0], layer.scale) for name, layer in low_rank_layers(plan.network).items()}
    assert sorted(found.values()) == [(2, 4.0), (4, 2.0), (6, 0.5), (6, 0.5)]
    assert {name.rpartition(".")[2] for name in found} == {"query", "value"}


def test_a_misspelt_target_among_valid_ones_is_an_error(tiny_sources: dict[str, Any]) -> None:
    with pytest.raises(MethodError, match=r"'qurey' fits no layer\. Did you mean 'query'"):
        planned(tiny_sources["text"], targets="value,qurey")
    with pytest.raises(MethodError, match=r"'kye' fits none of the adapted layers\. Did you mean 'key'"):
        planned(tiny_sources["text"], rank_pattern="kye=4")


def test_scaling_rates_and_magnitudes(tiny_sources: dict[str, Any]) -> None:
    plan, rates = planned(
        tiny_sources["text"], rank=4, lora_alpha=6.0, scaling="rslora", b_rate_ratio=16.0, dora=True, learning_rate=1e-4
    )
    layers = low_rank_layers(plan.network)
    assert all(layer.scale == pytest.approx(6 / math.sqrt(4)) for layer in layers.values())
    for name in layers:
        assert rates[f"{name}.A"] == rates[f"{name}.magnitude"] == 1e-4
        assert rates[f"{name}.B"] == pytest.approx(16e-4)


def test_settings_out_of_range_are_all_told(tiny_sources: dict[str, Any]) -> None:
    with pytest.raises(MethodError) as error:
        planned(tiny_sources["text"], rank=0, lora_alpha=0.0, lora_dropout=1.0, b_rate_ratio=-1.0)
    assert str(error.value) == (
        "rank is 0, expected 1 or more; lora_alpha is 0.0, expected above 0; lora_dropout is 1.0, expected from 0 to "
        "below 1; b_rate_ratio is -1.0, expected above 0."
    )


def test_a_body_with_nothing_to_adapt_is_refused() -> None:
    source = from_module(nn.Sequential(nn.Conv2d(3, 3, 3, groups=3), nn.Flatten(), nn.Linear(12, 2)), name="bare")
    with pytest.raises(MethodError, match="lora found nothing to adapt in 'bare'"):
        planned(source)
    plan, _ = planned(source, targets="0")
    assert list(low_rank_layers(plan.network)) == ["body.0"]


VARIANTS = {
    "dora": {"dora": True},
    "pissa": {"init": "pissa"},
    "dropout": {"lora_dropout": 0.2},
    "all": {"dora": True, "init": "pissa", "lora_dropout": 0.2, "scaling": "rslora", "b_rate_ratio": 4.0},
    "embeddings": {"targets": "*"},
}


@pytest.mark.parametrize("kind", ["image", "text"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_train_through_the_cut_and_come_back(kind: str, variant: str, context_of: Callable[..., Any]) -> None:
    """Losses with the cut are those without; what is saved, the head among it, makes the finished network again."""
    settings = {"epochs": 2, "batch_size": 8, "patience": 0, "learning_rate": 1e-2, "head_init": "random"}
    method = get_method("lora").build({**settings, **VARIANTS[variant]})
    outcomes = []
    for changes in ({}, {"cut": False}):
        context = context_of(kind, **changes)
        outcomes.append(run(context, method, context.task.draw(0, train_size=40, test_size=30), seed=0))
    ours, plain = outcomes
    losses = [[e.validation_loss for e in outcome.history] for outcome in outcomes]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    assert {"head.weight", "head.bias"} <= set(ours.trained)
    assert not low_rank_layers(ours.network)
    assert set(ours.network.body.state_dict()) == set(context.source.body.state_dict())
    again = restore(make_plan(context, method, 0), plain.trained, plain.head).state_dict()
    assert all(torch.equal(again[n], t) for n, t in plain.network.state_dict().items())
