"""nn.MultiheadAttention with its fused projection of queries, keys and values as a layer of its own.

It holds that projection as a bare parameter, `in_proj_weight`, which no layer can be wrapped around. Opened, it reads
the weight of a Linear instead, and so does every fused kernel that is handed `in_proj_weight`.
"""

from __future__ import annotations

from torch import Tensor, nn

PROJECTION = "in_proj"


class OpenAttention(nn.MultiheadAttention):
    """A MultiheadAttention whose `in_proj_weight` is that of its child `in_proj`. Made by `open_attention`."""

    @property
    def in_proj_weight(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        """(3 · width, width)."""
        return self.get_submodule(PROJECTION).weight  # pyright: ignore[reportReturnType]


def can_open(module: nn.Module) -> bool:
    """Whether it is a MultiheadAttention with a fused projection."""
    return type(module) is nn.MultiheadAttention and module.in_proj_weight is not None


def open_attention(attention: nn.Module) -> None:
    """Give an attention the child `in_proj`, in place; it computes the same."""
    weight = attention.get_parameter("in_proj_weight")
    projection = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    projection.weight = weight
    del attention.in_proj_weight
    attention.add_module(PROJECTION, projection)
    attention.__class__ = OpenAttention


def close_attention(attention: nn.Module) -> None:
    """Put the weight of `in_proj`, a plain layer, back where it was."""
    weight = attention.get_submodule(PROJECTION).get_parameter("weight")
    delattr(attention, PROJECTION)
    attention.__class__ = nn.MultiheadAttention
    attention.register_parameter("in_proj_weight", weight)
