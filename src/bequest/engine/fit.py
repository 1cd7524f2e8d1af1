"""The only training loop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bequest.core.errors import TrainingError
from bequest.core.plan import Train, TrainState
from bequest.core.results import Epoch
from bequest.engine.checkpoint import Checkpoint
from bequest.engine.context import Context
from bequest.engine.features import forward
from bequest.nn.network import Network, require_grad_only, set_modes, trainable_state

_BUCKET = 8
"""Batches among which samples are sorted by length: enough to save padding, few enough to keep batches random."""

_MAX_NORM = 1.0


@dataclass(frozen=True)
class Feed:
    """What a stage is trained on: encoded samples for the whole network, or stored embeddings for its head.

    Attributes:
        module: What is run: the network, or its head alone.
        items: One array a sample, train part first, then validation.
        collate: From some items to the module's inputs.
        labels: Of each item, as `Targets.labels` gives them.
        num_train: How many of the items are the train part.
    """

    module: nn.Module
    items: Sequence[Any]
    collate: Callable[[Sequence[Any]], tuple[Tensor, ...]]
    labels: Tensor
    num_train: int

    @property
    def validation(self) -> list[Any]:
        """The held-out items."""
        return [self.items[i] for i in range(self.num_train, len(self.items))]


def fit(
    context: Context,
    network: Network,
    stage: Train,
    feed: Feed,
    checkpoint: Checkpoint,
    *,
    seed: int,
    number: int,
) -> list[Epoch]:
    """Carry out a Train stage; the network ends with the weights of its best epoch by validation loss.

    Order, dropout and everything else random depend on the seed, the stage and the epoch alone, so a stage that
    goes on from a checkpoint ends as one that was not interrupted.

    Args:
        context: The run.
        network: Changed in place.
        stage: What to train and how.
        feed: The labelled samples.
        checkpoint: Where progress is kept.
        seed: Of the trial.
        number: Of the stage in its plan.

    Raises:
        TrainingError: The loss is not a number; the network then holds its best weights so far.
    """
    require_grad_only(network, [name for group in stage.groups for name in group.names])
    set_modes(network)
    context.runtime.place(network)
    loop = _Loop(context, network, stage, feed, seed, number)
    if not checkpoint.restore(loop):
        loop.record(0, None, None, time.perf_counter())
    label = f"stage {number + 1}"
    while loop.epoch < stage.epochs and not loop.exhausted:
        context.observer.progress(label, loop.epoch, stage.epochs)
        loop.train_epoch()
        checkpoint.save(loop)
    context.observer.progress(label, stage.epochs, stage.epochs)
    loop.keep_best()
    network.eval()
    return loop.history


class _Loop:
    """The state of a Train stage between two epochs."""

    def __init__(self, context: Context, network: Network, stage: Train, feed: Feed, seed: int, number: int) -> None:
        self.context, self.network, self.stage, self.feed = context, network, stage, feed
        self.seed, self.number = seed, number
        self.loss = stage.loss or context.objective.loss
        self.epoch = 0
        self.history: list[Epoch] = []
        self.best: dict[str, Tensor] = {}
        self.best_epoch = 0
        self.num_steps = stage.epochs * self.batches_per_epoch
        parameters = dict(network.named_parameters())
        self.optimizer = stage.optimizer(
            [
                {
                    "params": [parameters[n] for n in g.names],
                    "lr": g.learning_rate,
                    "weight_decay": g.weight_decay,
                }
                for g in stage.groups
            ]
        )
        self.rates = [g.learning_rate for g in stage.groups]

    @property
    def batches_per_epoch(self) -> int:
        return math.ceil(self.feed.num_train / self.stage.batch_size)

    @property
    def exhausted(self) -> bool:
        """Whether patience has run out."""
        return 0 < self.stage.patience <= self.epoch - self.best_epoch

    def train_epoch(self) -> None:
        began = time.perf_counter()
        devices = [self.context.runtime.device] if self.context.runtime.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            entropy = np.random.SeedSequence([self.seed, self.number, self.epoch]).generate_state(2)
            torch.manual_seed(int(entropy[0]))
            losses = [
                self.step(batch, self.epoch * self.batches_per_epoch + i)
                for i, batch in enumerate(self.batches(np.random.default_rng(entropy[1])))
            ]
        sizes = [weight for _, weight in losses]
        mean = sum(loss * weight for loss, weight in losses) / sum(sizes)
        self.epoch += 1
        self.record(self.epoch, mean, self.optimizer.param_groups[-1]["lr"], began)

    def batches(self, rng: np.random.Generator) -> list[Any]:
        """Positions of each batch: random, but of like length within a batch; only one may be short."""
        order = rng.permutation(self.feed.num_train)
        lengths = np.array([len(item) for item in self.feed.items])
        size = self.stage.batch_size
        chunks = [order[i : i + size * _BUCKET] for i in range(0, len(order), size * _BUCKET)]
        ordered = [chunk[np.argsort(lengths[chunk], kind="stable")] for chunk in chunks]
        batches = [chunk[i : i + size] for chunk in ordered for i in range(0, len(chunk), size)]
        return [batches[i] for i in rng.permutation(len(batches))]

    def step(self, batch: Any, step: int) -> tuple[float, int]:
        runtime, stage = self.context.runtime, self.stage
        factor = stage.schedule(step, self.num_steps)
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor
        inputs = runtime.inputs(self.feed.collate([self.feed.items[i] for i in batch]))
        labels = self.feed.labels[torch.from_numpy(batch)].to(runtime.device)
        with runtime.accelerator.autocast():
            outputs = self.feed.module(*inputs)
        loss = self.loss(outputs.float(), labels)
        value = float(loss.detach())
        if not math.isfinite(value):
            self.keep_best()
            raise TrainingError(
                f"The training loss became {value} at step {step + 1} of {self.num_steps}; expected a number. The best "
                "weights so far are kept. Lower --learning-rate, or look for bad values in the data."
            )
        runtime.accelerator.backward(loss if stage.penalty is None else loss + stage.penalty(self.network))
        trained = [p for group in self.optimizer.param_groups for p in group["params"]]
        runtime.accelerator.clip_grad_norm_(trained, _MAX_NORM)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        state = TrainState(self.network, self.optimizer, step + 1, self.num_steps)
        for event in stage.events:
            event(state)
        return value, len(batch)

    def record(self, epoch: int, train_loss: float | None, rate: float | None, began: float) -> None:
        """Validate, and keep the weights if they are the best so far."""
        loss, metric = self.validate()
        earlier = [e.validation_loss for e in self.history]
        if not earlier or loss < min(earlier):
            self.best = {name: t.detach().clone() for name, t in trainable_state(self.network).items()}
            self.best_epoch = epoch
        seconds = time.perf_counter() - began
        self.history.append(Epoch(self.number, epoch, train_loss, loss, metric, rate, seconds))

    def validate(self) -> tuple[float, float]:
        """Loss and metric on the held-out part, everything in eval mode."""
        self.network.eval()
        outputs = evaluate(self.context, self.feed, self.feed.validation)
        set_modes(self.network)
        labels = self.feed.labels[self.feed.num_train :]
        loss = float(self.loss(outputs, labels))
        if not math.isfinite(loss):
            self.keep_best()
            raise TrainingError(
                f"The validation loss became {loss} after epoch {self.epoch}; expected a number. The best weights so "
                "far are kept. Lower --learning-rate, or look for bad values in the data."
            )
        return loss, self.context.objective.score(outputs, labels)

    def keep_best(self) -> None:
        """Put the best weights back."""
        if self.best:
            self.network.load_state_dict(self.best, strict=False)

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds: tensors, numbers and strings only."""
        return {
            "epoch": self.epoch,
            "history": [vars(e) for e in self.history],
            "best": self.best,
            "best_epoch": self.best_epoch,
            "trained": trainable_state(self.network),
            "optimizer": self.optimizer.state_dict(),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""
        self.epoch, self.best_epoch, self.best = state["epoch"], state["best_epoch"], state["best"]
        self.history = [Epoch(**e) for e in state["history"]]
        self.network.load_state_dict(state["trained"], strict=False)
        self.optimizer.load_state_dict(state["optimizer"])


def evaluate(context: Context, feed: Feed, items: Sequence[Any]) -> Tensor:
    """Outputs (samples, classes), float32, of the feed's module for some items."""
    return forward(context, feed.module, items, collate=feed.collate)
