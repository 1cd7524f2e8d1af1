"""The training loop against a plain one, and its promises."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from bequest.core.errors import TrainingError
from bequest.core.plan import Group, Train, TrainState
from bequest.engine.checkpoint import Checkpoint
from bequest.engine.features import encoded
from bequest.engine.fit import Feed, fit
from bequest.engine.views import View
from bequest.nn.head import new_head
from bequest.nn.network import set_modes
from bequest.optim.schedules import WarmupLinear

NO_CHECKPOINT = Checkpoint(None, {}, 0.0)


def sgd(groups: list[dict[str, Any]], num_steps: int) -> torch.optim.Optimizer:
    return torch.optim.SGD(groups)


def prepared(context: Any, *, train: int = 24, held: int = 12) -> tuple[Any, Train, Feed]:
    torch.manual_seed(0)
    network = context.source.network()
    network.head = new_head("linear", context.source.width, 3)
    names = tuple(n for n, _ in network.named_parameters())
    stage = Train((Group(names, 0.05),), 2, 8, WarmupLinear(0.1), F.cross_entropy, sgd)
    indices = np.arange(train + held)
    items, labels = encoded(context, indices), context.labels(indices)
    plain = View(items, context.hashes(indices), labels)
    return (
        network,
        stage,
        Feed(network, network, lambda _: plain, context.source.preprocess.collate, train, labels[train:]),
    )


def test_an_epoch_sees_every_sample_once(context_of: Callable[..., Any]) -> None:
    context = context_of("image")
    network, stage, feed = prepared(context)
    rows = {feed.plain.items[i].tobytes(): i for i in range(24)}
    batches: list[list[int]] = []

    def collate(items: Any) -> Any:
        batches.append([rows[s.tobytes()] for s in items if s.tobytes() in rows])
        return context.source.preprocess.collate(items)

    fit(context, network, replace(stage, epochs=1), replace(feed, collate=collate), NO_CHECKPOINT, seed=0, number=0)
    trained = [b for b in batches if b]
    assert [len(b) for b in trained] == [8, 8, 8]
    assert sorted(i for b in trained for i in b) == list(range(24))


def test_plain_loop_gives_the_same_weights(context_of: Callable[..., Any]) -> None:
    """Without dropout, and with one batch an epoch, the loop is gradient descent as anybody would write it."""
    context = context_of("image")
    network, stage, feed = prepared(context)
    for module in network.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    twin = context.source.network()
    twin.head = new_head("linear", context.source.width, 3)
    twin.load_state_dict(network.state_dict())
    for module in twin.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    stage = replace(stage, epochs=3, batch_size=24)
    history = fit(context, network, stage, feed, NO_CHECKPOINT, seed=0, number=0)

    twin.requires_grad_(True).train()
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.05)
    [x] = context.source.preprocess.collate([feed.plain.items[i] for i in range(24)])
    losses = []
    for step in range(3):
        optimizer.param_groups[0]["lr"] = 0.05 * WarmupLinear(0.1)(step, 3)
        loss = F.cross_entropy(twin(x), feed.plain.labels[:24])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(twin.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert [e.train_loss for e in history[1:]] == pytest.approx(losses, rel=1e-4)
    best = min(range(4), key=lambda i: history[i].validation_loss)
    assert best == 3, "the last epoch is the best here, so its weights are compared"
    for (name, ours), theirs in zip(network.state_dict().items(), twin.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5, msg=name)


def test_best_weights_are_kept(context_of: Callable[..., Any]) -> None:
    context = context_of("image")
    network, stage, feed = prepared(context)
    stage = replace(stage, epochs=6, groups=(Group(stage.groups[0].names, 3.0),))
    history = fit(context, network, stage, feed, NO_CHECKPOINT, seed=0, number=0)
    losses = [e.validation_loss for e in history]
    assert losses[-1] > min(losses), "the rate is so large that the last epoch is not the best"
    network.eval()
    [x] = context.source.preprocess.collate(feed.plain.items[24:])
    with torch.no_grad():
        now = float(F.cross_entropy(network(x), feed.plain.labels[24:]))
    assert now == pytest.approx(min(losses), rel=1e-5)


@pytest.mark.parametrize(
    ("course", "best"),
    [
        ([(0.9, 0.5), (0.8, 0.6), (1.2, 0.8), (1.1, 0.8), (1.3, 0.7)], 3),
        ([(0.9, 0.8), (0.4, 0.8), (0.3, 0.7), (0.5, 0.8), (0.6, 0.8)], 1),
    ],
)
def test_the_best_epoch_is_that_of_the_best_metric_and_of_equals_of_the_lowest_loss(
    context_of: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, course: list[tuple[float, float]], best: int
) -> None:
    context = context_of("image")
    network, stage, feed = prepared(context)
    told, weights = iter(course), list[torch.Tensor]()

    def validate(loop: Any) -> tuple[float, float]:
        weights.append(network.head.weight.detach().clone())
        return next(told)

    monkeypatch.setattr("bequest.engine.fit._Loop.validate", validate)
    fit(context, network, replace(stage, epochs=4), feed, NO_CHECKPOINT, seed=0, number=0)
    same = [torch.equal(network.head.weight, kept) for kept in weights]
    assert same == [number == best for number in range(5)]


def test_patience_ends_training(context_of: Callable[..., Any]) -> None:
    context = context_of("image")
    network, stage, feed = prepared(context)
    stage = replace(stage, epochs=50, patience=2, groups=(Group(stage.groups[0].names, 3.0),))
    history = fit(context, network, stage, feed, NO_CHECKPOINT, seed=0, number=0)
    losses = [e.validation_loss for e in history]
    assert len(history) < 50
    assert len(losses) - 1 - losses.index(min(losses)) == 2


def test_a_loss_that_is_no_number_names_the_step_and_keeps_the_best_weights(context_of: Callable[..., Any]) -> None:
    context = context_of("image")
    network, stage, feed = prepared(context)

    def poisoned(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        poisoned.calls += 1
        return F.cross_entropy(outputs, labels) * (float("nan") if poisoned.calls == 7 else 1.0)

    poisoned.calls = 0
    with pytest.raises(TrainingError, match=r"became nan at step 5 of 6.*Lower --learning-rate"):
        fit(context, network, replace(stage, loss=poisoned), feed, NO_CHECKPOINT, seed=0, number=0)
    assert all(bool(p.isfinite().all()) for p in network.parameters())


def test_events_see_every_step(context_of: Callable[..., Any]) -> None:
    context = context_of("text")
    network, stage, feed = prepared(context)
    steps: list[tuple[int, int]] = []

    def event(state: TrainState) -> None:
        assert state.network is network
        steps.append((state.step, state.num_steps))

    fit(context, network, replace(stage, events=(event,)), feed, NO_CHECKPOINT, seed=0, number=0)
    assert steps == [(i, 6) for i in range(1, 7)]


def test_modes_follow_what_is_trained(tiny_sources: dict[str, Any]) -> None:
    network = tiny_sources["image"].network()
    last = network.body.blocks[2]
    last.norm.requires_grad_(True)
    set_modes(network)
    assert last.norm.training and last.dropout.training
    assert not last.pointwise.training
    assert not any(m.training for m in network.body.blocks[0].modules())
    last.norm.requires_grad_(False)
    last.pointwise.requires_grad_(True)
    set_modes(network)
    assert not last.norm.training, "a frozen BatchNorm keeps its statistics whatever is trained beside it"


def test_batches_hold_texts_of_like_length(context_of: Callable[..., Any]) -> None:
    context = context_of("text")
    network, stage, feed = prepared(context, train=64, held=6)
    widths: list[tuple[int, int]] = []

    def collate(items: Any) -> Any:
        widths.append((max(map(len, items)), min(map(len, items))))
        return context.source.preprocess.collate(items)

    fit(context, network, replace(stage, epochs=1), replace(feed, collate=collate), NO_CHECKPOINT, seed=0, number=0)
    padding = np.mean([high - low for high, low in widths if high != low] or [0])
    lengths = np.array([len(feed.plain.items[i]) for i in range(64)])
    at_random = np.mean([np.ptp(np.random.default_rng(s).permutation(lengths)[:8]) for s in range(50)])
    assert padding < at_random / 2
