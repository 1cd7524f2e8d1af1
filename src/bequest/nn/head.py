"""Heads: find the one a network has, take it off, make new ones."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class MLP(nn.Module):
    """A head with one hidden layer: Linear → GELU → Dropout → Linear.

    Attributes:
        hidden: Width → width.
        output: Width → outputs.
    """

    def __init__(self, width: int, num_outputs: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.hidden = nn.Linear(width, width)
        self.activation = nn.GELU()
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(width, num_outputs)

    def forward(self, embedding: Tensor) -> Tensor:
        """Embedding (batch, width) → outputs (batch, classes)."""
        return self.output(self.dropout(self.activation(self.hidden(embedding))))


def new_head(kind: str, width: int, num_outputs: int) -> nn.Module:
    """A randomly initialised head: `linear`, or `mlp` with one hidden layer.

    The linear head starts with small weights (normal, 0.01) and no bias, so that the first outputs do not
    drown what the body knows.
    """
    if kind == "mlp":
        return MLP(width, num_outputs)
    head = nn.Linear(width, num_outputs)
    nn.init.normal_(head.weight, std=0.01)
    nn.init.zeros_(head.bias)
    return head


def describe_head(head: nn.Module) -> dict[str, Any]:
    """What `build_head` needs to make a head of the same shape.

    Raises:
        TypeError: The head is of a kind that cannot be described.
    """
    if isinstance(head, MLP):
        return {"kind": "mlp", "width": head.hidden.in_features, "num_outputs": head.output.out_features}
    if isinstance(head, nn.Linear):
        return {"kind": "linear", "width": head.in_features, "num_outputs": head.out_features}
    raise TypeError(f"a head of type {type(head).__name__} cannot be described")


def build_head(description: dict[str, Any]) -> nn.Module:
    """An untrained head of the described shape."""
    return new_head(description["kind"], description["width"], description["num_outputs"])


def last_linear(module: nn.Module) -> tuple[str, nn.Linear] | None:
    """Name and module of the last Linear in order of registration; None where there is none."""
    found = [(n, m) for n, m in module.named_modules() if isinstance(m, nn.Linear)]
    return found[-1] if found else None
