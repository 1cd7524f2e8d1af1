"""A network is a body and a head: the body maps inputs to an embedding, the head maps that to outputs."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable

import torch
from torch import Tensor, nn


class Network(nn.Module):
    """Body and head.

    Attributes:
        body: Inputs (one or more tensors, batch first) → embedding (batch, width).
        head: Embedding (batch, width) → outputs (batch, classes). An Identity where nothing is new: a language model's
            body ends in its own last layer.
    """

    def __init__(self, body: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.body = body
        self.head = head

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
    BatchNorm keeps its statistics whatever is trained around it. Modules without parameters (dropout) follow
    the module they stand in.

    Args:
        network: Its parameters that are trained require gradients.
        quiet: Names of modules without parameters that stay in eval mode: nothing before them is trained.
    """

    def visit(name: str, module: nn.Module, inherited: bool) -> None:
        own = list(module.parameters())
        module.training = any(p.requires_grad for p in own) if own else inherited and name not in quiet
        for child_name, child in module.named_children():
            visit(f"{name}.{child_name}".lstrip("."), child, module.training)

    visit("", network, False)


def require_grad_only(network: nn.Module, names: Iterable[str]) -> None:
    """Let the named parameters train and freeze all others."""
    chosen = set(names)
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name in chosen)


def trainable_state(network: nn.Module) -> dict[str, Tensor]:
    """The tensors that training may change: trainable parameters, and buffers of modules in train mode."""
    state: dict[str, Tensor] = {n: p.detach() for n, p in network.named_parameters() if p.requires_grad}
    for prefix, module in network.named_modules():
        if module.training:
            for name, buffer in module.named_buffers(recurse=False):
                if name not in module._non_persistent_buffers_set:  # pyright: ignore[reportPrivateUsage]
                    state[f"{prefix}.{name}".lstrip(".")] = buffer.detach()
    return state
