"""Distillation of features: a layer of the student gives, after a linear map, what a layer of its teacher gives.

In training the student's features lie beside its outputs, so that whatever part of the network is trained gives both:
the whole of it, or what is above a cut. The map is trained along and belongs to no network.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from bequest.core.errors import MethodError, SourceError
from bequest.core.plan import Solve, Train
from bequest.core.task import Task
from bequest.nn.network import Network, require_grad_only
from bequest.nn.taps import Tap, embedding_tap, find_taps, read_taps
from bequest.sources.source import Source

GUIDE_RATE = 1e-3
"""Peak rate of the map from the student's features to the teacher's, whatever the stage's rates are: it starts from
random weights, as a new head does."""


def layer_tap(source: Source, layer: str, task: Task, flag: str) -> Tap:
    """Where a layer of a source is read.

    Args:
        source: Teacher or student.
        layer: As it is named.
        task: Whose samples are tried where no other batch is known.
        flag: By which it is named, for the error.

    Raises:
        SourceError: There is no such layer, or its output is no embedding.
    """
    try:
        [tap] = source.taps([layer], task=task)
    except SourceError as error:
        raise SourceError(f"{flag} for {source.name!r}: {error}") from error
    return tap


class Guided(nn.Module):
    """A network that gives its features beside its outputs while it trains, under the same names.

    Inputs → (batch, outputs + width) in train mode, (batch, outputs) in eval mode.

    Attributes:
        body: The network's.
        head: The network's.
        tap: Where its features are read.
    """

    def __init__(self, network: Network, tap: Tap) -> None:
        super().__init__()
        self.body, self.head, self.tap = network.body, network.head, tap

    def forward(self, *inputs: Tensor) -> Tensor:
        """As the class says."""
        if not self.training:
            return self.head(self.body(*inputs))
        embedding, features = read_taps(self.body, (embedding_tap(0), self.tap), inputs)
        return torch.cat([self.head(embedding), features], 1)

    def extra_repr(self) -> str:
        """The tap, so that it is part of what tells two networks' structures apart."""
        return f"features of {self.tap.name or 'embedding'}"


def guided_stages(
    network: Network, stages: Sequence[Train | Solve], layer: str, inputs: tuple[Tensor, ...]
) -> tuple[Tap, frozenset[int]]:
    """Where a network's features are read, and the numbers of the stages that change what they are.

    Args:
        network: In eval mode; nothing of it requires gradients afterwards.
        stages: Of its plan.
        layer: As it is named.
        inputs: A small batch.

    Raises:
        MethodError: No stage changes them.
        SourceError: The network has no such layer.
    """
    [tap] = find_taps(network.body, inputs, [layer])
    found: set[int] = set()
    for number, stage in enumerate(stages):
        if isinstance(stage, Train) and not stage.source_features:
            require_grad_only(network, [name for group in stage.groups for name in group.names])
            if read_taps(network.body, (tap,), inputs)[0].requires_grad:
                found.add(number)
    network.requires_grad_(False)
    if not found:
        raise MethodError(
            f"--feature-weight is given, but no training stage changes what the student's layer {layer!r} gives; "
            "expected a method that trains layers at or below it, e.g. full or lora. Leave --feature-weight out, or "
            "name a layer above what is frozen: --student-layer."
        )
    return tap, frozenset(found)


def new_guide(width: int, teacher_width: int, *, seed: int, number: int) -> nn.Linear:
    """The map from the student's features to the teacher's; what it starts from depends on seed and stage alone."""
    entropy = np.random.SeedSequence([seed, number, width, teacher_width]).generate_state(1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(entropy[0]))
        return nn.Linear(width, teacher_width)
