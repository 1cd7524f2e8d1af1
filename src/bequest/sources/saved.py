"""Saved models: their networks made again, and a model trained on one task as the source for the next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bequest.core.errors import BequestError, RunError
from bequest.core.results import read_json
from bequest.core.task import Kind
from bequest.nn.head import build_head, count_described
from bequest.nn.network import Network
from bequest.nn.peft_tuners import Wrapped
from bequest.nn.taps import Tap, Tapped
from bequest.sources import cut, preprocess, timm, torchvision, transformers
from bequest.sources.language import LanguagePreprocess
from bequest.sources.preprocess import TextPreprocess
from bequest.sources.source import Source

MODEL_FILE = "model.json"
WEIGHTS_FILE = "model.safetensors"


@dataclass(frozen=True)
class SavedModel:
    """What a model's folder holds.

    Attributes:
        network: Body and head with the saved weights, in eval mode, nothing trainable.
        source: Its architecture and preprocessing.
        classes: Class names in the order of the outputs.
        record: How it came to be.
        kind: What it predicts.
    """

    network: Network
    source: Source
    classes: tuple[str, ...]
    record: dict[str, Any]
    kind: Kind


def model_folder(folder: Path) -> Path | None:
    """Where the model of a run, or a saved model, lies; None where there is none."""
    return next((f for f in (folder, folder / "best") if (f / MODEL_FILE).is_file()), None)


def read(folder: str | Path, source: Source | None = None) -> SavedModel:
    """The model that a run left, or that was saved.

    Args:
        folder: Of a run (its best model is taken) or of a saved model.
        source: Needed where the model was adapted from an `nn.Module` of yours, whose code no file holds.

    Raises:
        RunError: There is no model, its files are damaged, or it needs a source.
    """
    from safetensors.torch import load_file

    found = model_folder(Path(folder))
    if found is None:
        raise RunError(
            f"There is no model in {folder}; expected {MODEL_FILE} there, or in its folder 'best'. Name the folder of "
            "a finished run."
        )
    about = read_json(found / MODEL_FILE)
    try:
        source = source or _described(about, found)
        source = _tap(source, [Tap(**tap) for tap in about.get("taps", ())])
        source = _wrap(source, about.get("peft"))
        network = source.scratch(0)
        network.head = build_head(about["head"])
        network.load_state_dict(load_file(found / WEIGHTS_FILE))
        network.eval().requires_grad_(False)
        kind = about.get("kind", "classification")
        return SavedModel(network, source, tuple(about["classes"]), about["record"], kind)
    except BequestError:
        raise
    except Exception as error:  # the libraries raise whatever a description leads them to
        raise RunError(
            f"The model in {found} is damaged or does not fit its description ({error}); expected the files as bequest "
            "wrote them. Copy the folder again, or run again."
        ) from error


def from_run(name: str, folder: str | Path, *, max_tokens: int | None = None, source: Source | None = None) -> Source:
    """A model that was trained on one task, as the source for another; its own head is kept.

    Args:
        name: As users write it.
        folder: Of a run (its best model is taken) or of a saved model.
        max_tokens: Token limit of a text model; None for the limit that it was trained with.
        source: As for `read`.

    Raises:
        RunError: As for `read`.
        SourceError: The token limit is beyond what the network knows.
    """
    model = read(folder, source)
    prepared = model.source.preprocess
    if max_tokens is not None and isinstance(prepared, TextPreprocess | LanguagePreprocess):
        limit = transformers.check_max_tokens(name, model.source.description, max_tokens)
        prepared = prepared.limited(limit)
    return replace(
        model.source,
        name=name,
        preprocess=prepared,
        pretrained=lambda: model.network,
        head_kind=model.kind,
        classes=model.classes,
    )


def from_description(name: str, description: dict[str, Any], folder: Path) -> Source:
    """The source of a saved model: its architecture and preprocessing, its weights not yet loaded.

    Raises:
        RunError: The model was made from an `nn.Module` that only Python knows.
    """
    makers = {
        "transformers": transformers.from_description,
        "timm": timm.from_description,
        "torchvision": torchvision.from_description,
    }
    network = description.get("network", {})
    if network.get("kind") not in makers:
        raise RunError(
            f"The model in {folder} was adapted from {name!r}, an nn.Module of the user's; its code is not in the "
            "folder. Give the source: bequest.load(folder, source=bequest.from_module(...)), or, as the source for "
            "another task, bequest.sources.from_run(name, folder, source=...)."
        )
    prepared = preprocess.load(description["preprocess"], folder)
    source = makers[network["kind"]](name, network, prepared)
    for settings in network.get("cuts", ()):
        source = _cut(source, cut.from_description(settings))
    return source


def _described(about: dict[str, Any], folder: Path) -> Source:
    """The source of a saved model, whose network is no larger than its weights are."""
    source = from_description(about["source"], about, folder)
    with torch.device("meta"):
        body = sum(tensor.numel() for tensor in source.untrained().body.state_dict().values())
    described, stored = body + count_described(about["head"]), folder / WEIGHTS_FILE
    if described > (size := stored.stat().st_size):
        raise RunError(
            f"{folder / MODEL_FILE} describes a network of {described:,} numbers, but {stored.name} has {size:,} "
            "bytes; expected the files as bequest wrote them. Copy the folder again, or run again."
        )
    return source


def _tap(source: Source, taps: Sequence[Tap]) -> Source:
    """The source whose body gives these taps; as it is where there are none."""
    if not taps:
        return source

    def untrained() -> Network:
        made = source.untrained()
        return Network(Tapped(made.body, taps), nn.Identity(), made.origin.within("body"))

    return replace(source, width=sum(t.width for t in taps), pretrained=untrained, untrained=untrained)


def _wrap(source: Source, settings: dict[str, Any] | None) -> Source:
    """The source whose body has a tuner of the PEFT library in it; as it is where there is none."""
    if settings is None:
        return source

    def untrained() -> Network:
        made = source.untrained()
        return Network(Wrapped(made.body, settings, made.origin.inside), nn.Identity(), made.origin.within("body"))

    return replace(source, pretrained=untrained, untrained=untrained)


def _cut(source: Source, at: cut.Cut) -> Source:
    def untrained() -> Network:
        made = source.untrained()
        return Network(at.apply(made.body), nn.Identity(), made.origin.within("body"))

    return replace(source, width=at.width, pretrained=untrained, untrained=untrained)
