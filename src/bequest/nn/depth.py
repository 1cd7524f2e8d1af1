"""A network's layers in order of depth, and what follows from it: freezing, and rates by depth."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor, nn

from bequest.core.errors import MethodError, near, nearest
from bequest.core.plan import Group, Recipe
from bequest.nn.network import Network, batch_norms
from bequest.nn.trace import first_call, trace

_LISTS = (nn.Sequential, nn.ModuleList)


@dataclass(frozen=True)
class Layer:
    """One step of depth: a block of a transformer or a residual network, an embedding, a stem.

    Attributes:
        name: The module's name in the body.
        parameters: Full names of its parameters in the body, of normalisation that follows it, and in the first layer
            of those that belong to no layer (class token, position embedding).
    """

    name: str
    parameters: tuple[str, ...]


def layers(body: nn.Module, inputs: tuple[Tensor, ...] | None = None) -> tuple[Layer, ...]:
    """The body's layers, first to last; every parameter is in exactly one.

    Blocks are found by structure: the walk goes down through containers (`Sequential`, `ModuleList`, children with
    one stem and a number) and through modules that hold a list of like blocks, and stops at the blocks themselves.

    Args:
        body: The network without its head.
        inputs: A batch; the layers are then in the order in which a forward pass calls them, and what it never calls
            (tables that are read without a call) comes first. None for the order of registration, embedding tables
            first.
    """
    found = [(name, module) for name, module in _walk("", body) if _has_parameters(module)]
    if inputs is None:
        found.sort(key=lambda entry: not isinstance(entry[1], nn.Embedding))
    else:
        calls = trace(body, inputs)
        found.sort(key=lambda entry: first_call(calls, entry[0]))
    owners = _owners(found)
    first = next(iter(owners.values()), "")
    owned: dict[str, list[str]] = {first: [], **{owner: [] for owner in owners.values()}}
    for parameter, _ in body.named_parameters():
        name = next((n for n in owners if parameter.startswith(n + ".")), None)
        owned[first if name is None else owners[name]].append(parameter)
    return tuple(Layer(name, tuple(names)) for name, names in owned.items() if names)


def from_depth(body: nn.Module | Sequence[Layer], depth: float | str) -> tuple[Layer, ...]:
    """The layers from a depth up.

    Args:
        body: The network without its head, or its layers.
        depth: The fraction of the layers, counted from the input, that is left out (0 to 1), or the name of
            the first layer to keep; the end of a name is enough if no other ends so.

    Raises:
        MethodError: No layer, or more than one, has that name, or the fraction is out of range.
    """
    found = layers(body) if isinstance(body, nn.Module) else tuple(body)
    names = [layer.name for layer in found]
    fraction = _number(depth)
    if fraction is not None and 0 <= fraction <= 1:
        return found[round(fraction * len(found)) :]
    if fraction is not None and str(depth) not in names:  # the members of a Sequential are called by numbers
        raise MethodError(f"The depth is {fraction}, expected a fraction from 0 to 1, or a layer's name.")
    try:
        return found[names.index(find_name(str(depth), names)) :]
    except KeyError as error:
        raise MethodError(f"{error.args[0]} `bequest ls layers SOURCE` lists all.") from None


def _number(text: float | str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def bundles(found: Sequence[Layer], num_bundles: int) -> tuple[Layer, ...]:
    """The layers in that many runs of nearly equal length, first to last, each as one layer; none is empty."""
    count = min(num_bundles, len(found))
    ends = [round(i * len(found) / count) for i in range(count + 1)] if count else []
    runs = [found[a:b] for a, b in pairwise(ends)]
    return tuple(Layer(run[0].name, tuple(name for layer in run for name in layer.parameters)) for run in runs)


def find_name(name: str, names: Sequence[str]) -> str:
    """The full name that is given whole or by its end, from a dot on.

    Raises:
        KeyError: None or several fit; the text says which.
    """
    if name in names:
        return name
    fitting = [known for known in names if known.endswith("." + name)]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise KeyError(f"{name!r} fits {len(fitting)} layers: {', '.join(fitting[:4])}. Write one in full.")
    ends = Counter(end for known in names for end in _ends(known))
    alike = near(name, [end for end, times in ends.items() if times == 1])
    told = f"Did you mean {' or '.join(map(repr, alike))}?" if alike else nearest(name, names)
    raise KeyError(f"There is no layer {name!r}. {told}")


def _ends(name: str) -> list[str]:
    """The name, and what follows each of its dots."""
    parts = name.split(".")
    return [".".join(parts[i:]) for i in range(len(parts))]


def groups_by_depth(network: Network, trained: tuple[Layer, ...], recipe: Recipe) -> tuple[Group, ...]:
    """Parameter groups for some of the body's layers and the head.

    The rate falls by the recipe's `layer_decay` from each layer to the one below it. Matrices decay; vectors (biases,
    normalisation) do not. BatchNorm is left out where the recipe freezes it.
    """
    rate, head_rate, decay = (
        recipe.learning_rate or 0,
        recipe.head_learning_rate or 0,
        recipe.weight_decay or 0,
    )
    frozen = set[str]()
    if recipe.batch_norm == "frozen":
        norms = {path: network.body.get_submodule(path) for path in batch_norms(network.body)}
        frozen = {f"{path}.{name}".lstrip(".") for path, norm in norms.items() for name, _ in norm.named_parameters()}
    groups: list[Group] = []
    shapes = {name: p.ndim for name, p in network.named_parameters()}
    for distance, layer in enumerate(reversed(trained)):
        names = tuple(f"body.{name}" for name in layer.parameters if name not in frozen)
        groups = _split_decay(names, shapes, rate * (recipe.layer_decay or 1) ** distance, decay) + groups
    head = tuple(name for name in shapes if name.startswith("head."))
    return tuple(groups + _split_decay(head, shapes, head_rate, decay))


def _split_decay(names: tuple[str, ...], shapes: dict[str, int], rate: float, decay: float) -> list[Group]:
    matrices = tuple(n for n in names if shapes[n] > 1)
    vectors = tuple(n for n in names if shapes[n] <= 1)
    return [Group(n, rate, d) for n, d in ((matrices, decay), (vectors, 0.0)) if n]


def _walk(prefix: str, module: nn.Module) -> list[tuple[str, nn.Module]]:
    children = [(f"{prefix}.{n}".lstrip("."), m) for n, m in module.named_children()]
    # A wrapper is passed through: depth begins where there is a choice.
    alone = sum(_has_parameters(child) for _, child in children) == 1 and not prefix.count(".")
    found: list[tuple[str, nn.Module]] = []
    for path, child in children:
        passed = _is_passage(child) or (alone and _num_matrices(child) > 1)
        found += _walk(path, child) if passed else [(path, child)]
    return found


def _is_passage(module: nn.Module) -> bool:
    """Whether the module's children are steps of depth, rather than the module itself."""
    if type(module) in _LISTS and (
        any(map(_is_block, module.children())) or sum(map(bool, map(_num_matrices, module.children()))) > 1
    ):
        return True
    return any(_holds_blocks(m) for m in module.modules())


def _holds_blocks(module: nn.Module) -> bool:
    """Whether the module has two or more blocks of one class in a list, or named by one stem and a number."""
    listed = isinstance(module, (nn.Sequential, nn.ModuleList))
    kinds = [
        (type(child), None if listed else re.sub(r"\d+$", "", name))
        for name, child in module.named_children()
        if (listed or name[-1].isdigit()) and _is_block(child)
    ]
    return len(kinds) > len(set(kinds))


def _is_block(module: nn.Module) -> bool:
    """Whether the module does more than one matrix product or convolution, and is no plain list."""
    return type(module) not in _LISTS and _num_matrices(module) > 1


def _num_matrices(module: nn.Module) -> int:
    return sum(parameter.ndim > 1 and not _is_gain(parameter) for parameter in module.parameters())


def _is_gain(parameter: Tensor) -> bool:
    """Whether it is a factor a channel in a kernel's shape (channels, 1, 1, 1), as NFNet's convolutions have."""
    return parameter.ndim > 3 and parameter.numel() == parameter.shape[0]


def _has_parameters(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None


def _owners(found: list[tuple[str, nn.Module]]) -> dict[str, str]:
    """From each module's name to the layer that it belongs to: normalisation belongs to what it follows."""
    owners: dict[str, str] = {}
    owner = next((name for name, module in found if _num_matrices(module)), "")
    for name, module in found:
        owner = name if _num_matrices(module) else owner or name
        owners[name] = owner
    return owners
