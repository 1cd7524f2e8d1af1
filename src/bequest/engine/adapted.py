"""The outcome: one plain network with its preprocessing, labels and record, that predicts, saves and loads."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

import bequest
from bequest.core.errors import RunError, SourceError
from bequest.core.results import atomic_open, write_json
from bequest.core.task import HashArray, Kind
from bequest.data.frames import is_frame
from bequest.engine.card import model_card
from bequest.engine.runtime import Precision, choose_runtime
from bequest.nn.head import describe_head
from bequest.nn.network import Network
from bequest.nn.objectives import OBJECTIVES, THRESHOLD
from bequest.nn.peft_tuners import Wrapped
from bequest.nn.taps import tapped
from bequest.sources import Source
from bequest.sources.language import LanguagePreprocess
from bequest.sources.saved import LEARNED_FILE, MODEL_FILE, WEIGHTS_FILE, digests, read
from bequest.sources.transformers import generator

CARD_FILE = "README.md"


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
class LabelsPrediction:
    """What the model of a multi-label task says of one sample.

    Attributes:
        labels: The labels whose probability is above one half; may be none or several.
        probabilities: Of every label by name, each 0 to 1.
    """

    labels: list[str]
    probabilities: dict[str, float]


@dataclass(frozen=True)
class ValuesPrediction:
    """What the model of a regression says of one sample.

    Attributes:
        values: Of every target by name, in the target's units.
    """

    values: dict[str, float]


@dataclass(frozen=True)
class TextPrediction:
    """How a language model goes on.

    Attributes:
        text: What follows the prompt, without it.
    """

    text: str


AnyPrediction = Prediction | LabelsPrediction | ValuesPrediction | TextPrediction
"""What a model says of one sample, by the kind of its task: classification, multi-label, regression, causal-lm."""


@dataclass(frozen=True)
class AdaptedModel:
    """An adapted network, ready to use.

    Attributes:
        network: Body and head, plain modules, in eval mode.
        source: The preprocessing, and what the network's shape came from.
        classes: Names of the classes or targets in the order of the outputs.
        record: How it came to be: method, settings, seed, scores.
        kind: What it predicts.
        learned: uint8 (samples, 16), content hashes of the samples of whose labels it knows; None where nobody knows.
    """

    network: Network
    source: Source
    classes: tuple[str, ...]
    record: dict[str, Any]
    kind: Kind = "classification"
    learned: HashArray | None = None

    def predict(
        self, inputs: Iterable[Any], *, batch_size: int = 32, precision: Precision = "float32"
    ) -> list[AnyPrediction]:
        """The classes, labels or values of some samples.

        Args:
            inputs: Texts for a text model; paths, PIL images or uint8 arrays for an image model; arrays otherwise. For
                a language model prompts, which it continues as `generate` does.
            batch_size: Samples in a forward pass.
            precision: Of the forward pass.

        Returns:
            One prediction a sample, in order: `Prediction`, of a multi-label task `LabelsPrediction`, of a regression
            `ValuesPrediction`, of a language model `TextPrediction`.
        """
        if self.kind == "causal-lm":
            return [TextPrediction(text) for text in self.generate(list(_samples(inputs)))]
        outputs = self.outputs(inputs, batch_size=batch_size, precision=precision)
        rows = OBJECTIVES[self.kind].activate(outputs).tolist()
        predict = {"classification": _class, "multi-label": _labels, "regression": _values}[self.kind]
        return [predict(dict(zip(self.classes, row, strict=True))) for row in rows]

    def generate(self, prompts: Sequence[str], *, max_new_tokens: int = 64) -> list[str]:
        """How a language model continues some prompts, taking the most probable token each time.

        Args:
            prompts: Texts; none may be empty unless the tokenizer begins texts with a token of its own.
            max_new_tokens: Tokens to go on for, at most; it stops earlier at the token that ends a text.

        Raises:
            SourceError: The model is no language model, or a prompt has no token.
        """
        preprocess = self.source.preprocess
        if not isinstance(preprocess, LanguagePreprocess):
            raise SourceError(f"A model for {self.kind} generates no text; expected one for causal-lm. Use predict.")
        runtime = choose_runtime("float32")
        runtime.place(self.network)
        model = generator(self.network, self.source.description)
        texts: list[str] = []
        for prompt in prompts:
            ids = preprocess.prompt(prompt).to(runtime.device)
            if not ids.shape[1]:
                raise SourceError("A prompt has no token; expected some text to continue.")
            with torch.inference_mode():
                [whole] = model.generate(
                    ids,
                    attention_mask=torch.ones_like(ids),
                    max_new_tokens=max_new_tokens,
                    do_sample=False,
                    use_cache=True,
                    eos_token_id=preprocess.end_id,
                    pad_token_id=preprocess.pad_id,
                )
            texts.append(preprocess.decode(whole[ids.shape[1] :].tolist()))
        return texts

    def outputs(self, inputs: Iterable[Any], *, batch_size: int = 32, precision: Precision = "float32") -> Tensor:
        """The network's outputs (samples, outputs), float32: logits or values. Arguments as for `predict`.

        Of a language model inputs are windows of tokens, as a divided task's samples are, and outputs each window's
        negative log-likelihood and the number of tokens that it is of.
        """
        # One at a time: encoded they take little room, decoded (a photograph) much.
        items = [self.source.preprocess.encode(_decode(sample, self.source.modality)) for sample in _samples(inputs)]
        if not items:
            return torch.empty(0, len(self.classes))
        order = _by_length(items, self.source.modality)
        runtime = choose_runtime(precision)
        runtime.place(self.network)
        parts: list[Tensor] = []
        with torch.inference_mode():
            for start in range(0, len(items), batch_size):
                chosen = [items[i] for i in order[start : start + batch_size]]
                batch = runtime.inputs(self.source.preprocess.collate(chosen))
                with runtime.accelerator.autocast():
                    parts.append(self.network(*batch).float().cpu())
        return torch.cat(parts)[torch.from_numpy(np.argsort(order))]

    def save(self, folder: str | Path) -> None:
        """Write the model into a folder of its own, complete: weights, preprocessing, classes, record, model card.

        Raises:
            RunError: The folder cannot be written.
        """
        folder = Path(folder)
        described = self._describe()
        json.dumps(described, allow_nan=False)  # what cannot be written is met before anything is removed
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # The description goes first and comes last: a folder without one holds no model, so never half of two.
            (folder / MODEL_FILE).unlink(missing_ok=True)
            self.source.preprocess.save(folder)
            # Safetensors wants tensors that share no memory and lie in plain order.
            state = {k: v.detach().cpu().contiguous().clone() for k, v in self.network.state_dict().items()}
            with atomic_open(folder / WEIGHTS_FILE) as file:
                file.write(save(state))
            (folder / LEARNED_FILE).unlink(missing_ok=True)
            if self.learned is not None:
                with atomic_open(folder / LEARNED_FILE) as file:
                    file.write(save({"hashes": torch.from_numpy(self.learned)}))
            with atomic_open(folder / CARD_FILE) as file:
                file.write(str(model_card(self.source, self.kind, self.classes, self.record)).encode())
            write_json(folder / MODEL_FILE, {**described, "digests": digests(folder)})
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
            "taps": [asdict(tap) for tap in tapped(self.network.body)[1] or ()],
            "peft": self.network.body.settings if isinstance(self.network.body, Wrapped) else None,
            "head": describe_head(self.network.head),
            "kind": self.kind,
            "classes": list(self.classes),
            "record": self.record,
        }


def load(folder: str | Path, *, source: Source | None = None) -> AdaptedModel:
    """The model that a run left.

    Args:
        folder: Of a run (its best model is taken) or of a saved model.
        source: Needed where the model was adapted from an `nn.Module` of yours, whose code no file holds.

    Raises:
        RunError: There is no model, its files are damaged, or it needs a source.
    """
    model = read(folder, source)
    return AdaptedModel(model.network, model.source, model.classes, model.record, model.kind, model.learned)


def _class(named: dict[str, float]) -> Prediction:
    best = max(named, key=named.__getitem__)
    return Prediction(best, named[best], named)


def _labels(named: dict[str, float]) -> LabelsPrediction:
    return LabelsPrediction([name for name, p in named.items() if p > THRESHOLD], named)


def _values(named: dict[str, float]) -> ValuesPrediction:
    return ValuesPrediction(named)


def _samples(inputs: Iterable[Any]) -> Iterable[Any]:
    if isinstance(inputs, (str, Path)):
        raise TypeError(f"predict takes a list of samples; put {inputs!r} into one: predict([{inputs!r}])")
    if is_frame(inputs):  # as an iterable it gives the names of its columns
        raise TypeError("predict takes samples, not a DataFrame; give its column of them, e.g. predict(frame['text'])")
    return inputs


def _by_length(items: Sequence[Any], modality: str) -> np.ndarray[Any, np.dtype[np.intp]]:
    """An order in which texts of like length go through the network together; of other samples theirs."""
    return np.argsort([len(item) if modality == "text" else 0 for item in items], kind="stable")


def _decode(sample: Any, modality: str) -> Any:
    if modality != "image":
        return sample
    from PIL import Image

    from bequest.data.images import open_image

    if isinstance(sample, (str, Path)):
        return open_image(Path(sample))
    return Image.fromarray(np.asarray(sample)) if not isinstance(sample, Image.Image) else sample
