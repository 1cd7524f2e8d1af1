"""Views of a task's samples: which there are, and what they hold."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bequest.core.task import HashArray
from bequest.data.views import Mix, mix_images, mix_labels
from bequest.engine.context import Context
from bequest.engine.features import encode, encoded
from bequest.engine.store import Array, lengths_of

if TYPE_CHECKING:
    from bequest.engine.teaching import SoftTargets


@dataclass(frozen=True)
class Fresh(Sequence[Array]):
    """Encoded samples that are made anew whenever they are asked for.

    Attributes:
        context: The run.
        indices: Samples of the task.
        number: Which view.
    """

    context: Context
    indices: Array
    number: int

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return Fresh(self.context, self.indices[index], self.number)
        return encode(self.context, int(self.indices[index]), self.number)


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
            raise TypeError("a part of a mixed view may lack partners; ask for its items one by one")
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
        labels: Of each, in the form that the loss takes; −1, or not a number, for a sample without one.
        key: Names the view.
        soft: Of the train part's samples, which come first, what the teachers make of them; None without teachers.
    """

    items: Sequence[Any]
    hashes: HashArray
    labels: Tensor
    key: Any = 0
    soft: SoftTargets | None = None


def view(context: Context, indices: Array, labels: Tensor, number: int) -> View:
    """A view of some samples, mixed among themselves where its recipe says so.

    Args:
        context: The run.
        indices: Samples of the task.
        labels: Of each, as `Targets.labels` gives them.
        number: Which view. Where views are fresh in every epoch, augmented ones are made anew and not stored.
    """
    views, hashes = context.views, context.hashes(indices)
    stored = number == 0 or views.number is not None
    items: Sequence[Array] = encoded(context, indices, number) if stored else Fresh(context, indices, number)
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
        known = labels >= 0
        labels = F.one_hot(labels.clamp(min=0), len(context.task.classes)).float()
        labels[~known] = torch.nan  # what is mixed with a sample without a label has none
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
