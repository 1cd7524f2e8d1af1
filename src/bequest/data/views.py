"""Augmentation as numbered views: recipe, sample and number give the view, at any time, in any run."""

from __future__ import annotations

import hashlib
import json
import math
import operator
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cache, cached_property
from random import Random
from typing import TYPE_CHECKING, Any

import numpy as np

from bequest.core.checks import as_whole
from bequest.core.errors import MethodError, nearest
from bequest.core.task import HashArray, Modality

if TYPE_CHECKING:
    from PIL.Image import Image

_VERSION = 1
"""Part of every fingerprint: to be raised when the same recipe begins to make other views."""

_LARGEST_MAGNITUDE = 30

_LIMITS = {
    "area": (0.01, 1.0),
    "aspect": (0.1, 10.0),
    "flip": (0.0, 1.0),
    "num_ops": (0, 16),
    "magnitude": (0.0, float(_LARGEST_MAGNITUDE)),
    "brightness": (0.0, 2.0),
    "contrast": (0.0, 2.0),
    "saturation": (0.0, 2.0),
    "hue": (0.0, 0.5),
    "mixup": (0.0, 100.0),
    "cutmix": (0.0, 100.0),
}


def _typed(like: Any, value: Any) -> Any:
    if isinstance(like, tuple):
        low, high = value
        return float(low), float(high)
    return operator.index(value) if isinstance(like, int) else float(value)


def _fault(name: str, value: Any) -> str:
    """What is wrong with a setting's value; empty where nothing is."""
    least, most = _LIMITS[name]
    low, high = value if isinstance(value, tuple) else (value, value)
    if least <= low <= high <= most:
        return ""
    if isinstance(value, tuple):
        return f"{name} is {low:g}:{high:g}, expected LOW:HIGH between {least:g} and {most:g}"
    return f"{name} is {value:g}, expected a number between {least:g} and {most:g}"


@dataclass(frozen=True)
class Mix:
    """What a view is mixed with, and how.

    Attributes:
        partner: Position of the other sample in the pool.
        share: Weight of the sample itself, 0 to 1, in image and label.
        box: What the partner's pixels replace: top, left, height and width as fractions of the image (CutMix); None
            where the two images are averaged (mixup).
    """

    partner: int
    share: float
    box: tuple[float, float, float, float] | None = None


@dataclass(frozen=True)
class ViewRecipe:
    """How the views of an image are drawn; the defaults change nothing.

    View 0 is the plain sample, every other number an augmented one. All that is random follows from recipe, content
    hash and number: no seed and no global random state is read or changed, so threads may draw views side by side.
    Everything is relative to the image, so the same view of a smaller copy differs by interpolation alone.

    Attributes:
        area: Smallest and largest area of the crop, fractions of the image's; 1:1 crops nothing.
        aspect: Smallest and largest width/height of the crop, in pixels.
        flip: Probability of being mirrored left to right.
        num_ops: Operations of RandAugment, one after another.
        magnitude: How strong they are, 0 to 30.
        brightness: Of the colour jitter: the factor is between 1 − x and 1 + x.
        contrast: Likewise.
        saturation: Likewise.
        hue: Of the colour jitter: the shift is between −x and x turns of the colour wheel.
        mixup: α of mixup (Zhang et al. 2018, arXiv:1710.09412); 0 for none.
        cutmix: α of CutMix (Yun et al. 2019, arXiv:1905.04899); 0 for none. With both, each has an even chance.

    Raises:
        MethodError: Values are out of range: all of them are named.
    """

    area: tuple[float, float] = (1.0, 1.0)
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.0
    num_ops: int = 0
    magnitude: float = 9.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0

    def __post_init__(self) -> None:
        for f in fields(self):
            # One type a field, so that equal recipes have one fingerprint and plain data make a recipe again.
            object.__setattr__(self, f.name, _typed(f.default, getattr(self, f.name)))
        faults = [fault for name, value in asdict(self).items() if (fault := _fault(name, value))]
        if faults:
            raise MethodError(f"A recipe of views cannot be made: {'; '.join(faults)}.")

    @property
    def fingerprint(self) -> str:
        """Hex digest of everything that the views depend on beside sample and number."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        settings = json.dumps({"version": _VERSION, **self.describe()}, sort_keys=True)
        return hashlib.blake2b(settings.encode(), digest_size=16).hexdigest()

    def describe(self) -> dict[str, Any]:
        """Plain data: `ViewRecipe(**recipe.describe())` is the recipe again."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    def apply(self, image: Image, content: bytes, number: int, side: int | None = None) -> Image:
        """A view before mixing: the crop, flipped, then RandAugment, then the colour jitter.

        Args:
            image: RGB.
            content: The sample's content hash.
            number: Which view; 0 gives the image as it is.
            side: Pixels of the shorter side that are enough: a larger crop is reduced to them, which makes large photos
                many times faster. None keeps the crop in its own pixels.

        Raises:
            ValueError: The number is negative, or an augmented view is asked for of an image that is not RGB.
        """
        random = self._random("image", content, number)
        if number == 0:
            return image
        if image.mode != "RGB":
            raise ValueError(f"Views are drawn of RGB images; this one's mode is {image.mode}. Convert it first.")
        image = self._flip(_reduced(self._crop(image, random), side), random)
        return self._jitter(self._rand_augment(image, random), random)

    def partner(self, content: bytes, number: int, pool: HashArray) -> Mix | None:
        """What a view is mixed with; None where it is not mixed.

        Share and box do not depend on the pool. The partner is the member with the highest score (rendezvous
        hashing), whatever the pool's order; it stays while it is a member, unless one with a higher score joins.

        Args:
            content: The sample's content hash, 16 bytes.
            number: Which view; 0 is never mixed.
            pool: uint8 (samples, 16): content hashes of possible partners; the sample itself is not taken.

        Raises:
            ValueError: The number is negative.
        """
        random = self._random("mix", content, number)
        alphas = [alpha for alpha in (self.mixup, self.cutmix) if alpha]
        if number == 0 or not alphas:
            return None
        key = random.getrandbits(64), random.getrandbits(64)
        use_cutmix = random.random() < 0.5 if len(alphas) == 2 else self.cutmix > 0
        share = random.betavariate(*[self.cutmix if use_cutmix else self.mixup] * 2)
        box = _box(share, random.random(), random.random()) if use_cutmix else None
        partner = _highest(key, pool, content)
        if partner is None:
            return None
        return Mix(partner, 1 - box[2] * box[3] if box else share, box)

    def _random(self, purpose: str, content: bytes, number: int) -> Random:
        if number < 0:
            raise ValueError(f"Views are numbered from 0; got {number}.")
        key = f"{self.fingerprint} {purpose} {number} ".encode() + content
        return Random(int.from_bytes(hashlib.blake2b(key, digest_size=32).digest(), "big"))

    def _crop(self, image: Image, random: Random) -> Image:
        area = random.uniform(*self.area)
        aspect = math.exp(random.uniform(*map(math.log, self.aspect)))
        # The aspect gives way where the crop would not fit: the area is kept, and no draw is ever thrown away.
        width = min(max(math.sqrt(area * aspect * image.height / image.width), area), 1.0)
        height = area / width
        left, right = _pixels(random.random() * (1 - width), width, image.width, 1)
        top, bottom = _pixels(random.random() * (1 - height), height, image.height, 1)
        return image if area == 1 else image.crop((left, top, right, bottom))

    def _flip(self, image: Image, random: Random) -> Image:
        return _functional().horizontal_flip(image) if random.random() < self.flip else image

    def _rand_augment(self, image: Image, random: Random) -> Image:
        operations = list(rand_augment_operations().values())
        for _ in range(self.num_ops):
            operation = operations[int(random.random() * len(operations))]
            sign = 1 if random.random() < 0.5 else -1
            image = operation(image, sign * self.magnitude / _LARGEST_MAGNITUDE)
        return image

    def _jitter(self, image: Image, random: Random) -> Image:
        functional = _functional()
        steps = (
            (functional.adjust_brightness, *_around_1(self.brightness)),
            (functional.adjust_contrast, *_around_1(self.contrast)),
            (functional.adjust_saturation, *_around_1(self.saturation)),
            (functional.adjust_hue, -self.hue, self.hue),
        )
        for adjust, low, high in sorted(steps, key=lambda _: random.random()):
            if low < high:
                image = adjust(image, random.uniform(low, high))
        return image


@cache
def rand_augment_operations() -> dict[str, Callable[[Image, float], Image]]:
    """RandAugment's operations by name (Cubuk et al. 2020, arXiv:1909.13719), with torchvision's ranges.

    Each takes an image and a magnitude from −1 to 1. `torchvision.transforms.v2.RandAugment` itself draws from torch's
    global generator, which the threads that read images share: what they drew would depend on which came first.
    """
    from torchvision.transforms.v2 import InterpolationMode

    functional, bilinear = _functional(), InterpolationMode.BILINEAR

    def affine(image: Image, shear: tuple[float, float] = (0, 0), shift: tuple[float, float] = (0, 0)) -> Image:
        return functional.affine(
            image,
            angle=0.0,
            translate=[shift[0] * image.width, shift[1] * image.height],
            scale=1.0,
            shear=[math.degrees(math.atan(s)) for s in shear],
            interpolation=bilinear,
            center=[0, 0],
        )

    shift = 150 / 331
    return {
        "Identity": lambda image, m: image,
        "ShearX": lambda image, m: affine(image, shear=(0.3 * m, 0)),
        "ShearY": lambda image, m: affine(image, shear=(0, 0.3 * m)),
        "TranslateX": lambda image, m: affine(image, shift=(shift * m, 0)),
        "TranslateY": lambda image, m: affine(image, shift=(0, shift * m)),
        "Rotate": lambda image, m: functional.rotate(image, 30 * m, bilinear),
        "Brightness": lambda image, m: functional.adjust_brightness(image, 1 + 0.9 * m),
        "Color": lambda image, m: functional.adjust_saturation(image, 1 + 0.9 * m),
        "Contrast": lambda image, m: functional.adjust_contrast(image, 1 + 0.9 * m),
        "Sharpness": lambda image, m: functional.adjust_sharpness(image, 1 + 0.9 * m),
        "Posterize": lambda image, m: functional.posterize(image, round(8 - 4 * abs(m))),
        "Solarize": lambda image, m: functional.solarize(image, 255 * (1 - abs(m))),
        "AutoContrast": lambda image, m: functional.autocontrast(image),
        "Equalize": lambda image, m: functional.equalize(image),
    }


def mix_images(image: np.ndarray[Any, Any], partner: np.ndarray[Any, Any], mix: Mix) -> np.ndarray[Any, Any]:
    """Two encoded images as one, of the same shape and dtype; integers are rounded.

    Args:
        image: The sample: (height, width, channels) or (channels, height, width), at most 4 channels.
        partner: The other image.
        mix: How.

    Raises:
        ValueError: The two differ in shape or dtype, or the shape does not tell which axis holds the channels.
    """
    if image.shape != partner.shape or image.dtype != partner.dtype:
        raise ValueError(
            f"Cannot mix {image.dtype} {image.shape} with {partner.dtype} {partner.shape}; expected the same."
        )
    if mix.box is None:
        mixed = mix.share * image.astype(np.float64) + (1 - mix.share) * partner
        return (mixed.round() if np.issubdtype(image.dtype, np.integer) else mixed).astype(image.dtype)
    axis = _first_spatial_axis(image.shape)
    top, left, height, width = mix.box
    rows = slice(*_pixels(top, height, image.shape[axis], 0))
    columns = slice(*_pixels(left, width, image.shape[axis + 1], 0))
    where = (slice(None),) * axis + (rows, columns)
    mixed = image.copy()
    mixed[where] = partner[where]
    return mixed


def mix_labels(label: Any, partner: Any, share: float) -> Any:
    """The labels of a mixed view.

    Args:
        label: One-hot, probabilities or targets of the sample: floating-point array or tensor.
        partner: Those of the other.
        share: Weight of the sample's.
    """
    return share * label + (1 - share) * partner


_CROPPED = ViewRecipe(area=(0.08, 1.0), flip=0.5, num_ops=2)

RECIPES = {
    "none": ViewRecipe(),
    "light": ViewRecipe(area=(0.6, 1.0), flip=0.5),
    "standard": _CROPPED,
    "strong": replace(_CROPPED, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, mixup=0.8, cutmix=1.0),
}
"""The recipes by name."""


def parse_recipe(text: str) -> ViewRecipe:
    """A recipe from its name and changes to it: `standard`, or `standard,mixup=0.2,flip=0`, or `light,area=0.3:1`.

    Raises:
        MethodError: Names are unknown or values out of range; the text names every fault and the nearest names.
    """
    name, *settings = (item.strip() for item in text.split(","))
    faults: list[str] = []
    if name not in RECIPES:
        faults.append(f"there is no recipe {name!r} ({nearest(name, RECIPES)})")
    changes: dict[str, Any] = {}
    for setting in settings:
        key, equals, value = (part.strip() for part in setting.partition("="))
        fault = _setting_fault(setting, key, equals, value) or (f"{key} is set twice" if key in changes else "")
        if fault:
            faults.append(fault)
        else:
            changes[key] = _read(key, value)
    if faults:
        raise MethodError(
            f"The views {text!r} are none: {'; '.join(faults)}. Expected a recipe's name and changes to it, as in "
            "'standard,mixup=0.2,flip=0'."
        )
    return replace(RECIPES[name], **changes)


def _setting_fault(setting: str, key: str, equals: str, value: str) -> str:
    if not equals:
        return f"{setting!r} is no change (expected NAME=VALUE)"
    if key not in _LIMITS:
        return f"there is no setting {key!r} ({nearest(key, _LIMITS)})"
    try:
        return _fault(key, _read(key, value))
    except ValueError:
        kinds = {tuple: "two numbers as in 0.6:1", int: "a whole number", float: "a number"}
        return f"{key} is {value!r}, expected {kinds[type(_default(key))]}"


def _default(name: str) -> Any:
    return getattr(RECIPES["none"], name)


def _read(name: str, text: str) -> Any:
    like = _default(name)
    if not isinstance(like, tuple):
        return type(like)(text)
    low, high = map(float, text.split(":"))
    return low, high


_UNLIMITED = "unlimited"
_DEFAULT_RECIPE = "light"


@dataclass(frozen=True)
class Views:
    """The views that training sees.

    Attributes:
        number: How many of each sample, the plain one among them; None for a fresh one in every epoch.
        recipe: How the others are made.
    """

    number: int | None = 1
    recipe: ViewRecipe = field(default_factory=ViewRecipe)

    def key(self, view: int) -> Any:
        """Names a view, for the store's keys: plain data."""
        return {"recipe": self.recipe.fingerprint, "number": view} if view else 0

    def describe(self) -> dict[str, Any]:
        """Plain data, for records."""
        return {"number": self.number, "recipe": self.recipe.describe() if self.number != 1 else None}


def choose_views(number: Any, recipe: str | None, modality: Modality) -> Views:
    """The views that a user asks for.

    Args:
        number: How many of each sample; `unlimited` for fresh ones in every epoch; None for 1.
        recipe: A recipe's name and changes to it; None for the default.
        modality: What a sample is; only images have more than one view.

    Raises:
        MethodError: The number or the recipe is none, or samples of this kind have one view only.
    """
    number = 1 if number is None else number
    whole = as_whole(int(number) if isinstance(number, str) and number.isdigit() else number)
    if number != _UNLIMITED and (whole is None or whole < 1):
        raise MethodError(f"--views is {number!r}; expected 1 or more, or {_UNLIMITED!r}.")
    parsed = parse_recipe(recipe or _DEFAULT_RECIPE)
    if modality != "image":
        if whole != 1 or recipe:
            raise MethodError(
                f"--views and --augment are for images; these samples are of kind {modality!r}, which have one view. "
                "Leave them out."
            )
        return Views()
    return Views() if whole == 1 or parsed == ViewRecipe() else Views(whole, parsed)


def _functional() -> Any:
    # Its annotations know tensors alone.
    from torchvision.transforms.v2 import functional

    return functional


def _reduced(image: Image, side: int | None) -> Image:
    if side is None or min(image.size) <= side:
        return image
    width, height = (round(pixels * side / min(image.size)) for pixels in image.size)
    return image.resize((width, height), reducing_gap=2)


def _around_1(strength: float) -> tuple[float, float]:
    return max(1 - strength, 0.0), 1 + strength


def _pixels(start: float, length: float, size: int, least: int) -> tuple[int, int]:
    """First pixel and end of what is nearest to a part of a side; it has `least` pixels or more."""
    first = min(round(start * size), size - least)
    return first, max(round((start + length) * size), first + least)


def _box(share: float, y: float, x: float) -> tuple[float, float, float, float]:
    """CutMix's box of area 1 − share around a point, cut off at the image's edges."""
    half = math.sqrt(1 - share) / 2
    top, left = max(y - half, 0.0), max(x - half, 0.0)
    return top, left, min(y + half, 1.0) - top, min(x + half, 1.0) - left


def _first_spatial_axis(shape: tuple[int, ...]) -> int:
    few = [len(shape) == 3 and shape[axis] <= 4 for axis in (0, -1)]
    if sum(few) != 1:
        raise ValueError(
            f"CutMix of arrays {shape}: expected (height, width, channels) or (channels, height, width) with at most "
            "4 channels, and more pixels than that a side."
        )
    return 1 if few[0] else 0


def _highest(key: tuple[int, int], pool: HashArray, content: bytes) -> int | None:
    """The position of the hash with the highest score under a key, the sample's own left out."""
    others = np.flatnonzero((pool != np.frombuffer(content, np.uint8)).any(axis=1))
    if not len(others):
        return None
    low, high = np.ascontiguousarray(pool[others]).view("<u8").T
    scores = _scrambled(_scrambled(low ^ np.uint64(key[0])) ^ high ^ np.uint64(key[1]))
    return int(others[scores.argmax()])


def _scrambled(values: np.ndarray[Any, np.dtype[np.uint64]]) -> np.ndarray[Any, np.dtype[np.uint64]]:
    """SplitMix64's mixing function (Steele et al. 2014, doi:10.1145/2660193.2660195)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
