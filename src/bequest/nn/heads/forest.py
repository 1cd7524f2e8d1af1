"""Trees that were fitted elsewhere, as tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from bequest.nn.heads import kind

_LEAST_SHARE = 1e-7
"""Stands for no share at all, so that its logarithm is a number."""

_BLOCK = 2048
"""Values that trees give for a sample at a time."""


@kind("forest")
class Forest(nn.Module):
    """Decision trees, walked all at once: as many steps as the deepest has.

    A node sends a sample left where the feature is at most the threshold; a leaf sends it to itself. Trees stand in
    rounds of `group`: the values of a round's trees lie side by side, (group · channels) outputs, and rounds are added
    up. A random forest has rounds of one tree that gives every class's share; gradient boosting has a tree for each
    class in a round.

    Attributes:
        root: int64 (trees,): each tree's first node.
        feature: int64 (nodes,): what a node looks at.
        threshold: float32 (nodes,).
        left: int64 (nodes,): the next node, a leaf's itself.
        right: int64 (nodes,).
        value: float32 (nodes, channels): what a leaf gives.
        bias: float32 (outputs,): added to the sum.

    Args:
        trees: How many.
        nodes: Of all trees.
        depth: Steps from a root to the furthest leaf.
        channels: Values that a leaf gives.
        group: Trees in a round.
        shares: Whether the mean over rounds are the classes' shares, whose logarithms are the outputs; else the
            outputs are the sums.

    Raises:
        ValueError: No tree of so many nodes is so deep.
    """

    root: Tensor
    feature: Tensor
    threshold: Tensor
    left: Tensor
    right: Tensor
    value: Tensor
    bias: Tensor

    def __init__(self, trees: int, nodes: int, depth: int, channels: int, group: int, shares: bool) -> None:
        super().__init__()
        if not 0 <= depth < nodes:
            raise ValueError(f"the forest's depth is {depth}, expected less than its nodes, {nodes}")
        self.depth, self.group, self.shares = depth, group, shares
        self.register_buffer("root", torch.zeros(trees, dtype=torch.int64))
        for name in ("feature", "left", "right"):
            self.register_buffer(name, torch.zeros(nodes, dtype=torch.int64))
        self.register_buffer("threshold", torch.zeros(nodes))
        self.register_buffer("value", torch.zeros(nodes, channels))
        self.register_buffer("bias", torch.zeros(group * channels))

    def forward(self, features: Tensor) -> Tensor:
        """Features (batch, width) → logits (batch, classes)."""
        outputs = self.bias.expand(features.shape[0], -1)
        rounds = max(1, _BLOCK // len(self.bias))
        for roots in self.root.split(rounds * self.group):
            values = self.value[self._leaves(features, roots)]
            outputs = outputs + values.reshape(features.shape[0], -1, len(self.bias)).sum(1)
        return log_shares(outputs * (self.group / len(self.root))) if self.shares else outputs

    def _leaves(self, features: Tensor, roots: Tensor) -> Tensor:
        """The leaf of each sample in each tree, int64 (batch, trees)."""
        node = roots.expand(features.shape[0], -1)
        for _ in range(self.depth):
            is_left = features.gather(1, self.feature[node]) <= self.threshold[node]
            node = torch.where(is_left, self.left[node], self.right[node])
        return node

    def describe(self) -> dict[str, Any]:
        """The arguments that make one of the same shape."""
        nodes, channels = self.value.shape
        sizes = {"trees": len(self.root), "nodes": nodes, "depth": self.depth, "channels": channels}
        return {**sizes, "group": self.group, "shares": self.shares}


def log_shares(shares: Tensor) -> Tensor:
    """Logits whose softmax are the shares (batch, classes)."""
    return shares.clamp(min=_LEAST_SHARE).log()
