"""What every part of the engine needs to know of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from bequest.core.observe import Observer
from bequest.core.task import HashArray, Task
from bequest.engine.runtime import Runtime
from bequest.engine.store import Store
from bequest.nn.objectives import OBJECTIVES, Objective
from bequest.sources.source import Source

Indices = np.ndarray[Any, np.dtype[np.int64]] | Sequence[int]


@dataclass
class Passes:
    """Samples that frozen bodies were asked about, and those that had to be computed."""

    asked: int = 0
    computed: int = 0


@dataclass
class Context:
    """One source and one task on one machine.

    Attributes:
        source: The pretrained network.
        task: The labelled data.
        store: Where frozen outputs are kept.
        runtime: Device, precision, layout.
        observer: Hears of progress.
        batch_size: Samples in a forward pass without gradients.
        checkpoint_every_s: Seconds of training that a killed process may lose; writing a large network's state costs
            seconds itself.
        passes: Counts frozen passes.
    """

    source: Source
    task: Task
    store: Store
    runtime: Runtime
    observer: Observer
    batch_size: int = 32
    checkpoint_every_s: float = 60.0
    passes: Passes = field(default_factory=Passes)

    @property
    def objective(self) -> Objective:
        """What the task's kind is trained on and scored by."""
        return OBJECTIVES[self.task.kind]

    def hashes(self, indices: Indices) -> HashArray:
        """uint8 (samples, 16): content hashes of some samples."""
        return self.task.hashes[np.asarray(indices, dtype=np.int64)]

    def labels(self, indices: Indices) -> torch.Tensor:
        """Labels of some samples: int64 (samples,), of the other kinds float32 (samples, outputs)."""
        return torch.from_numpy(self.task.labels[np.asarray(indices, dtype=np.int64)])
