"""Labelled data, from a path or from Python, to a `bequest.core.task.Task`."""

from bequest.data.arrays import from_arrays
from bequest.data.loading import load
from bequest.data.pairs import from_dataset
from bequest.data.texts import from_texts

__all__ = ["from_arrays", "from_dataset", "from_texts", "load"]
