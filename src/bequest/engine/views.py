"""Views of a task's samples: which there are, and what they hold."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from bequest.core.checks import as_whole
from bequest.core.errors import MethodError
from bequest.core.task import HashArray, Modality
from bequest.data.views import Mix, ViewRecipe, mix_images, mix_labels, parse_recipe
from bequest.engine.store import Array, lengths_of

if TYPE_CHECKING:
    from bequest.engine.context import Context


UNLIMITED = "unlimited"
DEFAULT_NUMBER = 1
DEFAULT_RECIPE = "light"


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
        number: How many of each sample; `unlimited` for fresh ones in every epoch; None for the modality's default.
        recipe: A recipe's name and changes to it; None for the default.
        modality: What a sample is; only images have more than one view.

    Raises:
        MethodError: The number or the recipe is none, or samples of this kind have one view only.
    """
    if number is None:
        number = DEFAULT_NUMBER if modality == "image" else 1
    whole = as_whole(int(number) if isinstance(number, str) and number.isdigit() else number)
    if number != UNLIMITED and (whole is None or whole < 1):
        raise MethodError(f"--views is {number!r}; expected 1 or more, or {UNLIMITED!r}.")
    parsed = parse_recipe(recipe or DEFAULT_RECIPE)
    if modality != "image":
        if whole != 1 or recipe:
            raise MethodError(
                f"--views and --augment are for images; these samples are of kind {modality!r}, which have one view. "
                "Leave them out."
            )
        return Views()
    return Views() if whole == 1 or parsed == ViewRecipe() else Views(whole, parsed)


@dataclass(frozen=True)
class Mixed(Sequence[Array]):
    """Encoded samples of one view, some mixed with another of them.

    Attributes:
        items: Before mixing.
        mixes: With which, and how; None where a sample is as it is.
    """

    items: Sequence[Array]
    mixes: Sequence[Mix | None]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        mix = self.mixes[index]
        return self.items[index] if mix is None else mix_images(self.items[index], self.items[mix.partner], mix)

    @property
    def lengths(self) -> Array:
        """First dimension of each."""
        return lengths_of(self.items)


@dataclass(frozen=True)
class View:
    """One view of some samples.

    Attributes:
        items: Encoded.
        hashes: uint8 (samples, 16): what tells them apart within the view.
        labels: Of each, in the form that the loss takes.
        key: Names the view.
    """

    items: Sequence[Any]
    hashes: HashArray
    labels: Tensor
    key: Any = 0


def view(context: Context, indices: Array, labels: Tensor, number: int) -> View:
    """A view of some samples, mixed among themselves where its recipe says so.

    Args:
        context: The run.
        indices: Samples of the task.
        labels: Of each, as `Targets.labels` gives them.
        number: Which view. Where views are fresh in every epoch, augmented ones are made anew and not stored.
    """
    from bequest.engine.features import encode, encoded

    views, hashes = context.views, context.hashes(indices)
    stored = number == 0 or views.number is not None
    items: Sequence[Array] = encoded(context, indices, number) if stored else encode(context, indices, number)
    mixes = [views.recipe.partner(content.tobytes(), number, hashes) for content in hashes] if number else []
    if any(mixes):
        items, hashes = Mixed(items, mixes), _mixed_hashes(hashes, mixes)
    return View(items, hashes, _soft(context, labels, mixes), views.key(number))


def _soft(context: Context, labels: Tensor, mixes: Sequence[Mix | None]) -> Tensor:
    """Labels as probabilities or targets where the recipe mixes samples, so that all views' labels are of one form."""
    recipe = context.views.recipe
    if context.views.number == 1 or not (recipe.mixup or recipe.cutmix):
        return labels
    if context.task.kind == "classification":
        labels = F.one_hot(labels, len(context.task.classes)).float()
    mixed = labels.clone()
    for i, mix in enumerate(mixes):
        if mix is not None:
            mixed[i] = mix_labels(labels[i], labels[mix.partner], mix.share)
    return mixed


def _mixed_hashes(hashes: HashArray, mixes: Sequence[Mix | None]) -> HashArray:
    found = hashes.copy()
    for i, mix in enumerate(mixes):
        if mix is not None:
            content = hashes[i].tobytes() + hashes[mix.partner].tobytes() + repr((mix.share, mix.box)).encode()
            found[i] = np.frombuffer(hashlib.blake2b(content, digest_size=16).digest(), np.uint8)
    return found
