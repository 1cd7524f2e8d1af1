"""Image networks of the timm library."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from bequest.core.errors import SourceError, nearest
from bequest.nn.network import Network, Origin
from bequest.sources.checks import check_description, check_image_size, explained
from bequest.sources.head import split
from bequest.sources.preprocess import ImagePreprocess, Preprocess
from bequest.sources.source import Source


def from_name(spelling: str, architecture: str, *, image_size: int | None = None, head: str | None = None) -> Source:
    """A network with the weights that timm's authors published.

    Args:
        spelling: As users write it.
        architecture: timm's name, with or without the weights' tag.
        image_size: Side of the input, pixels; None for the size that it was trained at.
        head: Name of its last Linear; None for timm's own classifier.

    Raises:
        SourceError: There is no such network, it does not take images of that size, or its weights cannot be had.
    """
    import timm

    if not timm.is_model(architecture):
        raise SourceError(f"timm has no network {architecture!r}. {nearest(architecture, timm.list_models())}")
    with explained(spelling, "Hugging Face's hub"):
        config: Any = timm.get_pretrained_cfg(architecture)

    def pretrained(description: dict[str, Any]) -> Network:
        if not timm.is_model_pretrained(architecture):
            raise SourceError(f"timm publishes no weights of {architecture!r}. `timm.list_pretrained()` lists all.")
        with explained(spelling, "Hugging Face's hub"):
            network = timm.create_model(architecture, pretrained=True, **description["arguments"])
        return split_head(network, head)

    return _source(spelling, architecture, config, pretrained, image_size=image_size, head=head)


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

    Raises:
        SourceError: It does not take images of that size.
    """
    import timm

    def pretrained(_: dict[str, Any]) -> Network:
        network = timm.create_model(architecture)
        names, tensors = list(network.state_dict()), weights()
        network.load_state_dict(dict(zip(names, tensors, strict=True)), strict=True)
        return split_head(network)

    config = timm.get_pretrained_cfg(architecture)
    return _source(name, architecture, config, pretrained, image_size=image_size, licence=licence)


def from_description(name: str, description: dict[str, Any], preprocess: Preprocess) -> Source:
    """The source whose weights are random until a saved state is loaded into it.

    Raises:
        RunError: The description asks for more than a network's shape.
    """
    import timm

    check_description(description, timm.is_model(description["architecture"]), ("img_size",))
    return Source(
        name=name,
        preprocess=preprocess,
        width=_width(description),
        pretrained=lambda: _untrained(description),
        untrained=lambda: _untrained(description),
        description=description,
    )


def split_head(network: nn.Module, head: str | None = None) -> Network:
    """Body and head of a timm network: the classifier comes off and the pooling stays with the body."""
    if head:
        return split(network, head)
    taken = network.get_classifier()  # pyright: ignore[reportCallIssue]
    name = next((n for n, module in network.named_modules() if module is taken), "")
    network.reset_classifier(0)  # pyright: ignore[reportCallIssue]
    if not isinstance(taken, nn.Linear):
        return Network(network, nn.Identity())
    return Network(network, taken, Origin(head=name))


def _source(
    name: str,
    architecture: str,
    config: Any,
    pretrained: Callable[[dict[str, Any]], Network],
    *,
    image_size: int | None = None,
    head: str | None = None,
    licence: str = "",
) -> Source:
    preprocess = _preprocess(name, config)
    arguments: dict[str, Any] = {}
    if image_size is not None and image_size != preprocess.size:
        preprocess = preprocess.resized(image_size)
        arguments = {"img_size": image_size} if config.fixed_input_size else {}
    description = {"kind": "timm", "architecture": architecture, "arguments": arguments, "head": head}
    return Source(
        name=name,
        preprocess=preprocess,
        width=check_image_size(name, lambda: _untrained(description), preprocess.size),
        pretrained=lambda: pretrained(description),
        untrained=lambda: _untrained(description),
        description=description,
        licence=licence,
    )


def _preprocess(name: str, config: Any) -> ImagePreprocess:
    if config.input_size[0] != 3 or config.crop_mode not in ("center", "squash"):
        raise SourceError(
            f"{name!r} takes images of {config.input_size[0]} channels, fitted by {config.crop_mode!r}; expected 3, by "
            "'center' or 'squash'. Choose another network."
        )
    size = config.input_size[-1]
    return ImagePreprocess(
        size=size,
        mean=tuple(config.mean),
        std=tuple(config.std),
        crop=config.crop_pct,
        interpolation=config.interpolation,
        squash=config.crop_mode == "squash",
    )


def _untrained(description: dict[str, Any]) -> Network:
    import timm

    network = timm.create_model(description["architecture"], **description.get("arguments", {}))
    return split_head(network, description.get("head"))


def _width(description: dict[str, Any]) -> int:
    with torch.device("meta"):
        network = _untrained(description)
    if isinstance(network.head, nn.Linear):
        return network.head.in_features
    body: Any = network.body
    return int(getattr(body, "head_hidden_size", None) or body.num_features)
