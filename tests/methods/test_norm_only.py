from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from bequest.core.errors import MethodError
from bequest.core.plan import Train
from bequest.core.registry import get_method
from bequest.nn.names import normalisation
from bequest.sources import from_module

TASK: Any = SimpleNamespace(classes=("a", "b", "c"))


def test_trains_gamma_and_beta_alone(tiny_sources: dict[str, Any]) -> None:
    plan = get_method("norm_only").build({"weight_decay": 0.1}).plan(tiny_sources["image"], TASK)
    stage = plan.stages[-1]
    assert isinstance(stage, Train)
    names = {name for group in stage.groups for name in group.names}
    affine = {f"body.blocks.{i}.norm.{part}" for i in range(3) for part in ("weight", "bias")}
    assert names == affine | {"head.weight", "head.bias"}
    decays = {name: group.weight_decay for group in stage.groups for name in group.names}
    assert {name for name, decay in decays.items() if decay} == {"head.weight"}


def test_every_kind_of_normalisation_counts() -> None:
    class T5LayerNorm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(4))

    class PreNorm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.linear = nn.LayerNorm(4), nn.Linear(4, 4)

    kinds = [nn.BatchNorm2d(4), nn.GroupNorm(2, 4), nn.LayerNorm((4, 4)), nn.RMSNorm(4), T5LayerNorm(), PreNorm()]
    found = normalisation(nn.Sequential(nn.Linear(4, 4), *kinds))
    affine = [f"{i}.{part}" for i in (1, 2, 3) for part in ("weight", "bias")]
    assert found == {*affine, "4.weight", "5.weight", "6.norm.weight", "6.norm.bias"}


def test_a_body_without_normalisation_is_refused() -> None:
    source = from_module(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)), name="plain")
    with pytest.raises(MethodError, match=r"norm_only found no normalisation layer .* in 'plain'\. Choose another"):
        get_method("norm_only").build({}).plan(source, TASK)
