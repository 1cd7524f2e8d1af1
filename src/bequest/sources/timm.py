"""Image networks of the timm library."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from bequest.nn.network import Network
from bequest.sources.preprocess import ImagePreprocess, Preprocess
from bequest.sources.source import Source


def from_weights(
    name: str,
    architecture: str,
    weights: Callable[[], list[Tensor]],
    *,
    image_size: int | None = None,
    licence: str = "",
) -> Source:
    """A timm network whose weights come as tensors in the order of its state dict.

    Args:
        name: As users write it.
        architecture: timm's name.
        weights: Reads the tensors.
        image_size: Side of the input, pixels; None for the size that it was trained at.
        licence: Of the weights.
    """

    def pretrained() -> Network:
        import timm

        network = timm.create_model(architecture)
        names, tensors = list(network.state_dict()), weights()
        network.load_state_dict(dict(zip(names, tensors, strict=True)), strict=True)
        return split_head(network)

    import timm

    config: Any = timm.get_pretrained_cfg(architecture)
    preprocess = ImagePreprocess(
        size=image_size or config.input_size[-1],
        mean=config.mean,
        std=config.std,
        crop=config.crop_pct,
        interpolation=config.interpolation,
    )
    return _source(name, {"kind": "timm", "architecture": architecture}, preprocess, pretrained, licence)


def from_description(name: str, description: dict[str, Any], preprocess: Preprocess) -> Source:
    """The source whose weights are random until a saved state is loaded into it."""
    return _source(name, description, preprocess, lambda: _untrained(description))


def split_head(network: nn.Module) -> Network:
    """Body and head of a timm network: the classifier comes off and the pooling stays with the body."""
    head = network.get_classifier()  # pyright: ignore[reportCallIssue]
    network.reset_classifier(0)  # pyright: ignore[reportCallIssue]
    return Network(network, head)


def _source(
    name: str,
    description: dict[str, Any],
    preprocess: Preprocess,
    pretrained: Callable[[], Network],
    licence: str = "",
) -> Source:
    import torch

    with torch.device("meta"):
        width = int(_untrained(description).body.num_features)  # pyright: ignore[reportArgumentType]
    return Source(
        name=name,
        preprocess=preprocess,
        width=width,
        pretrained=pretrained,
        untrained=lambda: _untrained(description),
        description=description,
        licence=licence,
    )


def _untrained(description: dict[str, Any]) -> Network:
    import timm

    return split_head(timm.create_model(description["architecture"]))
