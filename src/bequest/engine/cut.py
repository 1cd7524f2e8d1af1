"""Training from the cut: the frozen prefix runs once a sample and view, into the store; the suffix is trained."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from bequest.engine.context import Context
from bequest.engine.feature_teaching import Guided
from bequest.engine.features import Frozen, frozen_outputs, num_lacking
from bequest.engine.store import Array, Records, lengths_of
from bequest.engine.views import View
from bequest.nn.cut import Cut, CutError, Export, Exported, Graphs, Kept, NothingFrozen, analyse, cut, export
from bequest.nn.network import Network, fingerprint

T = TypeVar("T")

_LEAST_SHARE = 0.1
"""Frozen share of the forward pass below which reading what is kept costs about what it spares."""

_MAX_GRAPHS = 128
_graphs: dict[Any, Any] = {}


@dataclass(frozen=True)
class Items(Sequence[tuple[Any, ...]]):
    """What the suffix reads of each sample: kept activations, and the encoded sample where it takes inputs too.

    Attributes:
        kept: One `Records` an activation.
        encoded: The encoded samples.
    """

    kept: tuple[Records, ...]
    encoded: Sequence[Any]

    def __len__(self) -> int:
        return len(self.encoded)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return Items(tuple(records[index] for records in self.kept), self.encoded[index])
        return (self.encoded[index], *(records.tensor(index) for records in self.kept))

    @property
    def lengths(self) -> Array:
        """Of the encoded samples, so that batches are those of the plain network."""
        return lengths_of(self.encoded)


@dataclass(frozen=True)
class Halves:
    """A network's cut at work.

    Attributes:
        context: The run.
        cut: Prefix, suffix and what lies between.
    """

    context: Context
    cut: Cut

    def items(self, view: View) -> tuple[Items, float]:
        """What the suffix reads of a view's samples, and the seconds that making it took, whenever that was."""
        kept = tuple(frozen_outputs(self.context, self.frozen(view), view.items, view.hashes, view.key))
        return Items(kept, view.items), max(records.seconds for records in kept)

    def frozen(self, view: View) -> Frozen:
        """The prefix, for the store."""
        return Frozen(
            tuple({"what": "activations", "prefix": self._digest, "output": i} for i in range(len(self.cut.kept))),
            lambda chosen: _Prefix(
                self.cut.prefix, chosen, self.context.runtime.frozen, self.context.runtime.device.type
            ),
            tuple(kept.ragged for kept in self.cut.kept),
            num_bytes=self.num_bytes(lengths_of(view.items)) / len(view.items),
        )

    def has_room(self, view: View, num_views: int) -> bool:
        """Whether the store takes what it lacks of so many views, of which this is the plain one."""
        lacking = num_lacking(self.context, self.frozen(view), view.hashes, view.key)
        needed = self.num_bytes(lengths_of(view.items)) * (lacking / len(view.items) + num_views - 1)
        return self.context.has_room(int(needed), persistent=self.context.source.preprocess.persistent)

    def collate(self, items: Sequence[tuple[Any, ...]]) -> tuple[Tensor, ...]:
        """The suffix's inputs."""
        encoded, *kept = zip(*items, strict=True)
        given: tuple[Tensor, ...] = ()
        if self.cut.inputs:
            inputs = self.context.source.preprocess.collate(encoded)
            given = tuple(inputs[i] for i in self.cut.inputs)
        return (*(_batch(k, rows) for k, rows in zip(self.cut.kept, kept, strict=True)), *given)

    def num_bytes(self, lengths: Array) -> int:
        """What the kept activations of samples of these lengths take on disk."""
        return int(sum(kept.num_bytes(float(lengths.mean())) for kept in self.cut.kept) * len(lengths))

    @cached_property
    def _digest(self) -> str:
        code = getattr(self.cut.prefix, "code", "")
        return hashlib.blake2b((code + fingerprint(self.cut.prefix)).encode(), digest_size=16).hexdigest()


class _Prefix(nn.Module):
    """Some outputs of the prefix, in the precision of frozen passes."""

    def __init__(self, prefix: nn.Module, chosen: Sequence[int], precision: str, device: str) -> None:
        super().__init__()
        self.chosen = tuple(chosen)
        self.prefix, self.device, self.lower = prefix, device, precision == "bfloat16"

    def forward(self, *inputs: Tensor) -> Any:
        # Autocast rather than a cast: the graph's constants (masks, epsilons) are written for float32.
        with torch.autocast(self.device, torch.bfloat16, enabled=self.lower):
            outputs = self.prefix(*inputs)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        return tuple(outputs[i] for i in self.chosen)


def halves(
    context: Context,
    network: Network | Guided,
    view: View,
    key: Any,
    num_views: int | None,
    quiet: frozenset[str],
    written: tuple[str, ...] = (),
) -> Halves | None:
    """The network's cut for what requires gradients in it; None where training had better run the plain way.

    Says so once where that is not for want of anything frozen.

    Args:
        context: The run.
        network: On its device, in no mode in particular.
        view: The plain view of the labelled samples.
        key: What the network's structure depends on (method and stage): its graphs are made once for all seeds.
        num_views: How many views of the samples there are; None where each epoch has its own.
        quiet: As for `set_modes`.
        written: As for `trainable_state`.
    """
    frozen = [p for p in network.body.parameters() if not p.requires_grad]
    if not context.cut or not frozen:
        return None
    if context.sharding:
        context.say("The network is divided among processes: frozen layers are computed anew in every epoch.")
        return None
    if num_views is None:
        context.say("Views are unlimited: frozen layers are computed anew in every epoch.")
        return None
    inputs = example(context, view)
    graphs = _analysed(context, network, inputs, key, quiet, written)
    if isinstance(graphs, CutError):
        if not isinstance(graphs, NothingFrozen):
            context.say(f"Frozen layers are computed anew in every epoch: {graphs}.")
        return None
    made = Halves(context, cut(network, graphs))
    size = made.num_bytes(lengths_of(view.items)) * num_views
    share = f"{graphs.share:.0%} of the forward pass is frozen"
    if not made.has_room(view, num_views):
        context.say(f"{share}, but computed anew in every epoch: what it makes would take {_megabytes(size)} on disk.")
        return None
    context.say(f"{share}: computed once a sample, {_megabytes(size)} on disk.")
    return made


def _analysed(
    context: Context,
    network: Network | Guided,
    inputs: tuple[Tensor, ...],
    key: Any,
    quiet: frozenset[str],
    written: tuple[str, ...],
) -> Graphs | CutError:
    trained = tuple(name for name, p in network.named_parameters() if p.requires_grad)
    ragged = context.task.modality == "text"
    # Sides other than the number of samples and of tokens are constants in a graph.
    shapes = tuple((t.dtype, t.device, t.shape[2 if ragged else 1 :]) for t in inputs)
    structure = (*_structure(context, network, key), shapes)
    asked = {"ragged": ragged, "quiet": quiet, "written": written, "least_share": _LEAST_SHARE}
    return _once(
        (structure, trained, written, quiet),
        lambda: analyse(network, inputs, **asked, export=_remembering(structure)),
    )


def _structure(context: Context, network: Network | Guided, key: Any) -> tuple[str, ...]:
    """What tells a structure: the key too, unless it is the source's body as it came, under a head of ours."""
    came = _parts(network.body) == _parts(context.source.body)
    ours = all(type(part).__module__.startswith(("torch.nn.", "bequest.")) for part in network.head.modules())
    return (context.source.fingerprint, repr(network), "" if came and ours else repr(key))


def _parts(module: nn.Module) -> list[tuple[str, type[nn.Module], bool]]:
    """Name and type of each module, and whether anything was hung onto its forward pass, which neither tells."""
    hung = ("_forward_hooks", "_forward_pre_hooks", "forward")
    return [(name, type(part), any(map(vars(part).get, hung))) for name, part in module.named_modules()]


def _remembering(structure: Any) -> Export:
    """Exports networks of one structure once for the modes and the trained parameters that they have."""

    def remembered(network: nn.Module, inputs: tuple[Tensor, ...], ragged: bool) -> Exported:
        modes = tuple(part.training for part in network.modules())
        trained = tuple(parameter.requires_grad for parameter in network.parameters())
        found = _once((structure, modes, trained), lambda: export(network, inputs, ragged))
        if isinstance(found, CutError):
            raise found
        return found

    return remembered


def _once(key: Any, make: Callable[[], T]) -> T | CutError:
    """What was made under a key before, or is made now; what cannot be made is not tried again."""
    if key not in _graphs:
        if len(_graphs) >= _MAX_GRAPHS:
            _graphs.pop(next(iter(_graphs)))
        try:
            _graphs[key] = make()
        except CutError as error:
            _graphs[key] = error
    return _graphs[key]


def example(context: Context, view: View) -> tuple[Tensor, ...]:
    """A batch of three samples of different lengths, where there are such."""
    order = np.argsort(lengths_of(view.items), kind="stable")
    chosen = order[[0, len(order) // 2, -1]]
    return context.inputs(context.source.preprocess.collate([view.items[int(i)] for i in chosen]))


def _batch(kept: Kept, rows: Sequence[Tensor]) -> Tensor:
    """Samples' activations as one tensor, ragged ones padded with zeros: no mask lets those through."""
    if not kept.ragged:
        return torch.stack(list(rows))
    return nn.utils.rnn.pad_sequence(list(rows), batch_first=True)


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
