from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from bequest.core.errors import MethodError
from bequest.core.plan import Train
from bequest.core.registry import get_method
from bequest.engine.run import run
from bequest.sources import from_module

TASK: Any = SimpleNamespace(classes=("a", "b", "c"))


def rates(source: Any, **settings: Any) -> dict[str, float]:
    stage = get_method("bitfit").build(settings).plan(source, TASK).stages[-1]
    assert isinstance(stage, Train)
    return {name: group.learning_rate for group in stage.groups for name in group.names}


def test_trains_the_biases_and_the_head(tiny_sources: dict[str, Any]) -> None:
    found = rates(tiny_sources["text"], learning_rate=2e-3, head_learning_rate=1e-2)
    biases = {f"body.{n}" for n, _ in tiny_sources["text"].network().body.named_parameters() if n.endswith("bias")}
    assert len(biases) == 17, "an embedding's LayerNorm, and eight a layer"
    assert found == {**dict.fromkeys(biases, 2e-3), "head.weight": 1e-2, "head.bias": 1e-2}


def test_without_those_of_normalisation(tiny_sources: dict[str, Any]) -> None:
    found = rates(tiny_sources["image"], norms=False)
    pointwise = {f"body.blocks.{i}.pointwise.bias" for i in range(3)}
    assert set(found) == {"body.stem.bias", *pointwise, "head.weight", "head.bias"}


def test_a_body_without_biases_is_refused() -> None:
    layers = [nn.Linear(4, 6, bias=False), nn.LayerNorm(6), nn.Linear(6, 2)]
    source = from_module(nn.Sequential(*layers), name="bare")
    assert "body.1.bias" in rates(source)
    with pytest.raises(MethodError, match=r"bitfit found no biases to train in 'bare'\. Choose another method"):
        rates(source, norms=False)


@pytest.mark.parametrize("cut", [True, False])
@pytest.mark.parametrize("how", ["affine", "trained"])
def test_statistics_move_only_where_they_are_to(context_of: Callable[..., Any], how: str, *, cut: bool) -> None:
    context = context_of("image", cut=cut)
    source = context.source.network().state_dict()
    settings = {"epochs": 3, "learning_rate": 1e-2, "head_init": "random", "batch_norm": how}
    draw = context.task.draw(0, test_size=12)
    outcome = run(context, get_method("bitfit").build(settings), draw, seed=0)
    after = outcome.network.state_dict()
    assert any("running" in name for name in outcome.trained) == (how == "trained")
    statistics = [name for name in after if "running" in name]
    assert len(statistics) > 2
    kept = {torch.equal(after[name], source[name]) for name in statistics}
    assert kept == {how == "affine"}
    assert not torch.equal(after["body.blocks.0.norm.bias"], source["body.blocks.0.norm.bias"])
