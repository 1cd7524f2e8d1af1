"""A network is a body and a head: the body maps inputs to an embedding, the head maps that to outputs."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Origin:
    """Where a body and its head lay in the network that they were taken from, the original.

    Attributes:
        inside: Name in the body of the module that comes from there; empty for the body itself.
        path: Name of that module in the original; empty where it is the whole of it.
        head: Name of the head in the original; empty where it has none in that place.
        alias: Name under which other networks of the same library hold the module, e.g. `bert` in a classifier; empty
            for none.
        left_off: Names of parts of the original that the body does without, since nothing reads them.
    """

    inside: str = ""
    path: str = ""
    head: str = ""
    alias: str = ""
    left_off: tuple[str, ...] = ()

    def within(self, name: str) -> Origin:
        """Of a body that holds this one under a name and puts another end to it."""
        return replace(self, inside=_join(name, self.inside), head="")

    def original(self, name: str) -> str:
        """What a module or parameter of the body is called in the original."""
        return _moved(name, self.inside, self.path)

    def own(self, name: str) -> str:
        """What a module or parameter of the original is called in the body; empty where it is not there."""
        inside = not self.path or name.startswith(self.path + ".")
        return _moved(name, self.path, self.inside) if inside else ""


def _moved(name: str, prefix: str, other: str) -> str:
    return _join(other, name.removeprefix(prefix + ".") if prefix else name)


def _join(*names: str) -> str:
    return ".".join(filter(None, names))


class Network(nn.Module):
    """Body and head.

    Attributes:
        body: Inputs (one or more tensors, batch first) → embedding (batch, width).
        head: Embedding (batch, width) → outputs (batch, classes). An Identity where nothing is new: a language model's
            body ends in its own last layer.
        origin: Where both lay in the network that they were taken from.
    """

    def __init__(self, body: nn.Module, head: nn.Module, origin: Origin | None = None) -> None:
        super().__init__()
        self.body = body
        self.head = head
        self.origin = origin or Origin()

    def forward(self, *inputs: Tensor) -> Tensor:
        """Outputs (batch, classes) for a batch of inputs."""
        return self.head(self.body(*inputs))


def fingerprint(module: nn.Module) -> str:
    """Hex digest of a module's structure, parameters and buffers: equal for equal functions of equal layout."""
    digest = hashlib.blake2b(digest_size=16)
    digest.update(repr(module).encode())
    for name, tensor in module.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def set_modes(network: nn.Module, quiet: Collection[str] = ()) -> None:
    """Train mode exactly where something is trained, eval mode elsewhere.

    A module with parameters trains if and only if one of them (or of its children's) does, so a frozen
    BatchNorm keeps its statistics whatever is trained around it. Modules without parameters (dropout) follow the
    module they stand in.

    Args:
        network: Its parameters that are trained require gradients.
        quiet: Names of modules that stay in eval mode: those without parameters before which nothing is trained, and
            BatchNorms whose statistics are to stay.
    """

    def visit(name: str, module: nn.Module, inherited: bool) -> None:
        own = list(module.parameters())
        module.training = name not in quiet and (any(p.requires_grad for p in own) if own else inherited)
        for child_name, child in module.named_children():
            visit(f"{name}.{child_name}".lstrip("."), child, module.training)

    visit("", network, False)


def batch_norms(module: nn.Module) -> frozenset[str]:
    """Names of every BatchNorm in a module."""
    kind = nn.modules.batchnorm._BatchNorm  # pyright: ignore[reportPrivateUsage]
    return frozenset(name for name, part in module.named_modules() if isinstance(part, kind))


def require_grad_only(network: nn.Module, names: Iterable[str]) -> None:
    """Let the named parameters train and freeze all others."""
    chosen = set(names)
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name in chosen)


def trainable_state(network: nn.Module, written: Collection[str] = ()) -> dict[str, Tensor]:
    """The tensors that training may change: trainable parameters, and buffers of modules in train mode.

    Args:
        network: Its parameters that are trained require gradients.
        written: Frozen parameters that something else than the optimizer writes to (`Plan.written`).
    """
    state: dict[str, Tensor] = {n: p.detach() for n, p in network.named_parameters() if p.requires_grad or n in written}
    for prefix, module in network.named_modules():
        if module.training:
            for name, buffer in module.named_buffers(recurse=False):
                if name not in module._non_persistent_buffers_set:  # pyright: ignore[reportPrivateUsage]
                    state[f"{prefix}.{name}".lstrip(".")] = buffer.detach()
    return state
