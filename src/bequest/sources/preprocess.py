"""From decoded samples to tensors, in two steps: `encode` one sample (stored), `collate` a batch (cheap)."""

from __future__ import annotations

import hashlib
import json
import math
import uuid
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from bequest.core.errors import RunError, SourceError
from bequest.core.task import Modality
from bequest.core.typed import check_fields

TOKENIZER_FILE = "tokenizer.json"

_MOST_SLENDER = 32
"""Longer over shorter side beyond which an image's ends are cut off before it is resized: a crop of its centre never
sees them, and enlarging them may take more memory than there is."""

_PART_PIXELS = 2**22
"""Of an image that are made RGB at a time, which takes up to 30 bytes for each."""
_LARGEST_SIDE = 4096
"""Pixels; networks take a few hundred."""
_MOST_TOKENS = 2**24
_INTERPOLATIONS = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")

Augment = Callable[[Any, int | None], Any]
"""From an RGB image, and the pixels that its shorter side needs (None: all), to an augmented view of it."""


class Preprocess(Protocol):
    """What a source expects of its inputs."""

    @property
    def modality(self) -> Modality:
        """What a sample is."""
        ...

    @property
    def fingerprint(self) -> str:
        """Hex digest of everything that changes what `encode` and `collate` make."""
        ...

    @property
    def persistent(self) -> bool:
        """Whether the fingerprint holds beyond this process."""
        ...

    def encode(self, sample: Any) -> np.ndarray[Any, Any]:
        """The sample as one array whose first dimension may vary between samples (tokens)."""
        ...

    def encode_view(self, sample: Any, augment: Augment) -> np.ndarray[Any, Any]:
        """As `encode`, of an augmented view of the sample.

        Raises:
            SourceError: Samples of this kind have no views.
        """
        ...

    def collate(self, items: Sequence[np.ndarray[Any, Any]]) -> tuple[Tensor, ...]:
        """The network's inputs for a batch of encoded samples."""
        ...

    def describe(self) -> dict[str, Any]:
        """Plain data for `load`."""
        ...

    def save(self, folder: Path) -> None:
        """Write what `describe` cannot hold (a tokenizer's vocabulary)."""
        ...


@dataclass(frozen=True)
class TextPreprocess:
    """Tokenise and pad.

    Attributes:
        tokenizer_json: The tokenizer in the format of the `tokenizers` library.
        max_tokens: Longer texts are cut off; special tokens count.
        pad_token: Fills short texts of a batch.
    """

    tokenizer_json: str
    max_tokens: int
    pad_token: str = "[PAD]"
    modality: Modality = "text"
    persistent: bool = True

    @cached_property
    def _tokenizer(self) -> Any:
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_str(self.tokenizer_json)
        tokenizer.no_padding()
        tokenizer.enable_truncation(self.max_tokens)
        return tokenizer

    @property
    def fingerprint(self) -> str:
        """Hex digest of the vocabulary and the token limit."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        return _digest(self.tokenizer_json, self.max_tokens, self.pad_token)

    def limited(self, max_tokens: int) -> TextPreprocess:
        """The same with another token limit."""
        return replace(self, max_tokens=max_tokens)

    def knows(self, token: str) -> bool:
        """Whether the vocabulary has it."""
        return self._tokenizer.token_to_id(token) is not None

    @property
    def words(self) -> dict[str, int]:
        """The vocabulary: ids by token."""
        return self._tokenizer.get_vocab()

    def encode(self, sample: str) -> np.ndarray[Any, Any]:
        """Token ids, int32 (tokens,); one padding token where a text has none."""
        ids = self._tokenizer.encode(sample).ids or [self._tokenizer.token_to_id(self.pad_token)]
        return np.array(ids, dtype=np.int32)

    def encode_view(self, sample: str, augment: Augment) -> np.ndarray[Any, Any]:
        """Texts have no views."""
        raise _no_views("text")

    def collate(self, items: Sequence[np.ndarray[Any, Any]]) -> tuple[Tensor, ...]:
        """`input_ids` and `attention_mask`, both int64 (batch, longest)."""
        longest = max(len(item) for item in items)
        ids = np.full((len(items), longest), self._tokenizer.token_to_id(self.pad_token), dtype=np.int64)
        mask = np.zeros((len(items), longest), dtype=np.int64)
        for row, item in enumerate(items):
            ids[row, : len(item)] = item
            mask[row, : len(item)] = 1
        return torch.from_numpy(ids), torch.from_numpy(mask)

    def describe(self) -> dict[str, Any]:
        """Plain data for `load`; the vocabulary goes into a file of its own."""
        return {"kind": "text", "max_tokens": self.max_tokens, "pad_token": self.pad_token}

    def save(self, folder: Path) -> None:
        """Write the tokenizer."""
        (folder / TOKENIZER_FILE).write_text(self.tokenizer_json, encoding="utf-8")


@dataclass(frozen=True)
class ImagePreprocess:
    """Resize the shorter side, crop the centre, scale to [0, 1], normalise; rounding as timm and torchvision round.

    Attributes:
        size: Height and width of the input, pixels.
        mean: Of each channel.
        std: Of each channel.
        crop: Fraction of the resized image's side that the crop keeps.
        interpolation: PIL's name: `bicubic`, `bilinear`, `lanczos`, `nearest`, `box` or `hamming`.
        resize: Shorter side before the crop, pixels; None for what `crop` makes of `size`.
        squash: Resize both sides to that length, whatever the image's proportions.
    """

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    crop: float = 0.875
    interpolation: str = "bicubic"
    resize: int | None = None
    squash: bool = False
    modality: Modality = "image"
    persistent: bool = True

    @property
    def fingerprint(self) -> str:
        """Hex digest of all settings."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        return _digest(json.dumps(asdict(self), sort_keys=True))

    def encode(self, sample: Any) -> np.ndarray[Any, Any]:
        """uint8 (size, size, 3) of a PIL image of any mode."""
        from PIL import Image

        shorter = self.resize or math.floor(self.size / self.crop)
        image = _thinned(_to_rgb(sample), max(self.size, shorter)) if self.squash else _middle(_to_rgb(sample))
        sides = [max(self.size, int(shorter * side / min(image.size))) for side in image.size]
        width, height = [max(self.size, shorter)] * 2 if self.squash else sides
        image = image.resize((width, height), Image.Resampling[self.interpolation.upper()])
        left, top = round((width - self.size) / 2), round((height - self.size) / 2)
        return np.asarray(image.crop((left, top, left + self.size, top + self.size)))

    def encode_view(self, sample: Any, augment: Augment) -> np.ndarray[Any, Any]:
        """uint8 (size, size, 3): the whole view, whose crop has been made, at the network's size."""
        from PIL import Image

        view = augment(_middle(_to_rgb(sample)), self.size)
        return np.asarray(view.resize((self.size, self.size), Image.Resampling[self.interpolation.upper()]))

    def resized(self, size: int) -> ImagePreprocess:
        """The same for an input of another size."""
        resize = None if self.resize is None else round(self.resize * size / self.size)
        return replace(self, size=size, resize=resize)

    def collate(self, items: Sequence[np.ndarray[Any, Any]]) -> tuple[Tensor, ...]:
        """Pixels, float32 (batch, 3, size, size)."""
        pixels = torch.from_numpy(np.stack(items)).permute(0, 3, 1, 2).float()
        mean = torch.tensor(self.mean).view(3, 1, 1) * 255
        std = torch.tensor(self.std).view(3, 1, 1) * 255
        return ((pixels - mean) / std,)

    def describe(self) -> dict[str, Any]:
        """Plain data for `load`."""
        return {
            "kind": "image",
            **{k: v for k, v in asdict(self).items() if k not in ("modality", "persistent")},
        }

    def save(self, folder: Path) -> None:
        """Nothing: `describe` holds everything."""


@dataclass(frozen=True)
class FunctionPreprocess:
    """A user's function from a sample to an array or tensor of one shape.

    Attributes:
        function: Sample → array or tensor without the batch dimension; None takes arrays as they are.
        modality: What a sample is.
        version: Names the function for certain, so that what it made may be kept from run to run; change it
            whenever the function, or anything that it calls, changes. Empty: nothing outlives this process.
    """

    function: Callable[[Any], Any] | None = None
    modality: Modality = "array"
    version: str = ""

    @property
    def persistent(self) -> bool:
        """Whether a version, or the absence of a function, names what it does for certain."""
        return bool(self.version) or self.function is None

    @property
    def fingerprint(self) -> str:
        """Hex digest of name and version; unique to this object where there is no version."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        name = getattr(self.function, "__qualname__", type(self.function).__qualname__)
        return _digest("function", name, self.version if self.persistent else uuid.uuid4())

    def encode(self, sample: Any) -> np.ndarray[Any, Any]:
        """The function's result as an array."""
        return np.asarray(self.function(sample) if self.function else sample)

    def encode_view(self, sample: Any, augment: Augment) -> np.ndarray[Any, Any]:
        """The function's result for a view of the image."""
        if self.modality != "image":
            raise _no_views(self.modality)
        return self.encode(augment(_to_rgb(sample), None))

    def collate(self, items: Sequence[np.ndarray[Any, Any]]) -> tuple[Tensor, ...]:
        """The stacked arrays, floating point as float32.

        Raises:
            SourceError: The arrays differ in shape.
        """
        shapes = sorted({item.shape for item in items})
        if len(shapes) > 1:
            raise SourceError(
                f"The preprocessing made arrays of different shapes: {shapes[:4]}; expected one. Resize or pad in it."
            )
        batch = torch.from_numpy(np.stack(items))
        return (batch.float() if batch.is_floating_point() else batch,)

    def describe(self) -> dict[str, Any]:
        """Only a label: a function cannot be stored."""
        return {"kind": "function"}

    def save(self, folder: Path) -> None:
        """Nothing: a function cannot be stored."""


def _tokenizer_json(file: Path) -> str:
    from tokenizers import Tokenizer

    try:
        text = file.read_text(encoding="utf-8")
        Tokenizer.from_str(text)
    except Exception as error:  # the tokenizers library raises nothing more precise
        raise RunError(
            f"{file} is damaged ({error}); expected the model's tokenizer. Copy the folder of the model again."
        ) from error
    return text


def check_image(preprocess: ImagePreprocess) -> ImagePreprocess:
    """The preprocessing, if it can be carried out and takes bounded memory.

    Raises:
        ValueError: A number is out of range; the field is named.
        TypeError: A field is of another type; it is named.
    """
    check_fields(preprocess)
    p, side = preprocess, f"from 1 to {_LARGEST_SIDE} pixels"
    _expect("size", p.size, 1 <= p.size <= _LARGEST_SIDE, side)
    _expect("crop", p.crop, 0 < p.crop <= 1, "above 0, and 1 at most")
    _expect("resize", p.resize, 1 <= (p.resize or p.size / p.crop) <= _LARGEST_SIDE, f"{side}, that of size / crop too")
    _expect("interpolation", p.interpolation, p.interpolation.lower() in _INTERPOLATIONS, ", ".join(_INTERPOLATIONS))
    for name, values in (("mean", p.mean), ("std", p.std)):
        are_numbers = all(isinstance(v, float | int) and math.isfinite(v) for v in values)
        _expect(name, values, len(values) == 3 and are_numbers, "three numbers")
    _expect("std", p.std, min(p.std) > 0, "three numbers above 0")
    return preprocess


def _check_text(preprocess: TextPreprocess) -> TextPreprocess:
    """The preprocessing, if it can be carried out; raises as `check_image`."""
    check_fields(preprocess)
    limit, token = preprocess.max_tokens, preprocess.pad_token
    _expect("max_tokens", limit, 1 <= limit <= _MOST_TOKENS, f"from 1 to {_MOST_TOKENS:,}")
    _expect("pad_token", token, preprocess.knows(token), "a token that the tokenizer knows")
    return preprocess


def _expect(field: str, value: object, is_fine: bool, expected: str) -> None:
    if not is_fine:
        raise ValueError(f"{field} is {str(value)[:60]!r}, expected {expected}")


def load(description: dict[str, Any], folder: Path | None) -> Preprocess:
    """The preprocessing that `describe` and `save` stored.

    Raises:
        RunError: The description is of an unknown kind, or the tokenizer's file is missing.
        ValueError: A field is out of range; it is named.
        TypeError: A field is of another type, or there is no such; it is named.
    """
    settings = {k: v for k, v in description.items() if k != "kind"}
    if description.get("kind") == "language":
        from bequest.sources.language import LanguagePreprocess  # which is made of a TextPreprocess

        made = LanguagePreprocess(**{**settings, "text": load(settings["text"], folder)})
        check_fields(made)
        known = not made.end_token or made.text.knows(made.end_token)
        _expect("end_token", made.end_token, known, "a token that the tokenizer knows, or none")
        return made
    if description.get("kind") == "text" and folder is not None:
        file = folder / TOKENIZER_FILE
        if not file.is_file():
            raise RunError(f"{file} is missing; expected the model's tokenizer. Copy the folder of the model whole.")
        return _check_text(TextPreprocess(_tokenizer_json(file), **settings))
    if description.get("kind") == "image":
        lists = {k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()}
        return check_image(ImagePreprocess(**lists))  # pyright: ignore[reportArgumentType]
    raise RunError(
        f"The model's preprocessing is of kind {description.get('kind')!r}, which cannot be loaded from a file. "
        "Give the source that it was adapted from: bequest.load(folder, source=...)."
    )


def example_inputs(preprocess: Preprocess) -> tuple[Tensor, ...] | None:
    """A small batch for a network, made of nothing in particular; None where only the user knows one."""
    from bequest.sources.language import LanguagePreprocess  # which is made of a TextPreprocess

    texts = ("a", "an example", "an example of three words")
    if isinstance(preprocess, TextPreprocess):
        return preprocess.collate([preprocess.encode(text) for text in texts])
    if isinstance(preprocess, LanguagePreprocess):
        return preprocess.collate([window for text in texts for window in preprocess.windows(text)])
    if isinstance(preprocess, ImagePreprocess):
        pixels = np.random.default_rng(0).integers(0, 256, (3, preprocess.size, preprocess.size, 3), dtype=np.uint8)
        return preprocess.collate(list(pixels))
    return None


def _no_views(modality: str) -> SourceError:
    return SourceError(f"Augmented views are made of images; these samples are of kind {modality!r}. Use --views 1.")


def _to_rgb(image: Any) -> Any:
    """RGB of an image of any mode, part by part: what is made on the way takes several times an image's room."""
    from PIL import Image

    boxes = _boxes(*image.size)
    deep = boxes if _is_deep(image.mode) else []
    largest = float(np.max([np.asarray(image.crop(box)).max() for box in deep], initial=0))  # NaN, if there is one
    if len(boxes) == 1:
        return _part_to_rgb(image, largest)
    made = Image.new("RGB", image.size)
    for box in boxes:
        made.paste(_part_to_rgb(image.crop(box), largest), box[:2])
    return made


def _boxes(width: int, height: int) -> list[tuple[int, int, int, int]]:
    """Left, top, right and bottom of the parts of an image, of at most `_PART_PIXELS` each."""
    columns = min(width, _PART_PIXELS)
    rows = max(1, _PART_PIXELS // columns)
    return [
        (left, top, min(left + columns, width), min(top + rows, height))
        for top in range(0, height, rows)
        for left in range(0, width, columns)
    ]


def _is_deep(mode: str) -> bool:
    return mode.startswith("I;16") or mode in ("I", "F")


def _part_to_rgb(image: Any, largest: float) -> Any:
    if _is_deep(image.mode):
        from PIL import Image

        image = Image.fromarray(_to_8_bits(np.asarray(image).astype(np.float64), image.mode, largest))
    if image.mode in ("La", "RGBa"):
        image = image.convert(image.mode.upper())
    if "A" in image.getbands() or "transparency" in image.info:
        from PIL import Image

        # Transparent pixels hold arbitrary colours; on white they look as the image was meant to look.
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _middle(image: Any) -> Any:
    longest = _MOST_SLENDER * min(image.size)
    if max(image.size) <= longest:
        return image
    width, height = (min(side, longest) for side in image.size)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def _thinned(image: Any, side: int) -> Any:
    """A slender image with fewer pixels along its longer side: PIL widens all of them before it shortens that."""
    width, height = image.size
    factors = [
        max(1, long // max(_MOST_SLENDER * short, 4 * side)) for long, short in ((width, height), (height, width))
    ]
    return image if factors == [1, 1] else image.reduce(tuple(factors))


def _to_8_bits(values: np.ndarray[Any, Any], mode: str, largest: float) -> np.ndarray[Any, Any]:
    # I;16 is 16 bits by definition. I and F have no fixed range: files hold 16 bits, 8 bits, or 0 to 1 in them.
    if mode.startswith("I;16") or largest > 255:
        values = values / 257
    elif mode == "F" and largest <= 1:
        values = values * 255
    return values.round().clip(0, 255).astype(np.uint8)


def _digest(*parts: object) -> str:
    return hashlib.blake2b("\0".join(map(str, parts)).encode(), digest_size=16).hexdigest()
