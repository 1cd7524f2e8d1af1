"""The `Source`: a pretrained network, the preprocessing that it expects, and its from-scratch twin."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from bequest.core.errors import SourceError
from bequest.core.task import HashArray, Kind, Modality, Task
from bequest.nn.depth import Layer, layers
from bequest.nn.network import Network, fingerprint
from bequest.nn.taps import Tap, find_taps
from bequest.sources.preprocess import Preprocess, example_inputs


@dataclass(frozen=True)
class Source:
    """A pretrained network (θ_A) and what is needed to use it.

    Attributes:
        name: As users write it.
        preprocess: From a decoded sample to tensors.
        width: Length of the embedding that the body makes.
        pretrained: Makes the network with its pretrained weights; its head is the source's own, or Identity.
        untrained: Makes the same network with random weights from torch's global generator.
        description: Plain data from which `bequest.sources.from_description` makes the untrained network and the
            preprocessing again; empty where only Python can (an `nn.Module` of the user's).
        licence: Of the weights.
        inputs: A batch for the network; None to make one from the preprocessing where that can be.
        request: The arguments of `bequest.sources.get` that made it, plain data; empty where it was made otherwise.
        head_kind: What the source's own head, where it has one, predicts. That of a language model, `causal-lm`, is the
            body's own last layer.
        classes: Names of the classes that its own head tells apart, in the order of its outputs; empty where they are
            not known.
        learned: uint8 (samples, 16), content hashes of the samples of whose labels its weights know, where that is
            known.
    """

    name: str
    preprocess: Preprocess
    width: int
    pretrained: Callable[[], Network] = field(repr=False)
    untrained: Callable[[], Network] = field(repr=False)
    description: dict[str, Any] = field(default_factory=dict)
    licence: str = ""
    inputs: tuple[Tensor, ...] | None = field(default=None, repr=False)
    request: dict[str, Any] = field(default_factory=dict)
    head_kind: Kind = "classification"
    classes: tuple[str, ...] = ()
    learned: HashArray | None = field(default=None, repr=False, compare=False)

    @property
    def modality(self) -> Modality:
        """What a sample is."""
        return self.preprocess.modality

    @cached_property
    def _loaded(self) -> Network:
        network = self.pretrained().eval()
        return network.requires_grad_(False)

    def network(self) -> Network:
        """A fresh copy of the pretrained network, in eval mode, nothing trainable."""
        return copy.deepcopy(self._loaded)

    @property
    def body(self) -> nn.Module:
        """The pretrained body itself, to read from: frozen and shared."""
        return self._loaded.body

    def scratch(self, seed: int) -> Network:
        """The from-scratch twin: the same network with random weights that depend on the seed alone."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.untrained().eval().requires_grad_(False)

    @cached_property
    def fingerprint(self) -> str:
        """Hex digest of the body's structure and weights."""
        return fingerprint(self.body)

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        """The body's layers in the order in which a forward pass calls them; as registered where no batch is known."""
        return layers(self.body, self.example())

    def taps(self, names: Sequence[str] = (), target: int = 0, task: Task | None = None) -> tuple[Tap, ...]:
        """Places inside the body whose outputs can be read, in the order in which a forward pass comes by them.

        Args:
            names: Of modules, each whole or its end, or `embedding`; empty for all (`bequest.nn.taps.find_taps`).
            target: Numbers to pool each to, about; 0 for means.
            task: Whose samples are tried where no other batch is known.

        Raises:
            SourceError: There is no such layer, its output is no embedding, or no batch is known to try.
        """
        inputs = self.example() if task is None else self.batch(task)
        if inputs is None:
            raise SourceError(
                f"To read inside {self.name!r}, a batch is needed. Give one: from_module(..., example=batch)."
            )
        return tuple(find_taps(self.body, inputs, names, target))

    def batch(self, task: Task) -> tuple[Tensor, ...]:
        """A small batch for the network: the known one, else two of the task's samples."""
        known = self.example()
        return known or self.preprocess.collate([self.preprocess.encode(task.samples[i]) for i in range(2)])

    def example(self) -> tuple[Tensor, ...] | None:
        """A small batch for the network; None where only the user knows one."""
        return self.inputs or example_inputs(self.preprocess)
