"""Taking a network's last Linear off."""

from __future__ import annotations

from torch import nn

from bequest.core.errors import SourceError, nearest
from bequest.nn.depth import find_name
from bequest.nn.network import Network, Origin


def split(module: nn.Module, head: str) -> Network:
    """Body and head: the named Linear is taken off, in place; an empty name takes nothing.

    Raises:
        SourceError: There is no such layer, or it is no Linear.
    """
    if not head:
        return Network(module, nn.Identity())
    name, taken = named_head(module, head)
    module.set_submodule(name, nn.Identity())
    return Network(module, taken, Origin(head=name))


def named_head(module: nn.Module, head: str) -> tuple[str, nn.Linear]:
    """Full name and module of a Linear.

    Args:
        module: The network.
        head: Its name, whole or its end.

    Raises:
        SourceError: There is no such layer, or it is no Linear.
    """
    layers = dict(module.named_modules())
    linear = [name for name, layer in layers.items() if isinstance(layer, nn.Linear) and name]
    try:
        name = find_name(head, [name for name in layers if name])
    except KeyError:
        told = nearest(head, linear[-20:])
        raise SourceError(f"{type(module).__name__} has no layer {head!r}. {told}") from None
    found = layers[name]
    if not isinstance(found, nn.Linear):
        raise SourceError(
            f"The head {head!r} is a {type(found).__name__}; expected a Linear. Name another layer: "
            f"{', '.join(linear[-3:]) or 'there is none'}."
        )
    return name, found
