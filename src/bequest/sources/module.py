"""Any `nn.Module` as a source."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from bequest.core.errors import SourceError
from bequest.core.task import Modality
from bequest.nn.head import find_head, last_linear
from bequest.nn.network import Network
from bequest.sources.head import named_head, split
from bequest.sources.preprocess import FunctionPreprocess, Preprocess
from bequest.sources.source import Source


def from_module(
    module: nn.Module,
    *,
    preprocess: Callable[[Any], Any] | Preprocess | None = None,
    head: str | None = None,
    example: Tensor | tuple[Tensor, ...] | None = None,
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
        head: Name of the module's last layer, which is taken off; None to find it: as timm, torchvision and
            transformers keep theirs, else the last Linear that a forward pass calls; an empty string where the module
            has no head and returns the embedding.
        example: A batch of inputs, as the module takes them. With it the head and the order of the layers are found in
            a forward pass, and the body can be cut at a layer; None for the order of registration.
        modality: What a sample is: `text`, `image` or `array`.
        name: For tables; None for the class's name.
        untrained: Makes the same module with random weights; None resets every layer of a copy that knows how
            (`reset_parameters`).

    Raises:
        SourceError: The module has no layer of that name, or its head is not a Linear.
    """
    if preprocess is None or not hasattr(preprocess, "collate"):
        preprocess = FunctionPreprocess(preprocess, modality)  # pyright: ignore[reportArgumentType]
    original = copy.deepcopy(module).eval()
    inputs = (example,) if isinstance(example, Tensor) else example
    found = _find(original, inputs) if head is None else head
    # No closures, so that a source can be pickled where its module and its functions can.
    fresh = untrained or partial(_fresh, original)
    return Source(
        name=name or type(module).__name__,
        preprocess=preprocess,  # pyright: ignore[reportArgumentType]
        width=_width(original, found, inputs),
        pretrained=partial(_split, partial(copy.deepcopy, original), found),
        untrained=partial(_split, fresh, found),
        inputs=inputs,
    )


def _split(make: Callable[[], nn.Module], head: str) -> Network:
    return split(make(), head)


def _fresh(original: nn.Module) -> nn.Module:
    return _reset(copy.deepcopy(original))


def _find(module: nn.Module, inputs: tuple[Tensor, ...] | None) -> str:
    found = find_head(module, inputs)
    if found is None:
        raise SourceError(
            f"{type(module).__name__} has no Linear layer that could be its head. Name its last layer: head='...', "
            "or head='' if it returns an embedding."
        )
    return found


def _width(module: nn.Module, head: str, inputs: tuple[Tensor, ...] | None) -> int:
    if head:
        return named_head(module, head)[1].in_features
    if inputs is not None:
        with torch.no_grad():
            return module(*inputs).shape[1]
    found = last_linear(module)
    if found is None:
        raise SourceError(
            f"Cannot tell how long the embedding of {type(module).__name__} is. Give a batch: example=..., or name its "
            "head."
        )
    return found[1].out_features


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
