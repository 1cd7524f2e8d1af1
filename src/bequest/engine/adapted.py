"""The outcome: one plain network with its preprocessing, labels and record, that predicts, saves and loads."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

import bequest
from bequest.core.errors import RunError
from bequest.core.results import atomic_open, write_json
from bequest.engine.runtime import Precision, choose_runtime
from bequest.nn.head import describe_head
from bequest.nn.network import Network
from bequest.sources import Source
from bequest.sources.saved import MODEL_FILE, WEIGHTS_FILE, read


@dataclass(frozen=True)
class Prediction:
    """What the model says of one sample.

    Attributes:
        label: The most probable class.
        probability: Of that class, 0 to 1.
        probabilities: Of every class by name.
    """

    label: str
    probability: float
    probabilities: dict[str, float]


@dataclass(frozen=True)
class AdaptedModel:
    """An adapted network, ready to use.

    Attributes:
        network: Body and head, plain modules, in eval mode.
        source: The preprocessing, and what the network's shape came from.
        classes: Class names in the order of the outputs.
        record: How it came to be: method, settings, seed, scores.
    """

    network: Network
    source: Source
    classes: tuple[str, ...]
    record: dict[str, Any]

    def predict(
        self, inputs: Iterable[Any], *, batch_size: int = 32, precision: Precision = "float32"
    ) -> list[Prediction]:
        """The classes of some samples.

        Args:
            inputs: Texts for a text model; paths, PIL images or uint8 arrays for an image model; arrays otherwise.
            batch_size: Samples in a forward pass.
            precision: Of the forward pass.

        Returns:
            One prediction a sample, in order.
        """
        outputs = self.outputs(inputs, batch_size=batch_size, precision=precision)
        rows = torch.softmax(outputs.double(), 1).tolist()
        return [self._prediction(row) for row in rows]

    def outputs(self, inputs: Iterable[Any], *, batch_size: int = 32, precision: Precision = "float32") -> Tensor:
        """Logits (samples, classes), float32. Arguments as for `predict`."""
        decoded = [_decode(sample, self.source.modality) for sample in _as_list(inputs)]
        if not decoded:
            return torch.empty(0, len(self.classes))
        items = [self.source.preprocess.encode(sample) for sample in decoded]
        runtime = choose_runtime(precision)
        runtime.place(self.network)
        parts: list[Tensor] = []
        with torch.inference_mode():
            for start in range(0, len(items), batch_size):
                batch = runtime.inputs(self.source.preprocess.collate(items[start : start + batch_size]))
                with runtime.accelerator.autocast():
                    parts.append(self.network(*batch).float().cpu())
        return torch.cat(parts)

    def save(self, folder: str | Path) -> None:
        """Write the model into a folder of its own, complete: weights, preprocessing, classes, record.

        Raises:
            RunError: The folder cannot be written.
        """
        folder = Path(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self.source.preprocess.save(folder)
            # Safetensors wants tensors that share no memory and lie in plain order.
            state = {k: v.detach().cpu().contiguous().clone() for k, v in self.network.state_dict().items()}
            with atomic_open(folder / WEIGHTS_FILE) as file:
                file.write(save(state))
            write_json(folder / MODEL_FILE, self._describe())
        except OSError as error:
            raise RunError(
                f"The model cannot be written to {folder} ({error.strerror}); expected a folder with room for it. Free "
                "space or choose another."
            ) from error

    def _describe(self) -> dict[str, Any]:
        return {
            "bequest": bequest.__version__,
            "source": self.source.name,
            "modality": self.source.modality,
            "network": self.source.description,
            "preprocess": self.source.preprocess.describe(),
            "head": describe_head(self.network.head),
            "classes": list(self.classes),
            "record": self.record,
        }

    def _prediction(self, row: list[float]) -> Prediction:
        best = int(np.argmax(row))
        return Prediction(self.classes[best], row[best], dict(zip(self.classes, row, strict=True)))


def load(folder: str | Path, *, source: Source | None = None) -> AdaptedModel:
    """The model that a run left.

    Args:
        folder: Of a run (its best model is taken) or of a saved model.
        source: Needed where the model was adapted from an `nn.Module` of yours, whose code no file holds.

    Raises:
        RunError: There is no model, its files are damaged, or it needs a source.
    """
    model = read(folder, source)
    return AdaptedModel(model.network, model.source, model.classes, model.record)


def _as_list(inputs: Iterable[Any]) -> Sequence[Any]:
    if isinstance(inputs, (str, Path)):
        raise TypeError(f"predict takes a list of samples; put {inputs!r} into one: predict([{inputs!r}])")
    return list(inputs)


def _decode(sample: Any, modality: str) -> Any:
    if modality != "image":
        return sample
    from PIL import Image

    from bequest.data.images import ImageFiles

    if isinstance(sample, (str, Path)):
        return ImageFiles([Path(sample)], [b""])[0]
    return Image.fromarray(np.asarray(sample)) if not isinstance(sample, Image.Image) else sample
