"""Any `nn.Module` as a source."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from torch import nn

from bequest.core.errors import SourceError, nearest
from bequest.core.task import Modality
from bequest.nn.head import last_linear
from bequest.nn.network import Network
from bequest.sources.preprocess import FunctionPreprocess, Preprocess
from bequest.sources.source import Source


def from_module(
    module: nn.Module,
    *,
    preprocess: Callable[[Any], Any] | Preprocess | None = None,
    head: str | None = None,
    modality: Modality = "array",
    name: str | None = None,
    untrained: Callable[[], nn.Module] | None = None,
) -> Source:
    """A pretrained network of yours as a source.

    Args:
        module: Takes a batch (batch, …) and returns outputs (batch, classes) or an embedding (batch, width).
            It is copied, never changed.
        preprocess: From a sample to an array or tensor without the batch dimension, or an object with the methods
            of `bequest.sources.preprocess.Preprocess`; None takes arrays as they are.
        head: Name of the module's last layer, which is taken off; None for its last Linear; an empty string where
            the module has no head and returns the embedding.
        modality: What a sample is: `text`, `image` or `array`.
        name: For tables; None for the class's name.
        untrained: Makes the same module with random weights; None resets every layer of a copy that knows how
            (`reset_parameters`).

    Raises:
        SourceError: The module has no layer of that name, or its head is not a Linear.
    """
    if preprocess is None or not hasattr(preprocess, "collate"):
        preprocess = FunctionPreprocess(preprocess, modality)  # pyright: ignore[reportArgumentType]
    head = _head_name(module) if head is None else head
    original = copy.deepcopy(module)
    fresh = untrained or (lambda: _reset(copy.deepcopy(original)))
    return Source(
        name=name or type(module).__name__,
        preprocess=preprocess,  # pyright: ignore[reportArgumentType]
        width=_width(original, head),
        pretrained=lambda: _split(copy.deepcopy(original), head),
        untrained=lambda: _split(fresh(), head),
    )


def _head_name(module: nn.Module) -> str:
    found = last_linear(module)
    if found is None:
        raise SourceError(
            f"{type(module).__name__} has no Linear layer that could be its head. Name its last layer: head='...', "
            "or head='' if it returns an embedding."
        )
    return found[0]


def _width(module: nn.Module, head: str) -> int:
    if head:
        return _head(module, head).in_features
    found = last_linear(module)
    if found is None:
        raise SourceError(
            f"Cannot tell how long the embedding of {type(module).__name__} is. Wrap it so that its last layer is a "
            "Linear, or name its head."
        )
    return found[1].out_features


def _head(module: nn.Module, head: str) -> nn.Linear:
    names = dict(module.named_modules())
    if head not in names:
        raise SourceError(f"{type(module).__name__} has no layer {head!r}. {nearest(head, names)}")
    found = names[head]
    if not isinstance(found, nn.Linear):
        raise SourceError(f"The head {head!r} is a {type(found).__name__}; expected a Linear. Name another layer.")
    return found


def _split(module: nn.Module, head: str) -> Network:
    if not head:
        return Network(module, nn.Identity())
    taken = _head(module, head)
    module.set_submodule(head, nn.Identity())
    return Network(module, taken)


def _reset(module: nn.Module) -> nn.Module:
    without: list[str] = []
    for name, part in module.named_modules():
        reset = getattr(part, "reset_parameters", None)
        if callable(reset):
            reset()
        elif any(True for _ in part.parameters(recurse=False)):
            without.append(name or type(part).__name__)
    if without:
        raise SourceError(
            f"Layers without reset_parameters: {', '.join(without)}. The from-scratch twin of "
            f"{type(module).__name__} cannot be made; give from_module(..., untrained=...)."
        )
    return module
