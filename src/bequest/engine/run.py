"""One trial: a plan carried out on one draw of the labels."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor, nn

from bequest.core.errors import TrainingError
from bequest.core.plan import Method, Plan, Solve, Train
from bequest.core.results import Epoch, atomic_open
from bequest.core.task import Draw
from bequest.engine.checkpoint import Checkpoint
from bequest.engine.context import Context, Indices
from bequest.engine.cut import Halves, example, halves
from bequest.engine.feature_teaching import Guided, guided_stages, new_guide
from bequest.engine.features import embeddings, embeddings_of, encoded, forward
from bequest.engine.fit import Feed, fit
from bequest.engine.solve import pass_seconds, solve
from bequest.engine.store import Records
from bequest.engine.targets import targets
from bequest.engine.teaching import SoftTargets, soft_views, with_transfer
from bequest.engine.token_teaching import TokenTaught, beside, collate_taught, learns_tokens, taught_token_loss
from bequest.engine.views import View, view
from bequest.nn.head import build_head, describe_head
from bequest.nn.network import Network, batch_norms, require_grad_only, trainable_state
from bequest.nn.taps import Tap
from bequest.nn.trace import called_before_trained

LAST_GOOD = "last_good.safetensors"
"""In a trial's folder, where its loss ceased to be a number: the best weights before that."""


@dataclass
class Outcome:
    """What a trial made.

    Attributes:
        network: Finished: merged, plain, in eval mode.
        trained: The tensors that were trained or solved, before merging and as they are stored; with `head` enough to
            make `network` again.
        head: Description of the head.
        validation: Outputs on the held-out labels (samples, classes), of a model that never saw them.
        test: Outputs on the test part.
        history: Epochs of Train stages.
        solved: What solvers recorded.
        own_s: Seconds of this trial's own fitting.
        shared_s: Seconds of the frozen passes that it reads and shares.
        trainable_parameters: Numbers that were trained or solved.
        epochs_planned: Epochs of the whole network without early stopping.
        merged: Whether the plan merged what it trained into plain layers.
        frozen_shares: Of each Train stage that ran from a cut, the share of the forward pass that was computed once.
    """

    network: Network
    trained: dict[str, Tensor]
    head: dict[str, Any]
    validation: Tensor
    test: Tensor
    history: list[Epoch] = field(default_factory=list)
    solved: list[dict[str, Any]] = field(default_factory=list)
    own_s: float = 0.0
    shared_s: float = 0.0
    trainable_parameters: int = 0
    epochs_planned: int = 0
    merged: bool = False
    frozen_shares: list[float] = field(default_factory=list[float])


def make_plan(context: Context, method: Method, seed: int) -> Plan:
    """The method's plan; what it initialises at random depends on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return method.plan(context.source, context.task)


def run(
    context: Context,
    method: Method,
    draw: Draw,
    *,
    seed: int,
    folder: Path | None = None,
    identity: Any = None,
    tested: bool = True,
) -> Outcome:
    """Carry out a method on one draw.

    A plan that only solves is scored on the held-out labels first, then fitted again on all labels with what
    it chose; a plan that trains keeps them for early stopping.

    Args:
        context: Source, task, store, runtime.
        method: The method.
        draw: Which samples are seen, and tested on.
        seed: Redraws initialisation and order.
        folder: Where checkpoints lie; None keeps none.
        identity: What the trial is, so that a checkpoint of another is not taken for its own.
        tested: Whether the test part is predicted, which a trial of settings has nothing to do with; else the held-out
            labels are not fitted on in the end either, and the outcome's `test` is empty.

    Raises:
        TrainingError: The loss is not a number.
    """
    context.passes.begin_trial(folder, identity)
    trial = _Trial(context, method, draw, seed, folder, identity)
    trial.carry_out()
    validation = trial.outputs(draw.ranking)
    if not tested:
        return trial.outcome(validation, validation[:0])
    if not trial.trains:
        trial.carry_out(refit=True)
    test = trial.outputs(draw.test)
    return trial.outcome(validation, test)


def prepare(context: Context, method: Method, draw: Draw, *, seed: int) -> None:
    """Make the frozen passes that `run` begins with, so that it finds them stored; arguments as there."""
    _shared_seconds(context, make_plan(context, method, seed), draw)


def reassemble(plan: Plan, trained: dict[str, Tensor], head: dict[str, Any]) -> Network:
    """The network of an earlier trial as its last stage left it, before it is finished.

    Args:
        plan: Made again with the same seed.
        trained: Its tensors.
        head: Description of its head.
    """
    network = plan.network
    network.head = build_head(head)
    tensors = plan.coding.decode(trained) if plan.coding else trained
    unexpected = network.load_state_dict(tensors, strict=False).unexpected_keys
    if unexpected:
        raise KeyError(f"the plan has no tensors named {unexpected}")
    return network.eval().requires_grad_(False)


def restore(plan: Plan, trained: dict[str, Tensor], head: dict[str, Any]) -> Network:
    """The finished network of an earlier trial; arguments as for `reassemble`."""
    return finished(plan, reassemble(plan, trained, head))


def finished(plan: Plan, network: Network) -> Network:
    """The plain network: what the plan merges is merged, in place."""
    return (plan.finish(network) if plan.finish else network).eval().requires_grad_(False)


class _Trial:
    """The network of a plan while its stages are carried out."""

    def __init__(
        self, context: Context, method: Method, draw: Draw, seed: int, folder: Path | None, identity: Any
    ) -> None:
        self.context, self.method, self.draw, self.seed = context, method, draw, seed
        self.plan = make_plan(context, method, seed)
        self.folder, self.identity = folder, identity
        self.network = self.plan.network
        self.targets = targets(context, draw)
        self.history: list[Epoch] = []
        self.solved: list[dict[str, Any]] = []
        self.changed: set[str] = set()
        self.fitted: set[str] = set()
        self.stored: dict[str, Tensor] = {}
        self.count = 0
        self.halves: Halves | None = None
        self.shares: list[float] = []
        self.shared_s = _shared_seconds(context, self.plan, draw)
        self.own_s = 0.0
        self.taps = self.student_taps()

    @property
    def trains(self) -> bool:
        return any(isinstance(stage, Train) for stage in self.plan.stages)

    def student_taps(self) -> dict[int, Tap]:
        """Of each stage that learns from its teachers' features, where the student's are read."""
        teaching = self.context.teaching
        if teaching is None or not teaching.settings.feature_weight:
            return {}
        self.context.place(self.network)
        seen = view(self.context, self.draw.train, self.context.labels(self.draw.train), 0)
        layer, inputs = teaching.settings.student_layer, example(self.context, seen)
        tap, numbers = guided_stages(self.network, self.plan.stages, layer, inputs)
        return dict.fromkeys(numbers, tap)

    def carry_out(self, *, refit: bool = False) -> None:
        """All stages; or the Solve stages again, on every label."""
        began, passes = time.perf_counter(), self.context.passes.seconds
        earlier, self.solved = self.solved if refit else [], []
        for number, stage in enumerate(self.plan.stages):
            if isinstance(stage, Solve):
                self.solve(stage, earlier[len(self.solved)] if refit else None)
            elif not refit:
                self.train(stage, number)
        self.restore_units()
        self.settle()
        self.own_s += time.perf_counter() - began - (self.context.passes.seconds - passes)

    def solve(self, stage: Solve, earlier: dict[str, Any] | None) -> None:
        body = self.network.body
        head, record = solve(self.context, stage, self.draw, body, self.targets, seed=self.seed, earlier=earlier)
        self.network.head, self.halves = head, None
        self.solved.append(record)
        self.changed |= {f"head.{name}" for name in head.state_dict()}

    def train(self, stage: Train, number: int) -> None:
        checkpoint = Checkpoint(
            self.folder and self.folder / f"stage{number}.ckpt",
            {"trial": self.identity, "stage": number},
            self.context.checkpoint_every_s,
            self.context.ranks,
        )
        feed, written = self.feed(stage, number), self.plan.written(stage)
        try:
            self.history += fit(
                self.context, self.network, stage, feed, checkpoint, seed=self.seed, number=number, written=written
            )
        except TrainingError:
            self.keep_last_good(written)
            raise
        # Trainable parameters, the buffers that moved with them, what events wrote to: what a restored network lacks.
        fitted = {name for name, p in self.network.named_parameters() if p.requires_grad}
        self.fitted |= fitted
        self.changed |= fitted | self.moved_buffers(stage) | set(written)

    def keep_last_good(self, written: tuple[str, ...]) -> None:
        """Leave the best weights of the stage that failed with the trial."""
        if self.folder is None:
            return
        weights = {k: v.cpu().contiguous().clone() for k, v in trainable_state(self.network, written).items()}
        with atomic_open(self.folder / LAST_GOOD) as file:
            file.write(save(weights))

    def restore_units(self) -> None:
        """From here on the network speaks in the targets' own units."""
        self.changed |= {f"head.{name}" for name in self.targets.restore_units(self.network.head)}

    def settle(self) -> None:
        """Take down what is stored of the network, which from here on is what that decodes to."""
        state = self.network.state_dict()
        trained = {name: state[name].detach().cpu().clone() for name in sorted(self.changed & set(state))}
        # A solved head may consist of buffers alone.
        self.count = sum(t.numel() for name, t in trained.items() if name in self.fitted or name.startswith("head."))
        coding = self.plan.coding
        self.stored = coding.encode(trained) if coding else trained
        if coding:
            self.network.load_state_dict(coding.decode(self.stored), strict=False)

    def moved_buffers(self, stage: Train) -> set[str]:
        trained = {n.rpartition(".")[0] for n, p in self.network.named_parameters() if p.requires_grad}
        trained -= batch_norms(self.network) if stage.fixed_statistics else set()
        return {n for n, _ in self.network.named_buffers() if n.rpartition(".")[0] in trained}

    def feed(self, stage: Train, number: int) -> Feed:
        self.halves = None
        context, train = with_transfer(self.context, self.draw.train)
        part, num_train = np.concatenate([train, self.draw.validation]), len(train)
        labels = replace(self.targets, context=context).labels(part)
        held_out = labels[num_train:]

        num_views = 1 if stage.source_features else context.views.number
        taught, features = (context, stage, part[:num_train], labels[:num_train], num_views), number in self.taps
        soft_view = soft_views(*taught, features=features)

        def soft(view_number: int) -> SoftTargets | None:
            made = soft_view(view_number)
            self.shared_s += made.seconds if made else 0
            return made

        if stage.source_features:
            values, hashes = embeddings(context, part, self.network.body), context.hashes(part)
            plain = View(values, hashes, labels, soft=soft(0))
            return Feed(self.network.head, self.network.head, lambda _: plain, _stack, num_train, held_out)

        def one(view_number: int) -> View:
            chosen = slice(num_train) if view_number else slice(None)
            made = view(context, part[chosen], labels[chosen], view_number)
            self.shared_s += made.items.seconds if view_number and isinstance(made.items, Records) else 0
            return replace(made, soft=soft(view_number))

        if self.context.cut and num_views is not None and _trains_head_alone(stage):
            head, embedded = self.network.head, self.embedded_view
            self.shares.append(1.0)
            self.context.say("All below the head is frozen: computed once a sample.")
            return Feed(head, head, lambda n: embedded(one(n)), _stack, num_train, held_out, num_views)
        require_grad_only(self.network, [name for group in stage.groups for name in group.names])
        self.context.place(self.network)
        plain = one(0)
        quiet = called_before_trained(self.network, example(self.context, plain))
        quiet |= batch_norms(self.network) if stage.fixed_statistics else frozenset()
        if learns_tokens(context):
            return self.token_feed(stage, plain, num_train, held_out, quiet)
        guide = self.guide(plain, number)
        written = self.plan.written(stage)
        self.halves = halves(
            self.context, self.guided(number), plain, (_structural(self.method), number), num_views, quiet, written
        )
        sizes = (num_train, held_out, num_views, quiet)
        if self.halves is None:
            collate = context.source.preprocess.collate
            return Feed(self.guided(number), self.network, one, collate, *sizes, guide=guide)
        cut = self.halves.cut
        self.shares.append(cut.share)
        collate, cut_view = self.halves.collate, self.cut_view
        return Feed(cut.training, cut.scoring, lambda n: cut_view(one(n)), collate, *sizes, guide=guide)

    def guided(self, number: int) -> Network | Guided:
        """The network, with its features beside its outputs where a stage learns from its teachers' features."""
        return Guided(self.network, self.taps[number]) if number in self.taps else self.network

    def guide(self, plain: View, number: int) -> nn.Linear | None:
        """The map from the student's features to the teachers'; None where a stage does not learn from them."""
        if number not in self.taps:
            return None
        assert plain.soft is not None, "the stage has a teacher"
        made = new_guide(self.taps[number].width, plain.soft.width, seed=self.seed, number=number)
        return made.to(self.context.runtime.device)

    def token_feed(self, stage: Train, plain: View, num_train: int, held_out: Tensor, quiet: frozenset[str]) -> Feed:
        context = self.context
        if any(not p.requires_grad for p in self.network.parameters()):
            context.say("A student of a language model computes its frozen layers anew in every epoch.")
        made, seconds = beside(context, stage, plain)
        self.shared_s += seconds
        taught, collate = TokenTaught(self.network, context), partial(collate_taught, context)
        return Feed(
            taught, taught, lambda _: made, collate, num_train, held_out, quiet=quiet, loss=taught_token_loss(context)
        )

    def cut_view(self, plain: View) -> View:
        """A view of what the prefix made of the samples."""
        assert self.halves is not None
        items, seconds = self.halves.items(plain)
        self.shared_s += seconds
        return replace(plain, items=items)

    def embedded_view(self, plain: View) -> View:
        """A view of what the body made of the samples: where all of it is frozen, there is no cut to look for."""
        records = embeddings_of(self.context, plain.items, plain.hashes, self.network.body, plain.key)
        self.shared_s += records.seconds
        return replace(plain, items=records)

    def outputs(self, indices: Indices) -> Tensor:
        """Outputs for some samples; from what is stored of an untouched body, or of the last stage's prefix."""
        if not any(name.startswith("body.") for name in self.changed):
            of_source = all(stage.source_features for stage in self.plan.stages)
            body = self.network.body
            values = torch.from_numpy(embeddings(self.context, indices, body, of_source=of_source).stack())
            head = self.network.head.eval().to("cpu")
            with torch.inference_mode():
                return head(values).float()
        plain = view(self.context, np.asarray(indices), self.context.no_labels(indices), 0)
        network: nn.Module = self.network.eval()
        if self.context.sharding:
            network, _ = self.context.divided((network,), self.network, example(self.context, plain))
        else:
            self.context.runtime.place(network)
        if self.halves is None:
            return forward(self.context, network, plain.items, label="scoring")
        items, _ = self.halves.items(plain)
        return forward(self.context, self.halves.cut.scoring, items, collate=self.halves.collate, label="scoring")

    def outcome(self, validation: Tensor, test: Tensor) -> Outcome:
        network = finished(self.plan, self.network)
        return Outcome(
            network=network,
            trained=self.stored,
            head=describe_head(network.head),
            validation=validation,
            test=test,
            history=self.history,
            solved=self.solved,
            own_s=self.own_s,
            shared_s=self.shared_s,
            trainable_parameters=self.count,
            epochs_planned=sum(s.epochs for s in self.plan.stages if isinstance(s, Train) and not s.source_features),
            merged=self.plan.finish is not None,
            frozen_shares=self.shares,
        )


def _trains_head_alone(stage: Train) -> bool:
    return all(name.startswith("head.") for group in stage.groups for name in group.names)


def _stack(items: Any) -> tuple[Tensor, ...]:
    return (torch.from_numpy(np.stack(items)),)


def _shared_seconds(context: Context, plan: Plan, draw: Draw) -> float:
    """Fill the store with what the plan reads of it, and say what that takes, whoever paid for it."""
    encoded(context, np.concatenate([draw.labelled, draw.test]))
    of_source = any(stage.source_features for stage in plan.stages)
    if not any(isinstance(stage, Train) for stage in plan.stages):
        embeddings(context, draw.test, plan.network.body, of_source=of_source)
    if of_source:
        return pass_seconds(context, draw.labelled, plan.network.body)
    return encoded(context, draw.labelled).seconds


def _structural(method: Any) -> Any:
    """The method without what only says how its network moves: tried at another rate, it has the same graphs."""
    return replace(method, recipe=method.recipe.structural) if hasattr(method, "recipe") else method
