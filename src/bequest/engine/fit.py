"""The only training loop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bequest.core.errors import MethodError, TrainingError
from bequest.core.plan import Train, TrainState
from bequest.core.results import Epoch
from bequest.engine.checkpoint import Checkpoint
from bequest.engine.context import Context
from bequest.engine.feature_teaching import GUIDE_RATE
from bequest.engine.features import forward
from bequest.engine.memory import is_out_of_memory
from bequest.engine.parts import Summing, in_parts, rng_state, set_rng_state
from bequest.engine.sharding import (
    StandIns,
    clip,
    divide_state,
    divided_as,
    give_back,
    settle,
    takes_whole,
    undivided,
    whole,
)
from bequest.engine.store import Array, lengths_of
from bequest.engine.teaching import Lesson, taught_loss
from bequest.engine.views import View
from bequest.nn.dropout import cheap_masks
from bequest.nn.losses import feature_l2
from bequest.nn.network import Network, batch_norms, require_grad_only, set_modes, trainable_state
from bequest.optim.state import state_bytes

_BUCKET = 8
"""Batches among which samples are sorted by length: enough to save padding, few enough to keep batches random."""

_MAX_NORM = 1.0


@dataclass(frozen=True)
class Feed:
    """What a stage is trained on.

    Views of encoded samples for the whole network, of what frozen layers made of them for its trained part, or stored
    embeddings for its head.

    Attributes:
        training: What is run in training: the network, or a part of it.
        scoring: What is run for validation; in eval mode the same function.
        view: The view of a number; view 0 holds the train part, then validation, the others the train part alone.
        collate: From some items to the modules' inputs.
        num_train: How many of the items are the train part.
        held_out: Labels of the validation part, as they are scored.
        num_views: How many views are trained on; None for a fresh one in every epoch.
        quiet: Modules that stay in eval mode.
        loss: From what `training` gives and labels to what is minimised, where that is neither the stage's own loss nor
            it and one against `View.soft`.
        guide: From features of the student, which `training` gives after its outputs, to the teachers': trained beside
            the network, and thrown away. None where features are not learned from.
    """

    training: nn.Module
    scoring: nn.Module
    view: Callable[[int], View]
    collate: Callable[[Sequence[Any]], tuple[Tensor, ...]]
    num_train: int
    held_out: Tensor
    num_views: int | None = 1
    quiet: frozenset[str] = frozenset()
    loss: Callable[[Tensor, Tensor], Tensor] | None = None
    guide: nn.Linear | None = None

    @cached_property
    def plain(self) -> View:
        """View 0."""
        return self.view(0)

    @cached_property
    def lengths(self) -> Array:
        """Of the train part's items: int64 (num_train,)."""
        return lengths_of(self.plain.items)[: self.num_train]


def fit(
    context: Context,
    network: Network,
    stage: Train,
    feed: Feed,
    checkpoint: Checkpoint,
    *,
    seed: int,
    number: int,
    written: tuple[str, ...] = (),
) -> list[Epoch]:
    """Carry out a Train stage; the network ends with the weights of its best epoch.

    That is the one with the best metric on the validation part, of equals the one with the lowest loss there.

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
        written: Frozen parameters that the stage's events write to.

    Raises:
        TrainingError: The loss is not a number; the network then holds its best weights so far.
    """
    require_grad_only(network, [name for group in stage.groups for name in group.names])
    set_modes(network, feed.quiet)
    with _placed(context, network, feed, written) as (trained, own_feed):
        loop = _Loop(context, trained, stage, own_feed, seed, number, written)
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


@contextmanager
def _placed(context: Context, network: Network, feed: Feed, written: tuple[str, ...]) -> Iterator[tuple[Network, Feed]]:
    """A network and its feed where they are trained, the same in all processes to begin with.

    Shards are of a copy, whose weights the network has afterwards, if only those before a loss was no number.
    """
    context.place(network)
    guide = feed.guide.state_dict().values() if feed.guide else ()
    context.ranks.make_alike([*trainable_state(network, written).values(), *guide])
    if context.sharding is None or feed.training is network.head:
        context.runtime.place(feed.training)
        yield network, feed
        return
    inputs = feed.collate([feed.plain.items[0], feed.plain.items[0]])
    training, scoring, shards = context.divided((feed.training, feed.scoring), network, inputs)
    try:
        yield shards, replace(feed, training=training, scoring=scoring)
    except TrainingError:
        give_back(shards, network, written)
        raise
    give_back(shards, network, written)


class _Loop:
    """The state of a Train stage between two epochs."""

    def __init__(
        self,
        context: Context,
        network: Network,
        stage: Train,
        feed: Feed,
        seed: int,
        number: int,
        written: tuple[str, ...],
    ) -> None:
        self.context, self.network, self.stage, self.feed = context, network, stage, feed
        self.seed, self.number, self.written = seed, number, written
        self.loss = stage.loss or context.objective.loss
        self.precision = context.runtime.training(network)
        self.epoch = 0
        self.history: list[Epoch] = []
        self.best: dict[str, Tensor] = {}
        self.best_epoch = 0
        self.most_at_once = math.ceil(max(context.ranks.sizes(stage.batch_size)) / context.runtime.num_parts)
        self.num_steps = stage.epochs * self.batches_per_epoch
        self.optimizer, self.stand_ins = self.make_optimizer()
        self.rates = [group["lr"] for group in self.optimizer.param_groups]
        inside = getattr(self.optimizer, "in_backward", "off") != "off"
        self.summing = Summing(context, [p for p in network.parameters() if p.requires_grad], inside)
        self.views: list[View] = []
        self.first_view = np.random.default_rng([seed, number]).integers(feed.num_views or 1, size=feed.num_train)

    def make_optimizer(self) -> tuple[Any, StandIns]:
        """The optimizer, and what stands in it for divided parameters where it needs gradients whole."""
        optimizer = self.stage.optimizer(self.groups(), self.num_steps)
        if not takes_whole(optimizer):
            return optimizer, StandIns(())
        groups = self.groups()
        stand_ins = StandIns.of(groups)
        if stand_ins.pairs and getattr(optimizer, "in_backward", "off") != "off":
            raise MethodError(
                "The optimizer takes gradients in the backward pass (--layerwise), where each process has only a shard "
                "of them; expected one or the other. Leave --layerwise out, or launch without --use_fsdp."
            )
        return self.stage.optimizer(groups, self.num_steps), stand_ins

    def groups(self) -> list[dict[str, Any]]:
        """What the optimizer is to train: the guide, then the stage's groups."""
        parameters, guide = dict(self.network.named_parameters()), self.feed.guide
        beside = [{"params": list(guide.parameters()), "lr": GUIDE_RATE, "weight_decay": 0.0}] if guide else []
        own = [
            {
                "params": [parameters[n] for n in g.names],
                "lr": g.learning_rate,
                "weight_decay": g.weight_decay,
                **g.options,
            }
            for g in self.stage.groups
        ]
        return beside + own

    @property
    def batches_per_epoch(self) -> int:
        return math.ceil(self.feed.num_train / self.stage.batch_size)

    @property
    def exhausted(self) -> bool:
        """Whether patience has run out."""
        return 0 < self.stage.patience <= self.epoch - self.best_epoch

    def train_epoch(self) -> None:
        began = time.perf_counter()
        self.open_views()
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
        self.context.ranks.average(self.statistics())
        self.epoch += 1
        self.record(self.epoch, mean, self.optimizer.param_groups[-1]["lr"], began)

    def open_views(self) -> None:
        """All views, or those that this epoch sees: the plain one in the first where they are fresh."""
        if self.feed.num_views is None:
            self.views = [self.feed.view(self.epoch) if self.epoch else self.feed.plain]
        elif not self.views:
            self.views = [self.feed.plain, *map(self.feed.view, range(1, self.feed.num_views))]

    def batch(self, positions: Array) -> tuple[tuple[Tensor, ...], Tensor, Lesson | None]:
        """Inputs, labels and the teachers' lesson of some samples, each in the view whose turn it is.

        All views have their turn once, then again. Without teachers the last is None.
        """
        chosen = (self.first_view[positions] + self.epoch) % len(self.views)
        seen = [(self.views[view], int(i)) for view, i in zip(chosen.tolist(), positions, strict=True)]
        labels = torch.stack([view.labels[i] for view, i in seen])
        soft = self.views[0].soft
        lesson = None if soft is None else soft.lesson([view.soft[i] for view, i in seen if view.soft])
        return self.feed.collate([view.items[i] for view, i in seen]), labels, lesson

    def taught(self, outputs: Tensor, labels: Tensor, lesson: Lesson | None) -> Tensor:
        """What is minimised: the stage's own loss, or that and those against the teacher."""
        if self.feed.loss is not None:
            return self.feed.loss(outputs, labels)
        if self.context.teaching is None:
            return self.loss(outputs, labels)
        settings, guide = self.context.teaching.settings, self.feed.guide
        teacher = lesson.logits if lesson is not None and settings.soft_weight else None
        if guide is None:
            return taught_loss(settings, self.loss, outputs, labels, teacher)
        assert lesson is not None and lesson.features is not None, "a guide has features to go to"
        outputs, features = outputs[:, : -guide.in_features], outputs[:, -guide.in_features :]
        near = settings.feature_weight * feature_l2(guide(features), lesson.features)
        return taught_loss(settings, self.loss, outputs, labels, teacher) + near

    def batches(self, rng: np.random.Generator) -> list[Any]:
        """Positions of each batch: random, but of like length within a batch; only one may be short."""
        order = rng.permutation(self.feed.num_train)
        lengths = self.feed.lengths
        size = self.stage.batch_size
        chunks = [order[i : i + size * _BUCKET] for i in range(0, len(order), size * _BUCKET)]
        ordered = [chunk[np.argsort(lengths[chunk], kind="stable")] for chunk in chunks]
        batches = [chunk[i : i + size] for chunk in ordered for i in range(0, len(chunk), size)]
        return [batches[i] for i in rng.permutation(len(batches))]

    def step(self, batch: Any, step: int) -> tuple[float, int]:
        stage = self.stage
        factor = stage.schedule(step, self.num_steps)
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor
        value = self.gradients(batch, step)
        with self.stand_ins.filled():
            self.clip()
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        state = TrainState(self.network, self.optimizer, step + 1, self.num_steps)
        for event in stage.events:
            if event.is_due(state.step, state.num_steps):
                with undivided(self.network, self.optimizer):
                    event(state)
        return value, len(batch)

    def gradients(self, batch: Array, step: int) -> float:
        """Leave the gradients of a batch's loss, and return the loss.

        Where memory does not hold a batch, it goes through the network in parts, halved until they fit, for the rest of
        the stage.
        """
        while True:
            random = rng_state(self.context.runtime.device)
            try:
                if self.context.ranks.alone and len(batch) <= self.most_at_once:
                    return self.whole(batch, step)
                return in_parts(self, batch, step)
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                self.make_smaller(max(self.context.ranks.sizes(len(batch))), error)
            # Not before the error is gone: its traceback holds the activations.
            self.optimizer.zero_grad(set_to_none=True)
            set_rng_state(random, self.context.runtime.device)

    def make_smaller(self, size: int, error: BaseException) -> None:
        """Halve the parts, and say so once."""
        now = min(size, self.most_at_once)
        if now == 1:
            reason = next(iter(str(error).strip().splitlines()), "none is left")
            raise TrainingError(
                f"There is no memory for one sample ({reason}); expected room for its activations. Lower --max-tokens "
                "or --image-size, or freeze more of the network."
            ) from error
        self.most_at_once = (now + 1) // 2
        self.context.say(
            f"Memory did not hold a batch of {self.stage.batch_size} samples: it goes through the network in parts, "
            "and their gradients are added up. A step is still that of the whole batch, apart from rounding, dropout's "
            "draws and BatchNorm's statistics."
        )

    def whole(self, batch: Array, step: int) -> float:
        """`gradients` of a batch that memory holds, of a process alone."""
        outputs, labels, lesson = self.forward(batch)
        loss = self.checked(self.taught(outputs, labels, lesson), step)
        penalty = self.stage.penalty
        # Not accelerate's, which divides by its steps of accumulation: our parts are of one batch.
        (loss if penalty is None else loss + penalty(self.network)).backward()
        return float(loss.detach())

    def forward(self, batch: Array) -> tuple[Tensor, Tensor, Lesson | None]:
        """Outputs and labels of some samples, and what their teachers made of them."""
        runtime = self.context.runtime
        inputs, labels, lesson = self.batch(batch)
        with self.precision(), cheap_masks(runtime.device):
            outputs = self.feed.training(*runtime.inputs(inputs))
        return outputs.float(), labels.to(runtime.device), lesson

    def checked(self, loss: Tensor, step: int) -> Tensor:
        """The loss, if it is a number."""
        value = float(loss.detach())
        if not math.isfinite(value):
            self.keep_best()
            raise TrainingError(
                f"The training loss became {value} at step {step + 1} of {self.num_steps}; expected a number. The best "
                "weights so far are kept. Lower --learning-rate, or look for bad values in the data."
            )
        return loss

    def clip(self) -> None:
        own = getattr(self.optimizer, "clip_grad_norm_", None)
        if own is not None:
            own(_MAX_NORM)
            return
        trained = [p for group in self.optimizer.param_groups for p in group["params"]]
        if not clip(trained, _MAX_NORM):
            self.context.runtime.accelerator.clip_grad_norm_(trained, _MAX_NORM)

    def record(self, epoch: int, train_loss: float | None, rate: float | None, began: float) -> None:
        """Validate, and keep the weights if they are the best so far."""
        loss, metric = self.validate()
        earlier = [self.merit(e.validation_metric, e.validation_loss) for e in self.history]
        if not earlier or self.merit(metric, loss) > max(earlier):
            self.best = {name: t.detach().clone() for name, t in self.moving().items()}
            self.best_epoch = epoch
        seconds = time.perf_counter() - began
        steps, kept = self.batches_per_epoch if epoch else 0, state_bytes(self.optimizer)
        self.history.append(Epoch(self.number, epoch, train_loss, loss, metric, rate, seconds, kept, steps))

    def merit(self, metric: float, loss: float) -> tuple[float, float]:
        """What makes one epoch better than another: the metric, and where it is the same, the loss.

        Not the loss alone: of a network that grows surer with every epoch it rises while errors still become fewer.
        """
        return (metric if self.context.objective.higher_is_better else -metric), -loss

    def validate(self) -> tuple[float, float]:
        """Loss and metric on the held-out part, everything in eval mode."""
        feed, held = self.feed, slice(self.feed.num_train, None)
        self.network.eval()
        outputs = forward(self.context, feed.scoring, feed.plain.items[held], collate=feed.collate)
        set_modes(self.network, feed.quiet)
        labels = feed.held_out
        loss = float(self.loss(outputs, labels))
        if not math.isfinite(loss):
            self.keep_best()
            raise TrainingError(
                f"The validation loss became {loss} after epoch {self.epoch}; expected a number. The best weights so "
                "far are kept. Lower --learning-rate, or look for bad values in the data."
            )
        # What all go by from here on, and machines may round differently.
        return self.context.ranks.from_main(lambda: (loss, self.context.objective.score(outputs, labels)))

    def statistics(self) -> list[Tensor]:
        """What BatchNorms took down of their inputs, those of this process's samples."""
        norms = [self.network.get_submodule(name) for name in sorted(batch_norms(self.network))]
        found = [buffer for norm in norms if norm.training for buffer in norm.buffers()]
        if found and not self.context.ranks.alone:
            self.context.say(
                "BatchNorm normalises by the samples that one process has of a batch; its statistics are averaged over "
                "the processes at the end of each epoch."
            )
        return found

    def moving(self) -> dict[str, Tensor]:
        """The tensors that this stage may have changed."""
        settle(self.network)
        return trainable_state(self.network, self.written)

    def keep_best(self) -> None:
        """Put the best weights back."""
        if self.best:
            settle(self.network)
            self.network.load_state_dict(self.best, strict=False)

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds: tensors, numbers and strings only."""
        return {
            "epoch": self.epoch,
            "history": [vars(e) for e in self.history],
            "best": whole(self.best),
            "best_epoch": self.best_epoch,
            "trained": whole(self.moving()),
            "guide": dict(self.feed.guide.state_dict()) if self.feed.guide else {},
            "optimizer": whole(self.optimizer.state_dict()),
            "most_at_once": self.most_at_once,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""
        self.epoch, self.best_epoch, own = state["epoch"], state["best_epoch"], self.moving()
        self.best = divided_as(state["best"], own)
        self.history = [Epoch(**e) for e in state["history"]]
        self.most_at_once = min(self.most_at_once, state["most_at_once"])
        self.network.load_state_dict(divided_as(state["trained"], own), strict=False)
        if self.feed.guide:
            self.feed.guide.load_state_dict(state["guide"])
        self.optimizer.load_state_dict(state["optimizer"])
        divide_state(self.optimizer)
