from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from events import EveryStep

from bequest.core.errors import MethodError
from bequest.core.plan import Train, TrainState
from bequest.core.registry import get_method
from bequest.engine.checkpoint import Checkpoint
from bequest.engine.features import encoded
from bequest.engine.fit import Feed, fit
from bequest.engine.views import View
from bequest.nn.penalties import StartingPoint
from bequest.optim.schedules import WarmupConstant

TASK: Any = SimpleNamespace(classes=("a", "b", "c"))


def stage_of(source: Any, **settings: Any) -> tuple[Any, Train]:
    plan = get_method("l2_sp").build(settings).plan(source, TASK)
    stage = plan.stages[-1]
    assert isinstance(stage, Train)
    return plan.network, stage


def test_starts_without_a_pull_on_the_body_and_without_decay(tiny_sources: dict[str, Any]) -> None:
    network, stage = stage_of(tiny_sources["image"], beta=0.0)
    network.requires_grad_(True)
    assert isinstance(stage.penalty, StartingPoint)
    assert float(stage.penalty(network).detach()) == 0.0
    assert {group.weight_decay for group in stage.groups} == {0.0}
    with torch.no_grad():
        network.body.stem.bias += 1.0
    assert float(stage.penalty(network).detach()) == pytest.approx(0.1 / 2 * 8)


def test_a_step_is_the_formulas(context_of: Callable[..., Any]) -> None:
    """One step of plain gradient descent, clipped as a whole: w − η (∂L/∂w + α (w − w⁰))."""
    context = context_of("text")
    alpha, beta, rate = 1e-3, 1e-2, 0.1
    network, stage = stage_of(context.source, alpha=alpha, beta=beta)
    for module in network.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    start = {name: p.detach().clone() for name, p in network.body.named_parameters()}
    with torch.no_grad():
        for p in network.parameters():
            p += 0.01 * torch.randn_like(p)
    moved = {name: p.detach().clone() for name, p in network.named_parameters()}
    indices = np.arange(12)
    items, labels = encoded(context, indices), context.labels(indices)
    plain = View(items, context.hashes(indices), labels)
    feed = Feed(network, network, lambda _: plain, context.source.preprocess.collate, 8, labels[8:])

    network.requires_grad_(True)
    # In train mode as during the step; no dropout is left.
    loss = torch.nn.functional.cross_entropy(network(*feed.collate([items[i] for i in range(8)])), labels[:8])
    gradients = dict(zip(moved, torch.autograd.grad(loss, list(network.parameters()), allow_unused=True), strict=True))
    for name, w in moved.items():
        pull = alpha * (w - start[name.removeprefix("body.")]) if name.startswith("body.") else beta * w
        gradients[name] = pull if gradients[name] is None else gradients[name] + pull
    norm = torch.sqrt(sum((g**2).sum() for g in gradients.values()))
    scale = min(1.0, 1.0 / (float(norm) + 1e-6))

    after: dict[str, torch.Tensor] = {}

    def keep(state: TrainState) -> None:
        after.update({name: p.detach().clone() for name, p in state.network.named_parameters()})

    stage = replace(
        stage,
        groups=tuple(replace(g, learning_rate=rate) for g in stage.groups),
        epochs=1,
        batch_size=8,
        schedule=WarmupConstant(0.0),
        optimizer=lambda groups, num_steps: torch.optim.SGD(groups),
        events=(EveryStep(keep),),
    )
    [_, epoch] = fit(context, network, stage, feed, Checkpoint(None, {}, 0.0), seed=0, number=0)
    assert epoch.train_loss == pytest.approx(float(loss.detach()), rel=1e-5), "the loss is reported without the penalty"
    for name, w in moved.items():
        torch.testing.assert_close(after[name], w - rate * scale * gradients[name], rtol=1e-4, atol=1e-6, msg=name)


def test_a_stronger_pull_stays_nearer(context_of: Callable[..., Any]) -> None:
    from bequest.engine.run import run

    def distance(alpha: float) -> float:
        context = context_of("image")
        settings = {"alpha": alpha, "epochs": 4, "batch_size": 8, "learning_rate": 1e-2, "head_init": "random"}
        draw = context.task.draw(0, train_size=40, test_size=30)
        outcome = run(context, get_method("l2_sp").build(settings), draw, seed=0)
        start = dict(context.source.network().body.named_parameters())
        return sum(float((p - start[n]).pow(2).sum()) for n, p in outcome.network.body.named_parameters()) ** 0.5

    far, near = distance(0.0), distance(10.0)
    assert 0 < near < far / 2


@pytest.mark.parametrize("name", ["alpha", "beta"])
def test_a_push_is_refused(name: str, tiny_sources: dict[str, Any]) -> None:
    with pytest.raises(MethodError, match=rf"{name} is -1.0, expected 0 or more\."):
        stage_of(tiny_sources["text"], **{name: -1.0})
