"""Image networks of the torchvision library."""

from __future__ import annotations

from typing import Any

from torch import nn

from bequest.core.errors import SourceError, nearest
from bequest.nn.head import find_head
from bequest.nn.network import Network
from bequest.sources.checks import check_description, check_image_size, explained
from bequest.sources.head import split
from bequest.sources.preprocess import ImagePreprocess, Preprocess
from bequest.sources.source import Source

_WITH_AUXILIARY_HEADS = {"aux_logits": False, "transform_input": True, "init_weights": True}
"""As `weights="DEFAULT"` sets them in googlenet and inception_v3, without the heads that only training uses."""

_WITH_POSITIONS = "vit_"
"""Of architectures with learned positions, which are made for images of one size."""


def from_name(spelling: str, architecture: str, *, image_size: int | None = None, head: str | None = None) -> Source:
    """A classifier with torchvision's default weights.

    Args:
        spelling: As users write it.
        architecture: torchvision's name.
        image_size: Side of the input, pixels; None for the size that it is evaluated at. A ViT's learned positions are
            interpolated.
        head: Name of its last Linear; None to find it.

    Raises:
        SourceError: There is no such network, it does not take images of that size, or its weights cannot be had.
    """
    import torchvision

    names = torchvision.models.list_models(module=torchvision.models)
    if architecture not in names:
        raise SourceError(f"torchvision has no classifier {architecture!r}. {nearest(architecture, names)}")
    arguments = _WITH_AUXILIARY_HEADS if architecture in ("googlenet", "inception_v3") else {}
    weights: Any = torchvision.models.get_model_weights(architecture)
    shown = weights.DEFAULT.transforms()
    preprocess = ImagePreprocess(
        size=shown.crop_size[0],
        resize=shown.resize_size[0],
        mean=tuple(shown.mean),
        std=tuple(shown.std),
        interpolation=shown.interpolation.value,
    )
    preprocess = preprocess.resized(preprocess.size if image_size is None else image_size)
    if architecture.startswith(_WITH_POSITIONS):
        arguments = {"image_size": preprocess.size}
    description = {"kind": "torchvision", "architecture": architecture, "arguments": arguments, "head": head}
    width = check_image_size(spelling, lambda: _untrained(description), preprocess.size)

    def pretrained() -> Network:
        kept = {k: v for k, v in arguments.items() if k != "init_weights"}
        with explained(spelling, "the servers of PyTorch"):
            if architecture.startswith(_WITH_POSITIONS):
                network = _with_positions(architecture, weights.DEFAULT.get_state_dict(progress=False), **kept)
            else:
                network = torchvision.models.get_model(architecture, weights=weights.DEFAULT, **kept)
        return _split(network, description)

    return Source(
        name=spelling,
        preprocess=preprocess,
        width=width,
        pretrained=pretrained,
        untrained=lambda: _untrained(description),
        description=description,
    )


def from_description(name: str, description: dict[str, Any], preprocess: Preprocess) -> Source:
    """The source whose weights are random until a saved state is loaded into it.

    Raises:
        RunError: The description asks for more than a network's shape.
    """
    import torch
    import torchvision

    known = description["architecture"] in torchvision.models.list_models(module=torchvision.models)
    check_description(description, known, (*_WITH_AUXILIARY_HEADS, "image_size"))
    with torch.device("meta"):
        head = _untrained(description).head
    return Source(
        name=name,
        preprocess=preprocess,
        width=head.in_features,  # pyright: ignore[reportArgumentType]
        pretrained=lambda: _untrained(description),
        untrained=lambda: _untrained(description),
        description=description,
    )


def _with_positions(architecture: str, state: Any, image_size: int) -> nn.Module:
    """A ViT for images of a size; its learned positions are interpolated where they are for another."""
    import torchvision
    from torchvision.models.vision_transformer import interpolate_embeddings

    network: Any = torchvision.models.get_model(architecture, image_size=image_size)
    network.load_state_dict(interpolate_embeddings(image_size, network.patch_size, state))
    return network


def _untrained(description: dict[str, Any]) -> Network:
    import torchvision

    return _split(torchvision.models.get_model(description["architecture"], **description["arguments"]), description)


def _split(network: nn.Module, description: dict[str, Any]) -> Network:
    name = description.get("head") or find_head(network)
    if name is None:
        raise SourceError(f"{description['architecture']!r} has no Linear as its head. Choose another network.")
    return split(network, name)
