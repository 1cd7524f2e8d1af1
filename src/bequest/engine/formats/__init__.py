"""A model written for other tools, and read back with them before its files take their place."""

from __future__ import annotations

import copy
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bequest.core.errors import RunError, first_line, nearest
from bequest.engine.adapted import AdaptedModel
from bequest.engine.formats.format import Format, Outputs
from bequest.engine.formats.libraries import HF, TIMM
from bequest.engine.formats.peft import PEFT
from bequest.engine.formats.programs import ONNX, TORCH_EXPORT
from bequest.engine.formats.weights import SAFETENSORS

FORMATS: Mapping[str, Format] = {f.name: f for f in (ONNX, TORCH_EXPORT, SAFETENSORS, HF, TIMM, PEFT)}
"""By name."""

TOLERANCE = 1e-4
"""By how much outputs may differ, as a part of the largest, or of 1 where that is more."""

_BATCH = 8


@dataclass(frozen=True)
class Check:
    """What came of reading a file back.

    Attributes:
        difference: Largest absolute difference between an output and PyTorch's.
        allowed: The largest that would have passed.
        num_samples: On how many real samples.
    """

    difference: float
    allowed: float
    num_samples: int


def choose_format(path: Path, name: str | None) -> Format:
    """The format that is named, or that goes by the file's suffix.

    Raises:
        RunError: There is none, the path is not as the format wants it, or a package is missing.
    """
    by_suffix = {f.suffix: f for f in FORMATS.values() if f.suffix}
    folders = [f.name for f in FORMATS.values() if f.is_folder]
    suffix = path.suffix.lower()
    if name is None:
        if suffix not in by_suffix:
            raise RunError(
                f"Cannot tell the format of {path}; expected a file that ends in {', '.join(by_suffix)}, or a folder "
                f"and one of --format {', '.join(folders)}."
            )
        found = by_suffix[suffix]
    elif name not in FORMATS:
        raise RunError(f"--format is {name!r}; expected one of {', '.join(FORMATS)}. {nearest(name, FORMATS)}")
    else:
        found = FORMATS[name]
        wrong = suffix in by_suffix if found.is_folder else suffix != found.suffix
        if wrong:
            wanted = "a folder" if found.is_folder else f"a file that ends in {found.suffix}"
            raise RunError(f"--format {name} writes {wanted}, and {path} is none; expected one. Choose another name.")
    found.check_installed()
    return found


def ship(
    model: AdaptedModel, path: Path, form: Format, samples: Sequence[Any], tolerance: float = TOLERANCE
) -> tuple[Check, list[str]]:
    """Write a model, load what was written, compare its outputs with PyTorch's, and only then give it its name.

    Args:
        model: Not changed.
        path: A file of the format's suffix, or a folder that is new or empty.
        form: The format.
        samples: Real ones, decoded.
        tolerance: As a part of the largest output, or of 1 where that is more.

    Returns:
        What the comparison came to, and what the user should know of the files.

    Raises:
        RunError: The format has no place for the model, outputs differ by more, or the files cannot be written.
    """
    batches = _batches(model, samples)
    network = copy.deepcopy(model.network).to("cpu").float().eval()
    # To follow through the network where the source knows no batch: real samples.
    inputs = model.source.example() or tuple(torch.cat([part, part]) for part in batches[0])
    model = replace(model, network=network, source=replace(model.source, inputs=inputs))
    _check_place(path, form)
    try:
        path.absolute().parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.absolute().parent) as temporary:
            folder = Path(temporary) / path.name if form.is_folder else Path(temporary)
            folder.mkdir(exist_ok=True)
            notes = form.write(model, folder, path.name)
            check = _read_back(model, folder, path.name, form, batches, tolerance)
            if not check.difference <= check.allowed:
                raise RunError(
                    f"What {form.reader} loads from {path.name} differs from PyTorch by {check.difference:.2g} on "
                    f"{check.num_samples} samples; expected at most {check.allowed:.2g}. Nothing was kept. Use another "
                    "--format, or where that is near enough, a larger --tolerance."
                )
            _settle(folder, path, form)
    except OSError as error:
        raise RunError(
            f"{path} cannot be written ({error.strerror or error}); expected a place with room for it. Free space or "
            "choose another."
        ) from error
    return check, notes


def _batches(model: AdaptedModel, samples: Sequence[Any]) -> list[tuple[Tensor, ...]]:
    """Inputs in batches of different sizes: one sample alone, then several at a time."""
    if not samples:
        raise RunError("There is no sample to try the file on; expected one or more of the run's data. Give some.")
    preprocess = model.source.preprocess
    items = [preprocess.encode(sample) for sample in samples]
    several = [items[start : start + _BATCH] for start in range(0, len(items), _BATCH)]
    return [preprocess.collate(part) for part in ([items[0]], *several)]


def _read_back(
    model: AdaptedModel, folder: Path, name: str, form: Format, batches: list[tuple[Tensor, ...]], tolerance: float
) -> Check:
    try:
        return _compare(model, form.read(model, folder, name), batches, tolerance)
    except Exception as error:  # each tool has errors of its own
        reason = first_line(error)
        raise RunError(
            f"{form.reader} cannot use what was written as {name} ({reason[:200]}); expected the outputs of the "
            "samples. Nothing was kept. Use another --format."
        ) from error


def _compare(model: AdaptedModel, outputs: Outputs, batches: list[tuple[Tensor, ...]], tolerance: float) -> Check:
    gaps, largest = [], [1.0]
    with torch.no_grad():
        for batch in batches:
            wanted = model.network(*batch).float()
            gaps.append(float((outputs(batch).float() - wanted).abs().max()))
            largest.append(float(wanted.abs().max()))
    num_samples = sum(len(batch[0]) for batch in batches[1:])
    return Check(float(np.max(gaps)), tolerance * max(largest), num_samples)  # NaN where one is


def _check_place(path: Path, form: Format) -> None:
    if form.is_folder and path.is_dir() and any(path.iterdir()):
        raise RunError(f"{path} is not empty; expected a new or empty folder. Choose another, or remove it.")
    if form.is_folder and path.is_file():
        raise RunError(f"{path} is a file; expected a folder, new or empty. Choose another name.")
    if not form.is_folder and path.is_dir():
        raise RunError(f"{path} is a folder; expected a file that ends in {form.suffix}. Name a file in it.")


def _settle(folder: Path, path: Path, form: Format) -> None:
    """Give what was written its name; of a file and what lies beside it, the file last."""
    if form.is_folder:
        if path.is_dir():
            path.rmdir()
        os.replace(folder, path)
        return
    for made in sorted(folder.iterdir(), key=lambda file: file.name == path.name):
        target = path.parent / made.name
        if target != path and target.is_file() and target.read_bytes() != made.read_bytes():
            raise RunError(
                f"{target} is there already and is not this model's; expected a folder without it, since both models "
                "would read it. Export into another folder."
            )
        os.replace(made, target)
