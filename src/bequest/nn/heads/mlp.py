"""A head with hidden layers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from bequest.nn.heads import kind


@kind("mlp")
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

    def describe(self) -> dict[str, Any]:
        """The arguments that make one of the same shape."""
        return {
            "width": self.widths[0],
            "num_outputs": self.output.out_features,
            "hidden": list(self.widths[1:]),
            "dropout": self.dropout.p,
        }
