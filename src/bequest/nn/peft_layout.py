"""PEFT's names and shapes for low-rank layers: what its two files hold, from a network and back.

A layer's factors are `base_model.model.<path>.lora_A.weight` (rank, in) and `.lora_B.weight` (out, rank); a
convolution's A has the kernel's sides and its B is 1 × 1; an embedding has `lora_embedding_A` (rank, entries) and
`lora_embedding_B` (width, rank) without `.weight`; DoRA's vector is `lora_magnitude_vector`. The path is that in the
user's own network, where the head has its place too: it is whole among the tensors, as `modules_to_save` says.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from bequest.core.errors import SourceError, nearest
from bequest.nn.lowrank import add_low_rank
from bequest.nn.network import Network, Origin

PREFIX = "base_model.model."
_FACTORS = ("lora_A.weight", "lora_B.weight")
_EMBEDDING_FACTORS = ("lora_embedding_A", "lora_embedding_B")
_MAGNITUDE = "lora_magnitude_vector"
_KEPT_INITS = (True, False, None, "gaussian", "eva", "orthogonal")
"""Values of `init_lora_weights` that leave the base's weights as they are."""

_READ = {
    *("peft_type", "r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora", "modules_to_save"),
    *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "init_lora_weights"),
}
_NAMING = ("target_modules", "exclude_modules", "modules_to_save", "layers_pattern")
_HARMLESS = {
    *("auto_mapping", "base_model_name_or_path", "revision", "task_type", "peft_version", "inference_mode", "bias"),
    *("fan_in_fan_out", "lora_dropout", "megatron_core", "loftq_config", "eva_config", "qalora_group_size"),
    *("runtime_config", "ensure_weight_tying", "corda_config", "lora_ga_config", "velora_config"),
}
"""Fields that say nothing of what the adapted network computes, beyond what the tensors say themselves."""


@dataclass(frozen=True)
class Adapter:
    """What PEFT's two files hold.

    Attributes:
        config: Of `adapter_config.json`.
        tensors: Of `adapter_model.safetensors`, by key.
        place: Where the files lie, for messages.
    """

    config: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    place: str = "the adapter"

    @property
    def config_file(self) -> str:
        """The first file's name, for messages."""
        return f"{self.place}/adapter_config.json"

    @property
    def tensors_file(self) -> str:
        """The second file's name, for messages."""
        return f"{self.place}/adapter_model.safetensors"

    @property
    def has_classifier(self) -> bool:
        """Whether the head of a transformers classifier is among its tensors."""
        heads = (f"{PREFIX}classifier.", f"{PREFIX}score.")
        return any(key.startswith(heads) and "lora_" not in key for key in self.tensors)


def adapted_layers(body: nn.Module) -> dict[str, Any]:
    """The layers that carry a low-rank update by name: whatever has the parts of one, however it is trained."""
    found = {name: module for name, module in body.named_modules() if hasattr(module, "base")}
    return {
        name: module for name, module in found.items() if all(hasattr(module, part) for part in ("A", "B", "scale"))
    }


def with_own_factors(body: nn.Module) -> nn.Module:
    """The body whose low-rank layers hold their factors themselves.

    A module around a body may make all factors anew in each forward pass (NOLA's `factors()`): then its layers' own are
    not what it computes with. Here they get them, in place, and the body is taken out of that module.
    """
    factors = getattr(body, "factors", None)
    if factors is None:
        return body
    inner = body.get_submodule("body")
    with torch.no_grad():
        for name, values in factors().items():
            inner.get_parameter(name).copy_(values)
    return inner


def to_adapter(network: Network, pretrained: Network, base: str | None = None) -> tuple[Adapter, bool]:
    """A network's low-rank updates, and its head where PEFT can put it into the original.

    Where the frozen weights are not the pretrained ones any more (PiSSA's residual, ReLoRA's merges), what was added to
    them is part of the update: its factors then come from a singular value decomposition.

    Args:
        network: With low-rank layers in its body.
        pretrained: The source's network; its head, a Linear if the original has one, tells whether there is a bias.
        base: Name of the original, for `base_model_name_or_path`.

    Returns:
        The adapter, and whether the head is in it.

    Raises:
        ValueError: There is no low-rank layer, or one of a kind that PEFT adapts in another way.
    """
    layers = adapted_layers(network.body)
    if not layers:
        raise ValueError("the network has no low-rank layers")
    _check_layers(network.body, layers)
    original = {name: network.origin.original(name) for name in layers}
    factors = {name: _factors(layer, pretrained.body.get_submodule(name)) for name, layer in layers.items()}
    tensors = {f"{PREFIX}{original[n]}.{key}": t for n, (own, _) in factors.items() for key, t in own.items()}
    has_magnitude = any(_magnitude(layer) is not None for layer in layers.values())
    if has_magnitude:
        tensors |= {f"{PREFIX}{original[n]}.{_MAGNITUDE}": _norms(layer) for n, layer in layers.items()}
    ranks = {original[n]: next(iter(own.values())).shape[0] for n, (own, _) in factors.items()}
    alphas = {original[n]: _number(scale * ranks[original[n]]) for n, (_, scale) in factors.items()}
    rank, alpha = (Counter(values.values()).most_common(1)[0][0] for values in (ranks, alphas))
    head = _head(network, pretrained, original)
    dropout = getattr(next(iter(layers.values())), "dropout", 0.0)
    config = {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": base,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {_exactly(n): r for n, r in ranks.items() if r != rank},
        "alpha_pattern": {_exactly(n): a for n, a in alphas.items() if a != alpha},
        "lora_dropout": float(getattr(dropout, "p", dropout)),
        # A list of names would also take every layer whose name ends with one of them.
        "target_modules": "|".join(re.escape(name) for name in original.values()),
        "fan_in_fan_out": any(type(layer.base).__name__ == "Conv1D" for layer in layers.values()),
        "bias": "none",
        "use_rslora": False,
        "use_dora": has_magnitude,
        "init_lora_weights": True,
        "modules_to_save": [network.origin.head] if head else None,
    }
    plain = {key: t.detach().cpu().contiguous().clone() for key, t in {**tensors, **head}.items()}
    return Adapter(config, plain), bool(head)


def merge_first(body: nn.Module) -> list[str]:
    """Names of low-rank convolutions that PEFT computes otherwise than these do unless it merges them first.

    Beside the layer it runs a plain convolution that pads with zeros, whatever the layer itself does with its input.
    """
    return [
        name
        for name, layer in adapted_layers(body).items()
        if isinstance(layer.base, nn.Conv2d)
        and (type(layer.base).forward is not nn.Conv2d.forward or layer.base.padding_mode != "zeros")
    ]


def apply(adapter: Adapter, network: Network) -> None:
    """Wrap a network's layers, in place, so that they carry an adapter's updates, and put in whatever else it holds.

    Raises:
        SourceError: The adapter does something else than what low-rank layers do, or does not fit the network.
    """
    _check_config(adapter)
    names = {key.removeprefix(PREFIX): key for key in adapter.tensors}
    updates, plain = _sorted(adapter, names)
    origin = network.origin
    network.origin = _seen_from(origin, updates)
    try:
        own = {name: _own_layer(adapter, network, name) for name in updates}
        _check_targets(adapter, network, updates)
        for name, factors in updates.items():
            if own[name]:
                _wrap(adapter, network.body, own[name], name, factors)
        _put(adapter, network, plain)
    finally:
        network.origin = origin


def _check_layers(body: nn.Module, layers: Mapping[str, Any]) -> None:
    for name, layer in layers.items():
        owner = body.get_submodule(name.rpartition(".")[0])
        if isinstance(owner, nn.MultiheadAttention):
            raise ValueError(f"{name} is a projection of a MultiheadAttention, which PEFT adapts as a whole")
        if isinstance(layer.base, nn.Conv2d) and layer.base.groups > 1:
            raise ValueError(f"{name} is a grouped convolution, whose groups PEFT does not mix")


def _factors(layer: Any, pretrained: nn.Module) -> tuple[dict[str, Tensor], float]:
    """A layer's two factors under PEFT's names, and their scale."""
    A, B, scale = layer.A.detach(), layer.B.detach(), float(layer.scale)
    if not torch.equal(layer.base.weight, pretrained.weight):  # pyright: ignore[reportArgumentType]
        A, B, scale = _refactored(layer, pretrained)
    return dict(zip(_names(layer.base), (A, B), strict=True)), scale


def _refactored(layer: Any, pretrained: nn.Module) -> tuple[Tensor, Tensor, float]:
    """Factors of all that the layer adds to the pretrained weight, as many as it takes."""
    before = _matrix(pretrained, pretrained.weight).double()  # pyright: ignore[reportArgumentType]
    update = layer.scale * layer.B.flatten(1).double() @ layer.A.flatten(1).double()
    added = _matrix(layer.base, layer.base.weight).double() - before + update
    U, S, V = torch.linalg.svd(added, full_matrices=False)
    # What is below the rounding of the weights that were written to is not an update.
    noise = torch.finfo(layer.base.weight.dtype).eps * max(before.shape) * torch.linalg.matrix_norm(before, 2)
    rank = max(1, int((noise < S).sum()))
    A, B = V[:rank], U[:, :rank] * S[:rank]
    shape_A, shape_B = (layer.A.shape[1:], layer.B.shape[2:])
    return A.reshape(rank, *shape_A).to(layer.A), B.reshape(-1, rank, *shape_B).to(layer.B), 1.0


def _matrix(layer: nn.Module, weight: Tensor) -> Tensor:
    """A layer's weight as (out, in)."""
    turned = isinstance(layer, nn.Embedding) or type(layer).__name__ == "Conv1D"
    return (weight.T if turned else weight.flatten(1)).detach()


def _names(base: nn.Module) -> tuple[str, str]:
    return _EMBEDDING_FACTORS if isinstance(base, nn.Embedding) else _FACTORS


def _magnitude(layer: Any) -> Tensor | None:
    return getattr(layer, "magnitude", None)


def _norms(layer: Any) -> Tensor:
    """DoRA's vector in PEFT's shape; of a layer without one, the norms that change nothing."""
    magnitude = _magnitude(layer)
    if magnitude is None:
        update = layer.scale * layer.B.flatten(1) @ layer.A.flatten(1)
        magnitude = (_matrix(layer.base, layer.base.weight) + update).norm(dim=1)
    return magnitude.reshape(1, -1, 1, 1) if isinstance(layer.base, nn.Conv2d) else magnitude.flatten()


def _head(network: Network, pretrained: Network, original: Mapping[str, str]) -> dict[str, Tensor]:
    """The head's tensors, where PEFT can put them in place of the original's; else none.

    PEFT takes every module whose name ends like the head's for one to be saved: those are along, as they are.
    """
    head, own, name = network.head, pretrained.head, network.origin.head
    if not name or not isinstance(head, nn.Linear) or not isinstance(own, nn.Linear):
        return {}
    if any(other.endswith(name) or f".{name}." in f".{other}." for other in original.values()):
        return {}
    if own.bias is None and head.bias is not None and head.bias.any():
        return {}
    tensors = {f"{PREFIX}{name}.weight": head.weight}
    if own.bias is not None:
        tensors[f"{PREFIX}{name}.bias"] = torch.zeros(head.out_features) if head.bias is None else head.bias
    for other, module in network.body.named_modules():
        path = network.origin.original(other)
        if path.endswith(name) and path != name:
            tensors |= {f"{PREFIX}{path}.{part}": t for part, t in module.state_dict().items()}
    return tensors


def _exactly(name: str) -> str:
    """A pattern of PEFT's that fits this name alone, not every name that ends with it."""
    return f"^{re.escape(name)}"


def _number(value: float) -> int | float:
    return int(value) if value == int(value) else value


def _check_config(adapter: Adapter) -> None:
    config = adapter.config
    if config.get("peft_type") != "LORA":
        raise SourceError(
            f"{adapter.config_file}: peft_type is {config.get('peft_type')!r}, expected 'LORA', the only one that is "
            "low-rank layers. Merge it with PEFT, model.merge_and_unload().save_pretrained(FOLDER), and give that "
            "folder: hf:FOLDER."
        )
    init = config.get("init_lora_weights")
    if not isinstance(init, (bool, str, type(None))) or init not in _KEPT_INITS:
        raise SourceError(
            f"{adapter.config_file}: init_lora_weights is {init!r}, which changed the base's own weights before "
            f"training; expected one of {', '.join(map(repr, _KEPT_INITS))}. Let PEFT convert the adapter: "
            "model.save_pretrained(FOLDER, path_initial_model_for_weight_conversion=…)."
        )
    others = sorted(name for name, value in config.items() if value and name not in _READ | _HARMLESS)
    if others:
        told = ", ".join(f"{name} is {config[name]!r}" for name in others)
        raise SourceError(
            f"{adapter.config_file}: {told}; expected plain LoRA, without these. Merge the adapter with PEFT, "
            "model.merge_and_unload().save_pretrained(FOLDER), and give that folder: hf:FOLDER."
        )
    for name in _NAMING:
        if not _is_of(config.get(name), str):
            raise SourceError(
                f"{adapter.config_file}: {name} is {config[name]!r}, expected a name, or a list of names."
            )
    if not _is_of(config.get("layers_to_transform"), int):
        told = f"layers_to_transform is {config['layers_to_transform']!r}"
        raise SourceError(f"{adapter.config_file}: {told}, expected a layer's number, or a list of them.")
    for name in ("rank_pattern", "alpha_pattern"):
        if not isinstance(config.get(name) or {}, Mapping):
            raise SourceError(f"{adapter.config_file}: {name} is {config[name]!r}, expected names with a number each.")


def _is_of(value: Any, kind: type) -> bool:
    """Whether a value is of a kind, a list of it, or nothing."""
    return value is None or all(isinstance(item, kind) for item in (value if isinstance(value, list) else [value]))


def _sorted(adapter: Adapter, names: Mapping[str, str]) -> tuple[dict[str, dict[str, Tensor]], dict[str, Tensor]]:
    """The updates by layer and factor, and all other tensors, under their names in the original."""
    updates: dict[str, dict[str, Tensor]] = {}
    plain: dict[str, Tensor] = {}
    for name, key in names.items():
        tensor = adapter.tensors[key]
        if not key.startswith(PREFIX):
            raise SourceError(f"{adapter.tensors_file}: the key {key!r} does not begin with {PREFIX!r}, as PEFT's do.")
        if not tensor.is_floating_point() or not torch.isfinite(tensor).all():
            raise SourceError(f"{adapter.tensors_file}: {key} holds values that are no finite numbers.")
        found = re.fullmatch(r"(.+)\.(lora_(?:[AB]\.weight|embedding_[AB]|magnitude_vector(?:\.weight)?))", name)
        if found:
            updates.setdefault(found[1], {})[found[2].replace(f"{_MAGNITUDE}.weight", _MAGNITUDE)] = tensor
        else:
            plain[name.replace(".base_layer.", ".")] = tensor
    if not updates:
        raise SourceError(f"{adapter.tensors_file}: no key ends with lora_A.weight; expected a LoRA adapter's tensors.")
    return updates, plain


def _seen_from(origin: Origin, names: Iterable[str]) -> Origin:
    """The origin as the adapter's original has it: under an alias, where all names are there."""
    alias = origin.alias
    if not alias or not all(name.startswith(alias + ".") for name in names if not _is_left_off(origin, name)):
        return origin
    left_off = tuple(f"{alias}.{part}" for part in origin.left_off)
    return replace(origin, path=alias, left_off=(*origin.left_off, *left_off))


def _own_layer(adapter: Adapter, network: Network, name: str) -> str:
    """The body's name of a layer that the adapter has updates for; empty where the body does without it."""
    if _is_left_off(network.origin, name):
        return ""
    own = network.origin.own(name)
    known = {n: m for n, m in network.body.named_modules() if n}
    if own not in known:
        there = [network.origin.original(n) for n, m in known.items() if hasattr(m, "weight")]
        raise SourceError(
            f"{adapter.tensors_file}: there are weights for {name!r}, but the source has no such layer. "
            f"{nearest(name, there)} Choose the source that the adapter was trained on."
        )
    return own


def _is_left_off(origin: Origin, name: str) -> bool:
    return any(f"{name}.".startswith(f"{part}.") for part in origin.left_off)


def _check_targets(adapter: Adapter, network: Network, updates: Mapping[str, Any]) -> None:
    """Every target names a layer of the network, and every layer that it names has its update in the file."""
    modules = {network.origin.original(n): m for n, m in network.body.named_modules() if n}
    targets = adapter.config.get("target_modules")
    if isinstance(targets, list):
        names = [*modules, network.origin.head, *network.origin.left_off, *updates]
        for target in targets:
            if not any(_ends(name, target) for name in names):
                raise SourceError(
                    f"{adapter.config_file}: target_modules has {target!r}, but no layer of the source is called so. "
                    f"{nearest(str(target), {name.rpartition('.')[2] for name in modules})}"
                )
    lacking = [
        name
        for name, module in modules.items()
        if _shapes(module, 1) is not None and name not in updates and _is_target(adapter, name)
    ]
    if lacking:
        raise SourceError(
            f"{adapter.tensors_file}: there are no weights for {lacking[0]!r} ({len(lacking)} layers in all), which "
            "target_modules names; expected lora_A and lora_B of each. Save or copy the adapter again."
        )


def _is_target(adapter: Adapter, name: str) -> bool:
    """Whether the configuration means this layer of the original, by PEFT's own rule."""
    config = adapter.config
    excluded, targets = config.get("exclude_modules"), config.get("target_modules")
    saved = config.get("modules_to_save") or ()
    if any(f".{part}." in f".{name}." for part in saved) or (excluded and _fits(adapter, excluded, name)):
        return False
    if targets in (None, "all-linear") or not _fits(adapter, targets, name):
        return False
    chosen, lists = config.get("layers_to_transform"), config.get("layers_pattern")
    if chosen is None or isinstance(targets, str):
        return True
    between = "|".join(map(re.escape, [lists] if isinstance(lists, str) else lists)) if lists else r"[^.]*"
    index = re.match(rf"(?:^|.*?\.)(?:{between})\.(\d+)\.", name)
    return index is not None and int(index[1]) in ([chosen] if isinstance(chosen, int) else chosen)


def _fits(adapter: Adapter, patterns: Any, name: str) -> bool:
    """As PEFT reads `target_modules`: a pattern for the whole name, or names of which one is its end."""
    if not isinstance(patterns, str):
        return any(_ends(name, pattern) for pattern in patterns)
    try:
        return re.fullmatch(patterns, name) is not None
    except re.error as error:
        raise SourceError(f"{adapter.config_file}: {patterns!r} is no regular expression ({error}).") from None


def _ends(name: str, end: Any) -> bool:
    return f".{name}".endswith(f".{end}")


def _wrap(adapter: Adapter, body: nn.Module, own: str, name: str, factors: Mapping[str, Tensor]) -> None:
    layer = body.get_submodule(own)
    rank, scale = _rank(adapter, name), _scale(adapter, name)
    wanted = _shapes(layer, rank)
    if wanted is None:
        raise SourceError(
            f"{adapter.tensors_file}: there are weights for {name!r}, a {type(layer).__name__}; expected a Linear, a "
            "Conv1D, an ungrouped Conv2d or an Embedding."
        )
    has_magnitude = bool(adapter.config.get("use_dora"))
    if has_magnitude:
        wanted[_MAGNITUDE] = (1, -1, 1, 1) if isinstance(layer, nn.Conv2d) else (-1,)
    for factor, shape in wanted.items():
        if factor not in factors:
            raise SourceError(
                f"{adapter.tensors_file}: {PREFIX}{name}.{factor} is missing; expected it beside "
                f"{', '.join(factors)}. Save or copy the adapter again."
            )
        width = _matrix(layer, layer.weight).shape[0]  # pyright: ignore[reportArgumentType]
        _check_shape(adapter, f"{PREFIX}{name}.{factor}", factors[factor], tuple(width if s < 0 else s for s in shape))
    unknown = sorted(set(factors) - set(wanted))
    if unknown:
        raise SourceError(
            f"{adapter.tensors_file}: {PREFIX}{name}.{unknown[0]} has no place in a {type(layer).__name__} by "
            f"{adapter.config_file}; expected {', '.join(wanted)}."
        )
    add_low_rank(body, (own,), rank, scale * rank, magnitude=has_magnitude)
    made: Any = body.get_submodule(own)
    with torch.no_grad():
        for parameter, factor in zip((made.A, made.B), _names(layer), strict=True):
            parameter.copy_(factors[factor])
        if has_magnitude:
            made.magnitude.copy_(factors[_MAGNITUDE].reshape(made.magnitude.shape))
    made.requires_grad_(False)


def _shapes(layer: Any, rank: int) -> dict[str, tuple[int, ...]] | None:
    """Shapes of PEFT's factors for a layer; None where it can have none."""
    if isinstance(layer, nn.Conv2d) and layer.groups == 1:
        wide, high = layer.in_channels, layer.kernel_size
        return dict(zip(_FACTORS, ((rank, wide, *high), (layer.out_channels, rank, 1, 1)), strict=True))
    if not isinstance(layer, (nn.Linear, nn.Embedding)) and type(layer).__name__ != "Conv1D":
        return None
    width_out, width_in = _matrix(layer, layer.weight).shape
    return dict(zip(_names(layer), ((rank, width_in), (width_out, rank)), strict=True))


def _rank(adapter: Adapter, name: str) -> int:
    rank = _by_pattern(adapter, "rank_pattern", name, "r")
    if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
        raise SourceError(f"{adapter.config_file}: r of {name!r} is {rank!r}, expected a whole number, 1 or more.")
    return rank


def _scale(adapter: Adapter, name: str) -> float:
    alpha, rank = _by_pattern(adapter, "alpha_pattern", name, "lora_alpha"), _rank(adapter, name)
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float)) or not math.isfinite(alpha):
        raise SourceError(f"{adapter.config_file}: lora_alpha of {name!r} is {alpha!r}, expected a number.")
    return alpha / (rank**0.5 if adapter.config.get("use_rslora") else rank)


def _by_pattern(adapter: Adapter, field: str, name: str, default: str) -> Any:
    """As PEFT reads patterns: the first that fits the end of the name counts."""
    patterns: Mapping[str, Any] = adapter.config.get(field) or {}
    for pattern, value in patterns.items():
        try:
            if re.match(rf"(.*\.)?({pattern})$", name):
                return value
        except re.error as error:
            raise SourceError(f"{adapter.config_file}: {field} has {pattern!r}, no expression ({error}).") from None
    return adapter.config.get(default)


def _check_shape(adapter: Adapter, key: str, tensor: Tensor, wanted: tuple[int, ...]) -> None:
    if tuple(tensor.shape) != wanted:
        raise SourceError(
            f"{adapter.tensors_file}: {key} is {tuple(tensor.shape)}, expected {wanted} by the source's layer and r in "
            f"{adapter.config_file}. Choose the source that the adapter was trained on."
        )


def _put(adapter: Adapter, network: Network, plain: Mapping[str, Tensor]) -> None:
    """What the adapter holds whole: the head, and trained parts of the body."""
    head = {name.rpartition(".")[2]: t for name, t in plain.items() if name.rpartition(".")[0] == network.origin.head}
    parameters = dict(network.body.named_parameters()) | dict(network.body.named_buffers())
    for name, tensor in plain.items():
        if (network.origin.head and name.rpartition(".")[0] == network.origin.head) or _is_left_off(
            network.origin, name
        ):
            continue
        own = network.origin.own(name)
        holder, _, part = own.rpartition(".")
        target = parameters.get(own, parameters.get(f"{holder}.base.{part}"))
        if target is None:
            there = [*map(network.origin.original, parameters), f"{network.origin.head}.weight"]
            raise SourceError(
                f"{adapter.tensors_file}: {PREFIX}{name} has no place in the source. {nearest(name, there)} Choose the "
                "source that the adapter was trained on."
            )
        _check_shape(adapter, PREFIX + name, tensor, tuple(target.shape))
        with torch.no_grad():
            target.copy_(tensor)
    if network.origin.head and head:
        network.head = _linear(adapter, network, head)
    elif network.origin.head and network.origin.head in (adapter.config.get("modules_to_save") or ()):
        raise SourceError(
            f"{adapter.tensors_file}: {PREFIX}{network.origin.head}.weight is missing, which modules_to_save names. "
            "Save or copy the adapter again."
        )


def _linear(adapter: Adapter, network: Network, tensors: Mapping[str, Tensor]) -> nn.Linear:
    name, weight, bias = network.origin.head, tensors.get("weight"), tensors.get("bias")
    if weight is None or weight.ndim != 2:
        told = "missing" if weight is None else tuple(weight.shape)
        raise SourceError(f"{adapter.tensors_file}: {PREFIX}{name}.weight is {told}, expected (classes, width).")
    own = network.head
    width = own.in_features if isinstance(own, nn.Linear) else weight.shape[1]
    _check_shape(adapter, f"{PREFIX}{name}.weight", weight, (weight.shape[0], width))
    made = nn.Linear(width, weight.shape[0], bias=bias is not None)
    with torch.no_grad():
        made.weight.copy_(weight)
        if bias is not None:
            _check_shape(adapter, f"{PREFIX}{name}.bias", bias, (weight.shape[0],))
            made.bias.copy_(bias)
    return made.requires_grad_(False)
