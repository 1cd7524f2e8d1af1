"""Saved models: their networks made again, and a model trained on one task as the source for the next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from torch import nn

from bequest.core.digests import DIGEST_BYTES, digest_of
from bequest.core.errors import BequestError, RunError, SourceError
from bequest.core.results import read_json
from bequest.core.task import HashArray, Kind
from bequest.nn.head import build_head, count_described
from bequest.nn.network import Network
from bequest.nn.peft_tuners import Wrapped
from bequest.nn.taps import Tap, Tapped
from bequest.sources import cut, preprocess, timm, torchvision, transformers
from bequest.sources.checks import check_numbers
from bequest.sources.language import LanguagePreprocess
from bequest.sources.preprocess import TOKENIZER_FILE, ImagePreprocess, TextPreprocess
from bequest.sources.source import Source

MODEL_FILE = "model.json"
WEIGHTS_FILE = "model.safetensors"
LEARNED_FILE = "learned.safetensors"
"""Content hashes of the samples of whose labels the weights know; not there where nobody knows."""
_REMEDY = "expected the files as bequest wrote them. Copy the folder again, or run again."


@dataclass(frozen=True)
class SavedModel:
    """What a model's folder holds.

    Attributes:
        network: Body and head with the saved weights, in eval mode, nothing trainable.
        source: Its architecture and preprocessing.
        classes: Class names in the order of the outputs.
        record: How it came to be.
        kind: What it predicts.
        learned: As of a `Source`.
    """

    network: Network
    source: Source
    classes: tuple[str, ...]
    record: dict[str, Any]
    kind: Kind
    learned: HashArray | None = None


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
        _check_files(about["digests"], found)
        _check_description(about, found)
        source = source or _described(about, found)
        source = _tap(source, [Tap(**tap) for tap in about.get("taps", ())])
        source = _wrap(source, about.get("peft"))
        network = source.scratch(0)
        network.head = build_head(about["head"])
        network.load_state_dict(load_file(found / WEIGHTS_FILE))
        network.eval().requires_grad_(False)
        _try(network, source, about)
        classes, learned = tuple(about["classes"]), _learned(found / LEARNED_FILE)
        return SavedModel(network, source, classes, about["record"], about["kind"], learned)
    except BequestError:
        raise
    except Exception as error:  # the libraries raise whatever a description leads them to
        raise RunError(
            f"The model in {found} is damaged or does not fit its description in {MODEL_FILE} ({error}); {_REMEDY}"
        ) from error


def digests(folder: Path) -> dict[str, str]:
    """Hex digest of each file in a model's folder that is read again, by name."""
    found: dict[str, str] = {}
    for name in (WEIGHTS_FILE, TOKENIZER_FILE, LEARNED_FILE):
        if (folder / name).is_file():
            with (folder / name).open("rb") as file:
                found[name] = digest_of(file).hex()
    return found


def _learned(file: Path) -> HashArray | None:
    from safetensors.numpy import load_file

    if not file.is_file():
        return None
    [hashes] = load_file(file).values()
    if hashes.dtype != np.uint8 or hashes.ndim != 2 or hashes.shape[1] != DIGEST_BYTES:
        raise ValueError(f"{file.name} holds {hashes.dtype} {hashes.shape}, expected uint8 (samples, {DIGEST_BYTES})")
    return hashes


def _check_files(written: dict[str, str], folder: Path) -> None:
    """Raise `RunError` where a file's bytes are others than were written."""
    for name, digest in digests(folder).items():
        if written.get(name) != digest:
            raise RunError(f"{folder / name} is damaged (its bytes are others than {MODEL_FILE} tells); {_REMEDY}")


def _check_description(about: dict[str, Any], folder: Path) -> None:
    """Raise `RunError` where a field that is not of the network is not what predicting and exporting need."""
    classes, kind, kinds = about["classes"], about["kind"], get_args(Kind)
    are_names = isinstance(classes, list) and all(isinstance(name, str) for name in classes)
    for field, is_fine, expected in (
        ("kind", kind in kinds, ", ".join(kinds)),
        ("classes", are_names and len(set(classes)) == len(classes), "different names"),
        ("record", isinstance(about["record"], dict), "an object"),
        ("source", isinstance(about["source"], str), "a name"),
    ):
        if not is_fine:
            value = str(about[field])[:60]
            raise RunError(f"{folder / MODEL_FILE}: {field} is {value!r}, expected {expected}; {_REMEDY}")


def _try(network: Network, source: Source, about: dict[str, Any]) -> None:
    """Raise whatever a batch of nothing in particular makes the network raise, or `ValueError` for other outputs.

    Images are left out, since they take long: `_described` has tried their shapes.
    """
    is_text = isinstance(source.preprocess, TextPreprocess | LanguagePreprocess)
    with torch.no_grad():
        made = network(*source.example() or ()) if is_text else network.head(torch.zeros(1, source.width))
    outputs = made.shape[1]
    if about["kind"] != "causal-lm" and outputs != len(about["classes"]):
        raise ValueError(f"classes are {len(about['classes'])}, expected one for each of the {outputs} outputs")


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
        learned=model.learned,
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
    try:
        prepared = preprocess.load(description["preprocess"], folder)
    except (ValueError, TypeError) as error:
        raise RunError(f"{folder / MODEL_FILE}: in preprocess {error}; {_REMEDY}") from error
    source = makers[network["kind"]](name, network, prepared)
    for settings in network.get("cuts", ()):
        source = _cut(source, cut.from_description(settings))
    return source


def _described(about: dict[str, Any], folder: Path) -> Source:
    """The source of a saved model, whose network is no larger than its weights are."""
    stored = folder / WEIGHTS_FILE
    check_numbers({"network": about["network"], "head": about["head"]}, size := stored.stat().st_size)
    source = from_description(about["source"], about, folder)
    with torch.device("meta"):
        body = source.untrained().body
    described = sum(tensor.numel() for tensor in body.state_dict().values()) + count_described(about["head"])
    if described > size:
        raise RunError(
            f"{folder / MODEL_FILE} describes a network of {described:,} numbers, but {stored.name} has {size:,} "
            f"bytes; {_REMEDY}"
        )
    _check_shapes(source, body, folder)
    return source


def _check_shapes(source: Source, body: nn.Module, folder: Path) -> None:
    """Raise whatever images of its size make the body raise, and `RunError` where texts may be too long for it."""
    prepared = source.preprocess
    if isinstance(prepared, ImagePreprocess):
        with torch.device("meta"), torch.no_grad():
            body.eval()(torch.zeros(2, 3, prepared.size, prepared.size))
    if isinstance(prepared, TextPreprocess | LanguagePreprocess):
        try:
            transformers.check_max_tokens(source.name, source.description, prepared.max_tokens)
        except SourceError as error:
            reason = f"max_tokens in preprocess does not fit the network ({error})"
            raise RunError(f"{folder / MODEL_FILE}: {reason}; {_REMEDY}") from error


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
