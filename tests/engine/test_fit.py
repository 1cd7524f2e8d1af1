"""The training loop against a plain one, and its promises."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from events import EveryStep
from faulting import fault

from bequest.core.errors import TrainingError
from bequest.core.observe import Silent
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


@fault(
    "the loss rises again, or shoots up, in the midst of a training",
    happens="the weights of the best epoch are put back at the end",
    outcome="the model of the best epoch, the state before training among them",
)
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

    fit(context, network, replace(stage, events=(EveryStep(event),)), feed, NO_CHECKPOINT, seed=0, number=0)
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


class Small(torch.nn.Module):
    """A network that memory does not hold for more than a few samples at once."""

    def __init__(self, network: torch.nn.Module, most: int, error: type[BaseException]) -> None:
        super().__init__()
        self.network, self.most, self.error, self.seen = network, most, error, []

    def forward(self, x: Any) -> Any:
        if len(x) > self.most:
            raise self.error("out of memory")
        self.seen.append(len(x))
        return self.network(x)


def trained_with(context: Any, stage: Train, most: int, error: type[BaseException], **changes: Any) -> Any:
    network, made, feed = prepared(context)
    for module in network.modules():  # its statistics are of what goes through at once
        if isinstance(module, torch.nn.BatchNorm2d):
            module.requires_grad_(False)
        if isinstance(module, torch.nn.Dropout):  # what it draws depends on how many samples it draws for
            module.p = 0.0
    names = tuple(n for n in made.groups[0].names if ".norm." not in n)
    small = Small(network, most, error)
    stage = replace(stage, groups=(Group(names, 0.05),), optimizer=sgd, **changes)
    history = fit(context, network, stage, replace(feed, training=small), NO_CHECKPOINT, seed=0, number=0)
    return network.state_dict(), history, small.seen


def relations(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """No mean over samples: every pair of them counts."""
    return F.cross_entropy(outputs, labels) + torch.cdist(outputs, outputs).mean()


@fault(
    "memory does not hold a batch in training",
    happens="it goes through the network in parts, halved until they fit, and is said once",
    outcome="the step of the whole batch, apart from rounding, dropout's draws and BatchNorm's statistics",
)
@pytest.mark.parametrize("error", [MemoryError, torch.OutOfMemoryError])
@pytest.mark.parametrize("loss", [F.cross_entropy, relations])
def test_a_batch_that_memory_does_not_hold_is_halved_with_the_same_result(
    context_of: Callable[..., Any], error: type[BaseException], loss: Any
) -> None:
    told: list[str] = []

    class Hearing(Silent):
        def note(self, text: str) -> None:
            told.append(text)

    stage = replace(prepared(context_of("image"))[1], loss=loss, penalty=lambda n: 0.01 * n.head.weight.square().sum())
    whole, expected, _ = trained_with(context_of("image"), stage, 8, error)
    parts, found, seen = trained_with(context_of("image", observer=Hearing()), stage, 3, error)
    assert set(seen) == {2}, "8 became 4, which is still too many, and stays 2"
    assert [epoch.steps for epoch in found] == [epoch.steps for epoch in expected], "as many steps as asked for"
    assert [e.train_loss for e in found[1:]] == pytest.approx([e.train_loss for e in expected[1:]], rel=1e-5)
    for name, values in whole.items():
        torch.testing.assert_close(parts[name], values, rtol=1e-4, atol=1e-6, msg=name)
    [note] = told
    assert "Memory did not hold a batch of 8 samples" in note and "in parts" in note


@fault(
    "memory does not hold one sample in training",
    happens="the trial ends with an error that says what takes less",
    outcome="all other trials finish",
)
def test_memory_that_does_not_hold_one_sample_ends_the_training(context_of: Callable[..., Any]) -> None:
    with pytest.raises(TrainingError, match=r"no memory for one sample \(out of memory\)"):
        trained_with(context_of("image"), prepared(context_of("image"))[1], 0, MemoryError)


def test_another_error_is_not_taken_for_want_of_memory(context_of: Callable[..., Any]) -> None:
    with pytest.raises(RuntimeError, match=r"^out of memory$"):
        trained_with(context_of("image"), prepared(context_of("image"))[1], 3, RuntimeError)
