"""What a format for other tools is, and what every one of them says of a model."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

import bequest
from bequest.core.errors import RunError
from bequest.engine.adapted import AdaptedModel
from bequest.sources.preprocess import TOKENIZER_FILE, FunctionPreprocess, Preprocess, TextPreprocess

Outputs = Callable[[tuple[Tensor, ...]], Tensor]
"""From a batch of inputs to the outputs, float32 (batch, outputs)."""


@dataclass(frozen=True)
class Format:
    """A way to write a model for other tools.

    Attributes:
        name: As users write it.
        suffix: Of the file; empty where it is a folder.
        reader: What people load it with.
        packages: Modules that writing it and loading it back need.
        extra: Of bequest, which installs them; empty where they come with it.
        write: Writes a model into a folder under a name (a folder format: into the folder itself), and gives what the
            user should know of it. Raises `RunError` where the format has no place for the model.
        read: Loads what was written with the tool that users load it with; the same arguments. The model tells how
            outputs are computed where the format holds weights alone.
        merged: Whether a method's updates are part of the weights; otherwise they are still beside them.
    """

    name: str
    suffix: str
    reader: str
    packages: Sequence[str]
    extra: str
    write: Callable[[AdaptedModel, Path, str], list[str]]
    read: Callable[[AdaptedModel, Path, str], Outputs]
    merged: bool = True

    @property
    def is_folder(self) -> bool:
        """Whether it takes several files with names of their own."""
        return not self.suffix

    def check_installed(self) -> None:
        """Refuse where a package is missing.

        Raises:
            RunError: So it is.
        """
        missing = [name for name in self.packages if importlib.util.find_spec(name) is None]
        if missing:
            raise RunError(
                f"--format {self.name} needs {' and '.join(missing)}, which is not installed; expected all of "
                f"{', '.join(self.packages)}. Install them: pip install 'bequest[{self.extra}]'"
            )


def about(model: AdaptedModel) -> dict[str, Any]:
    """What a user needs beside the weights, plain data: preprocessing, labels, what outputs mean, where it is from."""
    return {
        "bequest": bequest.__version__,
        "source": model.source.name,
        "method": model.record.get("method"),
        "seed": model.record.get("seed"),
        "kind": model.kind,
        "outputs": output_name(model),
        "labels": list(model.classes),
        "preprocess": _preprocessing(model.source.preprocess),
    }


def output_name(model: AdaptedModel) -> str:
    """What the outputs are: `logits`, or `values` in the targets' units."""
    return "values" if model.kind == "regression" else "logits"


def input_names(model: AdaptedModel) -> tuple[str, ...]:
    """What the network's inputs are called, in order."""
    return {"text": ("input_ids", "attention_mask"), "image": ("pixel_values",)}.get(model.source.modality, ("inputs",))


def save_beside(model: AdaptedModel, folder: Path) -> list[str]:
    """Write what metadata cannot hold, the tokenizer; what the user should know of it."""
    preprocess = model.source.preprocess
    preprocess.save(folder)
    if isinstance(preprocess, FunctionPreprocess) and preprocess.function is not None:
        return ["Its preprocessing is a Python function, which no file holds: it takes what that function makes."]
    return []


def refuse_language(model: AdaptedModel, name: str) -> None:
    """Raise `RunError` where the model continues texts: such a file would hold one step of that, and no more."""
    if model.kind == "causal-lm":
        raise RunError(
            f"A language model cannot be written as {name}: what continues a text is a loop around the network, not "
            "the network alone; expected a format that has the loop. Use --format hf."
        )


def _preprocessing(preprocess: Preprocess) -> dict[str, Any]:
    described = preprocess.describe()
    if not isinstance(preprocess, TextPreprocess):
        return described
    content = preprocess.tokenizer_json.encode()
    vocabulary = {
        "file": TOKENIZER_FILE,
        "tokens": len(preprocess.words),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    return {**described, "pad_id": preprocess.words[preprocess.pad_token], "vocabulary": vocabulary}
