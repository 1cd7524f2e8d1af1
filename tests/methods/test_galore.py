from __future__ import annotations

import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bequest.core.errors import MethodError
from bequest.core.plan import Train
from bequest.core.registry import get_method
from bequest.engine.run import run
from bequest.optim.galore import GaLore

TASK: Any = SimpleNamespace(classes=("a", "b", "c"))


def stage_of(source: Any, **settings: Any) -> tuple[Any, Train]:
    plan = get_method("galore").build(settings).plan(source, TASK)
    stage = plan.stages[-1]
    assert isinstance(stage, Train)
    return plan.network, stage


def optimizer_of(source: Any, num_steps: int = 100, **settings: Any) -> tuple[Any, GaLore]:
    network, stage = stage_of(source, **settings)
    parameters = dict(network.named_parameters())
    groups = [{"params": [parameters[n] for n in g.names], "lr": 0.1, **g.options} for g in stage.groups]
    optimizer = stage.optimizer(groups, num_steps)
    assert isinstance(optimizer, GaLore)
    return network.requires_grad_(True), optimizer


def test_everything_is_trained_the_head_ten_times_as_fast(tiny_sources: dict[str, Any]) -> None:
    network, stage = stage_of(tiny_sources["text"], learning_rate=1e-3, head_learning_rate=1e-2, layer_decay=1.0)
    assert {n for g in stage.groups for n in g.names} == {n for n, _ in network.named_parameters()}
    rates = {n: g.learning_rate for g in stage.groups for n in g.names}
    assert {rate for n, rate in rates.items() if n.startswith("head.")} == {1e-2}
    assert {rate for n, rate in rates.items() if n.startswith("body.")} == {1e-3}


def test_matrices_and_convolutions_are_projected_vectors_and_the_head_are_not(tiny_sources: dict[str, Any]) -> None:
    network, optimizer = optimizer_of(tiny_sources["image"], rank=2)
    network(torch.randn(4, 3, 12, 12)).sum().backward()
    optimizer.step()
    projected = {n for n, p in network.named_parameters() if "projection" in optimizer.state[p]}
    assert {"body.stem.weight", "body.blocks.0.depthwise.weight", "body.blocks.0.pointwise.weight"} <= projected
    assert all(n.startswith("body.") and dict(network.named_parameters())[n].ndim > 1 for n in projected)
    assert "head.weight" not in projected and min(network.head.weight.shape) > 2


@pytest.mark.parametrize(
    ("num_steps", "asked", "expected"), [(64, None, 16), (4000, None, 200), (3, None, 1), (64, 5, 5)]
)
def test_the_interval_is_a_quarter_of_the_run_at_most_200(
    num_steps: int, asked: int | None, expected: int, tiny_sources: dict[str, Any]
) -> None:
    _, optimizer = optimizer_of(tiny_sources["text"], num_steps, refresh_every=asked)
    assert {group["refresh_every"] for group in optimizer.param_groups} == {expected}


def trial(context: Any, **settings: Any) -> Any:
    method = get_method("galore").build(
        {"rank": 2, "epochs": 2, "batch_size": 8, "learning_rate": 1e-2, "head_init": "random", **settings}
    )
    return run(context, method, context.task.draw(0, train_size=40, test_size=30), seed=0)


@pytest.mark.parametrize("kind", ["text", "image"])
def test_layerwise_trains_to_the_same_network(kind: str, context_of: Callable[..., Any]) -> None:
    ordinary, layerwise = (trial(context_of(kind), layerwise=on) for on in (False, True))
    for name, tensor in ordinary.trained.items():
        # A key's bias has no gradient but rounding noise, of which Adam makes whole steps.
        if not name.endswith("key.bias"):
            torch.testing.assert_close(layerwise.trained[name], tensor, rtol=1e-3, atol=1e-4, msg=name)


def test_the_record_has_the_bytes_of_the_state(context_of: Callable[..., Any]) -> None:
    def bytes_at(rank: int) -> list[int]:
        return [epoch.optimizer_bytes for epoch in trial(context_of("text"), rank=rank).history]

    small, large = bytes_at(2), bytes_at(8)
    assert small[0] == 0 and small[1] == small[2]
    assert 0 < small[-1] < large[-1]


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"rank": 0}, "rank is 0, expected 1 or more"),
        ({"galore_scale": 0.0}, "galore_scale is 0.0, expected above 0"),
        ({"refresh_every": 0}, "refresh_every is 0, expected 1 or more, or none"),
    ],
)
def test_out_of_range(settings: dict[str, Any], text: str, tiny_sources: dict[str, Any]) -> None:
    with pytest.raises(MethodError, match=text):
        stage_of(tiny_sources["text"], **settings)


def test_8_bits_without_the_library_fail_before_anything_runs(
    tiny_sources: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(MethodError, match=r"pip install 'bequest\[eightbit\]'"):
        stage_of(tiny_sources["text"], optimizer_states="8bit")
