from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bequest.core.errors import MethodError
from bequest.core.plan import Train
from bequest.core.registry import get_method
from bequest.engine.run import run

TASK: Any = SimpleNamespace(classes=("a", "b", "c"))
HEAD = {"head.weight", "head.bias"}


def trained(source: Any, **settings: Any) -> set[str]:
    stage = get_method("freeze").build(settings).plan(source, TASK).stages[-1]
    assert isinstance(stage, Train)
    return {name for group in stage.groups for name in group.names} - HEAD


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        ("*.bias", {"stem.bias", *(f"blocks.{i}.{m}.bias" for i in range(3) for m in ("pointwise", "norm"))}),
        ("stem", {"stem.weight", "stem.bias"}),
        ("blocks.[01].norm", {f"blocks.{i}.norm.{p}" for i in range(2) for p in ("weight", "bias")}),
        ("blocks.2.depthwise.weight, stem.bias", {"blocks.2.depthwise.weight", "stem.bias"}),
    ],
)
def test_train_only_goes_by_name(patterns: str, expected: set[str], tiny_sources: dict[str, Any]) -> None:
    assert trained(tiny_sources["image"], train_only=patterns) == {f"body.{n}" for n in expected}


@pytest.mark.parametrize(
    ("patterns", "text"),
    [
        ("*.bais", r"'\*\.bais' fits no parameter\. Did you mean '\*\.bias'"),
        ("blocks.O,stem", r"'blocks\.O' fits no parameter\. Did you mean 'blocks\.[012]'"),
        ("qqq", r"'qqq' fits no parameter\. There are: .*blocks\.0"),
        (" ,", r"' ,' holds no pattern, expected one or more"),
    ],
)
def test_a_pattern_that_fits_nothing_is_refused(patterns: str, text: str, tiny_sources: dict[str, Any]) -> None:
    with pytest.raises(MethodError, match=text):
        trained(tiny_sources["image"], train_only=patterns)


def test_rates_fall_by_depth_whatever_is_named(tiny_sources: dict[str, Any]) -> None:
    settings = {"train_only": "stem,blocks.2", "layer_decay": 0.5, "learning_rate": 1.0, "weight_decay": 0.0}
    stage = get_method("freeze").build(settings).plan(tiny_sources["image"], TASK).stages[-1]
    assert isinstance(stage, Train)
    rates = {name: group.learning_rate for group in stage.groups for name in group.names}
    assert rates["body.blocks.2.norm.bias"] == 1.0
    assert rates["body.stem.weight"] == 0.5**3


def test_all_but_normalisation(tiny_sources: dict[str, Any], context_of: Callable[..., Any]) -> None:
    settings = {"from_depth": "0", "freeze_norms": True, "epochs": 2, "batch_size": 8, "head_init": "random"}
    every = {f"body.{n}" for n, _ in tiny_sources["image"].network().body.named_parameters()}
    assert every - trained(tiny_sources["image"], **settings) == {
        f"body.blocks.{i}.norm.{p}" for i in range(3) for p in ("weight", "bias")
    }
    context = context_of("image")
    outcome = run(
        context, get_method("freeze").build(settings), context.task.draw(0, train_size=40, test_size=30), seed=0
    )
    before, after = context.source.network().body.state_dict(), outcome.network.body.state_dict()
    same = {name for name in before if torch.equal(before[name], after[name])}
    assert same == {name for name in before if ".norm." in name}, "statistics of a frozen BatchNorm do not move"
