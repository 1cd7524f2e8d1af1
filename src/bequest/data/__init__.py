"""Labelled data, from a path or from Python, to a `bequest.core.task.Task`."""

from bequest.data.arrays import from_arrays
from bequest.data.loading import load
from bequest.data.pairs import from_dataset

__all__ = ["from_arrays", "from_dataset", "load"]
