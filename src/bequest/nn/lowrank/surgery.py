"""Layers wrapped and unwrapped: low-rank updates added to a network, merged, and a merge undone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor, nn

from bequest.nn.lowrank.attention import PROJECTION, OpenAttention, can_open, close_attention, open_attention
from bequest.nn.lowrank.layers import LowRankConv2d, LowRankEmbedding, LowRankLinear
from bequest.nn.lowrank.targets import is_convolution, is_embedding, is_linear

LowRank = LowRankLinear | LowRankConv2d | LowRankEmbedding


@dataclass(frozen=True)
class Merge:
    """A merge that can be undone to the bit: it holds what it put away, so drop it to free that memory.

    Attributes:
        body: The merged network.
        layers: The low-rank layers by name.
        weights: Their frozen weights as they were.
    """

    body: nn.Module
    layers: dict[str, LowRank]
    weights: dict[str, Tensor]

    def undo(self) -> None:
        """Put every low-rank layer back, over the weight that it was trained over."""
        for name, layer in self.layers.items():
            plain = _layer(self.body, name)
            layer.base.weight = self.weights[name]  # pyright: ignore[reportArgumentType]
            _replace(self.body, plain, layer)


def add_low_rank(
    body: nn.Module,
    names: Iterable[str],
    rank: int,
    alpha: float,
    dropout: float = 0.0,
    *,
    magnitude: bool = False,
) -> None:
    """Wrap the named layers in place; the body computes the same as before, since a factor is zero.

    Args:
        body: A network without its head.
        names: Of layers, as `targets` gives them.
        rank: Of each update.
        alpha: The updates are scaled by α / rank.
        dropout: On the updates' inputs.
        magnitude: Train each output's magnitude apart from its direction (DoRA).

    Raises:
        TypeError: A layer cannot carry an update.
    """
    for name in names:
        layer = _layer(body, name)
        if is_linear(layer):
            wrapped = LowRankLinear(layer, rank, alpha, dropout, magnitude=magnitude)
        elif isinstance(layer, nn.Conv2d) and is_convolution(layer):
            wrapped = LowRankConv2d(layer, rank, alpha, dropout, magnitude=magnitude)
        elif isinstance(layer, nn.Embedding) and is_embedding(layer):
            wrapped = LowRankEmbedding(layer, rank, alpha, dropout, magnitude=magnitude)
        else:
            raise TypeError(
                f"{name} is a {type(layer).__name__}; a low-rank update needs a Linear, a Conv2d or an Embedding"
            )
        _replace(body, layer, wrapped)


def low_rank_layers(body: nn.Module) -> dict[str, LowRank]:
    """Every low-rank layer of a network by its name."""
    return {name: module for name, module in body.named_modules() if isinstance(module, LowRank)}


def merge_low_rank(body: nn.Module) -> Merge:
    """Replace every low-rank layer by its plain layer with the update added, in place; what is returned undoes it."""
    layers = low_rank_layers(body)
    merge = Merge(body, layers, {name: layer.base.get_parameter("weight") for name, layer in layers.items()})
    for layer in layers.values():
        _replace(body, layer, layer.merged())
    for module in body.modules():
        if isinstance(module, OpenAttention):
            close_attention(module)
    return merge


def _layer(body: nn.Module, name: str) -> nn.Module:
    """The layer of that name, the fused projection of an attention among them."""
    owner, _, last = name.rpartition(".")
    attention = body.get_submodule(owner)
    if last == PROJECTION and can_open(attention):
        open_attention(attention)
    return body.get_submodule(name)


def _replace(body: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Wherever the body has it: networks may share one layer between several places."""
    places = [name for name, module in body.named_modules(remove_duplicate=False) if module is old]
    for name in places:
        body.set_submodule(name, new)
