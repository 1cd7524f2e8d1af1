"""The network as the library that it is from knows it, with the trained head where the library's own was."""

from __future__ import annotations

import copy

from torch import nn

from bequest.nn.network import Network


def whole(network: Network) -> nn.Module | None:
    """A copy of the network in its original's shape; None where it has another.

    That is where the original has a place for the head and the head is one Linear, and where the body ends as it did
    there: not cut, not read inside, not pooled by us.
    """
    origin = network.origin
    if origin.path or not origin.head or type(network.head) is not nn.Linear:
        return None
    made = copy.deepcopy(network.body.get_submodule(origin.inside))
    made.set_submodule(origin.head, copy.deepcopy(network.head))
    return made.eval()


def parted(original: nn.Module, like: Network) -> Network:
    """A module of `whole`'s shape as body and head again; the module is used up."""
    made = copy.deepcopy(like)
    made.head = original.get_submodule(like.origin.head)
    original.set_submodule(like.origin.head, nn.Identity())
    if like.origin.inside:
        made.body.set_submodule(like.origin.inside, original)
    else:
        made.body = original
    return made


def blank(module: nn.Module) -> nn.Module:
    """A copy with zeros for weights: what it computes after loading comes from the file alone."""
    made = copy.deepcopy(module)
    for tensor in made.state_dict().values():
        tensor.zero_()
    return made.eval()
