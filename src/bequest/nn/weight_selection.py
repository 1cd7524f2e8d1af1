"""Weight selection: a smaller network starts from parts of a larger one of its family.

Xu et al. 2024, arXiv:2311.18823. Layers are matched by their names, so that each stage keeps the larger network's first
ones. Of a dimension of T units, s are kept:

    uniform   round(i (T − 1) / (s − 1)), i = 0 … s − 1
    first     0 … s − 1
    random    s drawn units, in their order

Which ones depends on T and s alone, so that all layers keep the same units (*consistent*).

Deviations:
    A dimension that is made of parts is selected part by part: q, k and v where they are fused, and then heads and the
    units within a head, so that a head that keeps its width is kept whole; groups of a convolution and the channels
    within a group; channels and places where a map was flattened.

    The authors' code keeps every (T / s)-th unit where s divides T. Here the rule above holds for every T and s.

    Dimensions that count places (a kernel's taps, positions, a vocabulary) must be equal.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from bequest.core.errors import SourceError

Selection = Literal["uniform", "first", "random", "inconsistent"]

_HEAD_WIDTHS = ("head_dim", "attention_head_size", "head_size", "key_value_proj_dim")
_HEAD_COUNTS = ("num_heads", "num_attention_heads", "n_heads")
_OUTPUTS = ("proj", "out_proj", "o_proj", "out_lin", "c_proj", "dense", "o")
"""What attentions call the layer that reads all heads."""
_CONVOLUTION = nn.modules.conv._ConvNd  # pyright: ignore[reportPrivateUsage]
_MOST_TOLD = 3

Pair = tuple[tuple[int, ...], tuple[int, ...]]
"""What a dimension is made of in the larger network and in the smaller one."""


@dataclass(frozen=True)
class Axis:
    """What a dimension of a tensor is made of.

    Attributes:
        sizes: Parts within parts, outermost first: (3, heads, units of a head) where q, k and v are fused; one number
            for most.
        places: Whether its entries are places (of a kernel, of a sequence, in a vocabulary) rather than units.
    """

    sizes: tuple[int, ...]
    places: bool = False

    def __str__(self) -> str:
        return " × ".join(map(str, self.sizes))


Layout = dict[str, tuple[Axis, ...]]


def select_weights(larger: nn.Module, smaller: nn.Module, selection: Selection = "uniform", seed: int = 0) -> None:
    """Overwrite every weight of the smaller network, BatchNorm's statistics too, with some of the larger one's.

    Args:
        larger: Left as it is.
        smaller: Of the same family: each of its tensors has a namesake of no less size in the larger one. Buffers of
            whole numbers (indices) stay as they are built.
        selection: Which units are kept. `inconsistent` is `random` with units of its own for every tensor, which shows
            what consistency is worth.
        seed: For `random` and `inconsistent`.

    Raises:
        SourceError: The two are not of one family; the text names the tensors.
    """
    indices = selected_indices(larger, smaller, selection, seed)
    there, here = larger.state_dict(), smaller.state_dict()
    with torch.no_grad():
        for name, chosen in indices.items():
            # A convolution of single places is as a Linear, and in some families a member has one for the other.
            tensor = there[name].flatten(len(chosen) - 1) if chosen else there[name]
            for dim, index in enumerate(chosen):
                tensor = tensor.index_select(dim, index.to(tensor.device))
            here[name].copy_(tensor.reshape(here[name].shape))


def selected_indices(
    larger: nn.Module, smaller: nn.Module, selection: Selection = "uniform", seed: int = 0
) -> dict[str, tuple[Tensor, ...]]:
    """For each tensor of the smaller network the indices that it keeps of each dimension of its namesake.

    Args:
        larger: As for `select_weights`.
        smaller: As for `select_weights`.
        selection: As for `select_weights`.
        seed: As for `select_weights`.

    Raises:
        SourceError: As for `select_weights`.
    """
    there, here = layout(larger), layout(smaller)
    faults = sorted([*_other_tensors(there, here), *_other_sizes(there, here)])
    if faults:
        more = f"; and {len(faults) - _MOST_TOLD:,} more" if len(faults) > _MOST_TOLD else ""
        raise SourceError(
            f"{type(smaller).__name__} cannot start from weights of {type(larger).__name__}: "
            f"{'; '.join(faults[:_MOST_TOLD])}{more}. Choose a larger network of the same family."
        )
    groups = _groups(larger, smaller)

    def chosen(name: str, dim: int) -> Tensor:
        of, kept = there[name][dim].sizes, here[name][dim].sizes
        of, kept = groups.get((of, kept), (of, kept))
        salt = f"{name} {dim}" if selection == "inconsistent" else ""
        index = torch.zeros(1, dtype=torch.long)
        for part, pair in enumerate(zip(of, kept, strict=True)):
            picked = _pick(*pair, selection, f"{seed} {pair} {salt and f'{salt} {part}'}")
            index = (index[:, None] * pair[0] + picked).flatten()
        return index

    return {name: tuple(chosen(name, dim) for dim in range(len(axes))) for name, axes in here.items()}


def layout(network: nn.Module) -> Layout:
    """What the dimensions of every weight are made of, by the weight's name.

    A kernel of one place has two dimensions, as a Linear's weight. Buffers of whole numbers are left out.
    """
    parts = {**_flattened(network), **_attention(network)}
    found: Layout = {}
    for path, module in network.named_modules():
        for own, tensor in _weights(module):
            name = f"{path}.{own}".lstrip(".")
            axes = (
                Axis(parts.get((name, dim), (size,)), _counts_places(module, own, dim, tensor.ndim))
                for dim, size in enumerate(tensor.shape)
            )
            pointwise = isinstance(module, _CONVOLUTION) and tensor.shape[2:].numel() == 1
            found[name] = tuple(axes)[:2] if pointwise else tuple(axes)
    return found


def _weights(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and stored buffers of the module itself, without indices."""
    yield from module.named_parameters(recurse=False)
    for name, buffer in module.named_buffers(recurse=False):
        stored = name not in module._non_persistent_buffers_set  # pyright: ignore[reportPrivateUsage]
        if stored and (buffer.is_floating_point() or buffer.ndim == 0):
            yield name, buffer


def _counts_places(module: nn.Module, name: str, dim: int, num_dims: int) -> bool:
    if isinstance(module, _CONVOLUTION):
        return name == "weight" and dim >= 2
    if isinstance(module, nn.Embedding):
        return dim == 0
    return "pos" in name and dim < num_dims - 1


def _is_projection(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear | nn.Conv2d) or _is_transposed(module)


def _is_transposed(module: nn.Module) -> bool:
    # GPT-2's layer keeps its weight as (in, out).
    return type(module).__name__ == "Conv1D"


def _attention(network: nn.Module) -> dict[tuple[str, int], tuple[int, ...]]:
    """Heads, by weight and dimension."""
    found: dict[tuple[str, int], tuple[int, ...]] = {}
    for path, module in network.named_modules():
        output = _output(network, path, module)
        count, width = _number(module, _HEAD_COUNTS), _number(module, _HEAD_WIDTHS)
        if output is None or not (count or width):
            continue
        dim_in = 0 if _is_transposed(network.get_submodule(output)) else 1
        inner = network.get_parameter(f"{output}.weight").shape[dim_in]
        width = width or inner // count
        if not width or inner % width:
            continue
        found[f"{output}.weight", dim_in] = (inner // width, width)
        for weight, dim in _inputs(path, module):
            size = network.get_parameter(weight).shape[dim]
            fused, heads = (size // inner, inner // width) if size % inner == 0 else (1, size // width)
            if size % width == 0:
                # GPT-NeoX keeps q, k and v of a head together, all others all heads of q together.
                parts = (heads, fused) if "query_key_value" in weight else (fused, heads)
                found[weight, dim] = (*parts, width) if fused > 1 else (heads, width)
    return found


def _output(network: nn.Module, path: str, attention: nn.Module) -> str | None:
    """The layer that reads all heads: the attention's own, or, in models after BERT, its neighbour."""
    if not any(True for _ in _inputs(path, attention)):
        return None
    candidates = [f"{path}.{name}" for name in _OUTPUTS] + [f"{path.rpartition('.')[0]}.output.dense"]
    modules = dict(network.named_modules())
    names = (name.lstrip(".") for name in candidates)
    return next((name for name in names if name in modules and _is_projection(modules[name])), None)


def _inputs(path: str, attention: nn.Module) -> Iterator[tuple[str, int]]:
    """Weights whose outputs are q, k and v, and the dimension that holds these."""
    if isinstance(attention, nn.MultiheadAttention):
        for name, _ in attention.named_parameters(recurse=False):
            if "proj" in name:
                yield f"{path}.{name}".lstrip("."), 0
    for child, layer in attention.named_children():
        if _is_projection(layer) and child not in _OUTPUTS:
            for name, weight in layer.named_parameters(recurse=False):
                yield f"{path}.{child}.{name}".lstrip("."), int(_is_transposed(layer) and weight.ndim > 1)


def _number(module: nn.Module, names: tuple[str, ...]) -> int:
    values = (getattr(module, name, None) for name in names)
    return next((value for value in values if isinstance(value, int)), 0)


def _flattened(network: nn.Module) -> dict[tuple[str, int], tuple[int, ...]]:
    """Channels and places, where a Linear reads a flattened map of the convolution before it."""
    found: dict[tuple[str, int], tuple[int, ...]] = {}
    channels = 0
    for path, module in network.named_modules():
        if isinstance(module, _CONVOLUTION):
            channels = module.out_channels
        elif isinstance(module, nn.Linear):
            if channels and module.in_features > channels and module.in_features % channels == 0:
                found[f"{path}.weight", 1] = (channels, module.in_features // channels)
            channels = 0
    return found


def _groups(larger: nn.Module, smaller: nn.Module) -> dict[Pair, Pair]:
    """Grouped convolutions' channels as groups and channels within one, for all dimensions of these two sizes."""
    found: dict[Pair, Pair] = {}
    modules = dict(larger.named_modules())
    for name, here in smaller.named_modules():
        there = modules.get(name)
        if not (isinstance(here, _CONVOLUTION) and isinstance(there, _CONVOLUTION)):
            continue
        for channels in ("in_channels", "out_channels"):
            of, kept = getattr(there, channels), getattr(here, channels)
            pair = (there.groups, of // there.groups), (here.groups, kept // here.groups)
            if there.groups == here.groups == 1 or pair[0][1] == pair[1][1] == 1:
                continue
            fits = all(t >= s for t, s in zip(*pair, strict=True))
            if not fits or found.setdefault(((of,), (kept,)), pair) != pair:
                raise SourceError(
                    f"The convolution {name} has {there.groups} groups of {pair[0][1]} channels in the larger network, "
                    f"{here.groups} of {pair[1][1]} in the smaller one; expected no more of either, and the same in "
                    f"all layers of {of} channels. Choose a larger network of the same family."
                )
    return found


def _pick(of: int, kept: int, selection: Selection, key: str) -> Tensor:
    """Indices, rising."""
    if selection == "first" or kept == of:
        return torch.arange(kept)
    if selection == "uniform":
        # One rounded division: torch.linspace may end on the other side of a half on another machine.
        return (torch.arange(kept, dtype=torch.float64) * (of - 1) / max(kept - 1, 1)).round().long()
    digest = hashlib.blake2b(key.encode(), digest_size=6).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest, "big"))
    return torch.randperm(of, generator=generator)[:kept].sort().values


def _other_tensors(there: Layout, here: Layout) -> Iterator[str]:
    """Tensors that a layer has in one network alone; layers of the larger one alone are those that are left out."""
    for name in here.keys() - there.keys():
        yield f"{name} is {_shape(here[name])}, but the larger network has no tensor of that name"
    layers = {name.rpartition(".")[0] for name in here}
    for name in there.keys() - here.keys():
        if name.rpartition(".")[0] in layers:
            yield f"{name} is {_shape(there[name])} in the larger network, but the smaller one has none of that name"


def _other_sizes(there: Layout, here: Layout) -> Iterator[str]:
    """Tensors that are not part of their namesake."""
    for name, axes in here.items():
        of = there.get(name)
        if of is None:
            continue
        told = f"{name} is {_shape(axes)}, in the larger network {_shape(of)}; expected"
        if len(of) != len(axes) or any(len(a.sizes) != len(b.sizes) for a, b in zip(of, axes, strict=True)):
            yield f"{told} as many dimensions, made of as many parts"
        elif any(a.places and a.sizes != b.sizes for a, b in zip(of, axes, strict=True)):
            yield f"{told} equal numbers of places (taps of a kernel, positions, words of a vocabulary)"
        elif any(s > t for a, b in zip(of, axes, strict=True) for t, s in zip(a.sizes, b.sizes, strict=True)):
            yield f"{told} no more in any dimension"


def _shape(axes: tuple[Axis, ...]) -> str:
    return f"({', '.join(map(str, axes))})"
