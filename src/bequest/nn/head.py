"""Heads: find the one a network has, take it off, make new ones."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from bequest.nn.trace import trace

HEAD_NAMES = ("fc", "classifier", "heads", "head", "score")
"""Where torchvision and transformers keep their heads."""


class MLP(nn.Module):
    """A head with hidden layers: (Linear → GELU → Dropout) for each, then Linear.

    Attributes:
        widths: Of the embedding and of each hidden layer.
        hidden: The hidden layers, each from the width before it to its own.
        output: Last width → outputs.

    Args:
        width: Of the embedding.
        num_outputs: Classes.
        hidden: Width of each hidden layer; one as wide as the embedding by default.
        dropout: After each hidden layer.
    """

    def __init__(self, width: int, num_outputs: int, hidden: Sequence[int] = (), dropout: float = 0.1) -> None:
        super().__init__()
        self.widths = (width, *(hidden or (width,)))
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(self.widths))
        self.activation = nn.GELU()
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(self.widths[-1], num_outputs)

    def forward(self, embedding: Tensor) -> Tensor:
        """Embedding (batch, width) → outputs (batch, classes)."""
        for layer in self.hidden:
            embedding = self.dropout(self.activation(layer(embedding)))
        return self.output(embedding)


def new_head(
    kind: str, width: int, num_outputs: int, *, hidden: Sequence[int] = (), dropout: float = 0.1, bias: bool = True
) -> nn.Module:
    """A randomly initialised head.

    The linear head starts with small weights (normal, 0.01) and no bias, so that the first outputs do not
    drown what the body knows.

    Args:
        kind: `linear`, or `mlp` with hidden layers.
        width: Of the embedding.
        num_outputs: Classes.
        hidden: Widths of an MLP's hidden layers; one as wide as the embedding where empty.
        dropout: Of an MLP.
        bias: Whether a linear head has one.

    Raises:
        ValueError: The kind is unknown, a width is below 1, or hidden layers are asked of a linear head.
    """
    if min((width, num_outputs, *hidden)) < 1:
        raise ValueError(f"the head's widths are {(width, *hidden, num_outputs)}, expected 1 or more each")
    if kind == "mlp":
        return MLP(width, num_outputs, hidden, dropout)
    if kind != "linear" or hidden:
        raise ValueError(f"a head of kind {kind!r} with hidden layers {tuple(hidden)}; expected linear without, or mlp")
    head = nn.Linear(width, num_outputs, bias=bias)
    nn.init.normal_(head.weight, std=0.01)
    if head.bias is not None:
        nn.init.zeros_(head.bias)
    return head


def describe_head(head: nn.Module) -> dict[str, Any]:
    """What `build_head` needs to make a head of the same shape: plain data.

    Raises:
        TypeError: The head is of a kind that cannot be described.
    """
    if isinstance(head, MLP):
        return {
            "kind": "mlp",
            "width": head.widths[0],
            "num_outputs": head.output.out_features,
            "hidden": list(head.widths[1:]),
            "dropout": head.dropout.p,
        }
    if isinstance(head, nn.Linear):
        return {
            "kind": "linear",
            "width": head.in_features,
            "num_outputs": head.out_features,
            "bias": head.bias is not None,
        }
    raise TypeError(f"a head of type {type(head).__name__} cannot be described")


def build_head(description: dict[str, Any]) -> nn.Module:
    """An untrained head of the described shape."""
    return new_head(**description)


def find_head(module: nn.Module, inputs: tuple[Tensor, ...] | None = None) -> str | None:
    """Name of a network's head; None where it has no Linear.

    Args:
        module: In eval mode.
        inputs: A batch, from which the last Linear that a forward pass calls is found where the structure does not
            say; None for the last that is registered.

    Returns:
        The last Linear in what timm's `get_classifier` gives, or in the child that torchvision and transformers name
        as their head; else the last Linear.
    """
    named = {m: n for n, m in module.named_modules()}
    classifier = getattr(module, "get_classifier", None)
    candidates = [classifier() if callable(classifier) else None]
    candidates += [getattr(module, name, None) for name in HEAD_NAMES]
    for candidate in candidates:
        found = last_linear(candidate) if isinstance(candidate, nn.Module) else None
        if found is not None and found[1] in named:
            return named[found[1]]
    linear = {n for n, m in module.named_modules() if isinstance(m, nn.Linear)}
    if inputs is not None:
        return next((n for n in reversed(trace(module, inputs)) if n in linear), None)
    found = last_linear(module)
    return found[0] if found else None


def last_linear(module: nn.Module) -> tuple[str, nn.Linear] | None:
    """Name and module of the last Linear in order of registration; None where there is none."""
    found = [(n, m) for n, m in module.named_modules() if isinstance(m, nn.Linear)]
    return found[-1] if found else None
