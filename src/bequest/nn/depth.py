"""A network's layers in order of depth, and what follows from it: freezing, and rates by depth."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from bequest.core.errors import MethodError, nearest
from bequest.core.plan import Group, Recipe
from bequest.nn.network import Network


@dataclass(frozen=True)
class Layer:
    """One step of depth: a block of a transformer or a residual network, an embedding, a stem.

    Attributes:
        name: The module's name in the body.
        parameters: Full names of its parameters in the body, and of those that precede it and belong to no layer.
    """

    name: str
    parameters: tuple[str, ...]


def layers(body: nn.Module) -> tuple[Layer, ...]:
    """The body's layers, first to last, as modules are registered; every parameter is in exactly one.

    Blocks are found by structure: the walk goes down through containers (`Sequential`, `ModuleList`) and
    through modules that hold a list of like blocks, and stops at the blocks themselves.
    """
    names = [name for name, module in _walk("", body) if next(module.parameters(), None) is not None]
    owned: dict[str, list[str]] = {name: [] for name in names}
    for parameter, _ in body.named_parameters():
        owner = next((n for n in names if parameter == n or parameter.startswith(n + ".")), names[0])
        owned[owner].append(parameter)
    return tuple(Layer(name, tuple(owned[name])) for name in names if owned[name])


def from_depth(body: nn.Module, depth: float | str) -> tuple[Layer, ...]:
    """The layers from a depth up.

    Args:
        body: The network without its head.
        depth: The fraction of the layers, counted from the input, that is left out (0 to 1), or the name of
            the first layer to keep.

    Raises:
        MethodError: No layer has that name, or the fraction is out of range.
    """
    found = layers(body)
    names = [layer.name for layer in found]
    try:
        fraction = float(depth)
    except ValueError:
        if depth not in names:
            raise MethodError(f"There is no layer {depth!r}. {nearest(str(depth), names)}") from None
        return found[names.index(str(depth)) :]
    if not 0 <= fraction <= 1:
        raise MethodError(f"The depth is {fraction}, expected a fraction from 0 to 1, or a layer's name.")
    return found[round(fraction * len(found)) :]


def groups_by_depth(network: Network, trained: tuple[Layer, ...], recipe: Recipe) -> tuple[Group, ...]:
    """Parameter groups for some of the body's layers and the head.

    The rate falls by the recipe's `layer_decay` from each layer to the one below it. Matrices decay; vectors (biases,
    normalisation) do not.
    """
    rate, head_rate, decay = (
        recipe.learning_rate or 0,
        recipe.head_learning_rate or 0,
        recipe.weight_decay or 0,
    )
    groups: list[Group] = []
    shapes = {name: p.ndim for name, p in network.named_parameters()}
    for distance, layer in enumerate(reversed(trained)):
        names = tuple(f"body.{name}" for name in layer.parameters)
        groups = _split_decay(names, shapes, rate * (recipe.layer_decay or 1) ** distance, decay) + groups
    head = tuple(name for name in shapes if name.startswith("head."))
    return tuple(groups + _split_decay(head, shapes, head_rate, decay))


def _split_decay(names: tuple[str, ...], shapes: dict[str, int], rate: float, decay: float) -> list[Group]:
    matrices = tuple(n for n in names if shapes[n] > 1)
    vectors = tuple(n for n in names if shapes[n] <= 1)
    return [Group(n, rate, d) for n, d in ((matrices, decay), (vectors, 0.0)) if n]


def _walk(prefix: str, module: nn.Module) -> list[tuple[str, nn.Module]]:
    found: list[tuple[str, nn.Module]] = []
    for name, child in module.named_children():
        path = f"{prefix}.{name}".lstrip(".")
        found += _walk(path, child) if _holds_layers(child) else [(path, child)]
    return found


def _holds_layers(module: nn.Module) -> bool:
    children = list(module.children())
    if isinstance(module, (nn.Sequential, nn.ModuleList)) and any(map(_is_block, children)):
        return True
    return any(_holds_blocks(m) for m in module.modules())


def _holds_blocks(module: nn.Module) -> bool:
    """Whether the module is a list of two or more blocks of one class."""
    if not isinstance(module, (nn.Sequential, nn.ModuleList)):
        return False
    blocks = [type(child) for child in module.children() if _is_block(child)]
    return len(blocks) > len(set(blocks))


def _is_block(module: nn.Module) -> bool:
    """Whether the module is made of parts, and more than a plain sequence of leaves."""
    parts = list(module.children())
    return any(list(part.children()) for part in parts) or (
        bool(parts) and not isinstance(module, (nn.Sequential, nn.ModuleList))
    )
