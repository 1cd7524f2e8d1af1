"""What every part of the engine needs to know of a run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from bequest.core.errors import RunError, first_line
from bequest.core.observe import Observer
from bequest.core.results import read_json, write_json
from bequest.core.sealed import readable
from bequest.core.task import HashArray, Task
from bequest.data.views import Views
from bequest.engine.ranks import LostProcess, Ranks
from bequest.engine.runtime import Runtime
from bequest.engine.sharding import Sharding, divide
from bequest.engine.store import Store
from bequest.nn.network import Network
from bequest.nn.objectives import OBJECTIVES, Objective
from bequest.nn.taps import Tap
from bequest.sources.source import Source

if TYPE_CHECKING:
    from bequest.engine.teaching import Teaching
    from bequest.engine.workers import Workers

Indices = np.ndarray[Any, np.dtype[np.int64]] | Sequence[int]

PASSES_FILE = "passes.json"


@dataclass
class Passes:
    """Samples that frozen functions were asked about, those that had to be computed, and the seconds that this took.

    Of a trial every pass, which is a function and the samples that it is asked about, is written down before it begins
    for the first time. A trial that is killed and goes on then counts what one that was not interrupted does.

    Attributes:
        asked: By this process, samples.
        computed: By this process, samples.
        seconds: By this process.
        trial: Of the trial, by pass: samples asked about, and those that the store lacked.
    """

    asked: int = 0
    computed: int = 0
    seconds: float = 0.0
    trial: dict[str, list[int]] = field(default_factory=dict[str, list[int]])
    _file: Path | None = None
    _identity: Any = None

    def begin_trial(self, folder: Path | None, identity: Any) -> None:
        """From here on passes are those of a trial, or of one that goes on.

        Args:
            folder: Of the trial; None to write nothing down.
            identity: What the trial is; what another one wrote down is not read.
        """
        self._file, self._identity, self.trial = folder and folder / PASSES_FILE, identity, {}
        if self._file is not None and self._file.is_file():
            content = read_json(self._file)
            if isinstance(content, dict) and content.get("identity") == identity:
                self.trial = content.get("passes", {})

    def count(self, name: str, asked: int, computed: int) -> None:
        """A pass begins.

        Args:
            name: Of the function and the samples.
            asked: Samples that it is asked about.
            computed: Those that the store lacks.
        """
        self.asked += asked
        self.computed += computed
        if name not in self.trial:
            self.trial[name] = [asked, computed]
            if self._file is not None:
                write_json(self._file, {"identity": self._identity, "passes": self.trial}, durable=False)


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
        views: What training sees of each sample.
        cut: Whether training runs from what frozen layers made of each sample, where that can be; False trains the
            plain way.
        taps: Of the source's body, what the run will ask for: whatever pass comes first makes it along.
        source_task: The source's own labelled data, for methods that learn from them; None where none were given.
        teaching: Teachers, and what training stages learn from them; None without.
        workers: Processes elsewhere that frozen passes are computed by; None for this one.
        passes: Counts frozen passes.
        ranks: The processes that carry out together what this context is handed to; this one alone unless a trial is
            divided.
        said: What the observer has been told.
    """

    source: Source
    task: Task
    store: Store
    runtime: Runtime
    observer: Observer
    batch_size: int = 32
    checkpoint_every_s: float = 60.0
    views: Views = field(default_factory=Views)
    cut: bool = True
    taps: tuple[Tap, ...] = ()
    source_task: Task | None = None
    teaching: Teaching | None = None
    workers: Workers | None = None
    passes: Passes = field(default_factory=Passes)
    ranks: Ranks = field(default_factory=Ranks)
    said: set[str] = field(default_factory=set[str])

    @property
    def objective(self) -> Objective:
        """What the task's kind is trained on and scored by."""
        return OBJECTIVES[self.task.kind]

    def say(self, text: str) -> None:
        """Tell the observer, once."""
        if text not in self.said:
            self.said.add(text)
            self.observer.note(text)

    def has_room(self, num_bytes: int, *, persistent: bool) -> bool:
        """Whether the store takes so many bytes more, that of every process; arguments as for `Store.room`."""
        return not self.ranks.any(not self.store.room(num_bytes, persistent=persistent))

    @property
    def sharding(self) -> Sharding | None:
        """How a network that is trained is divided among the processes; None where each holds the whole of it."""
        return None if self.ranks.alone else self.runtime.sharding

    def place(self, module: nn.Module) -> nn.Module:
        """The module on the device; one that is to be divided stays in the machine's memory, from where shards go."""
        return module.to("cpu") if self.sharding else self.runtime.place(module)

    def inputs(self, batch: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        """A batch where `place` puts modules."""
        return batch if self.sharding else self.runtime.inputs(batch)

    @contextmanager
    def lockstep(self) -> Iterator[None]:
        """Passes through a network by all processes: what one of them raises, all raise at the end.

        Raises:
            RunError: In the process that raises it, where the network is divided: the others are in the middle of an
                exchange, and end with it.
        """
        if self.sharding is None:
            with self.ranks.agreed():
                yield
            return
        try:
            yield
        except LostProcess:
            raise
        except Exception as error:
            reason = first_line(error)
            raise RunError(
                f"Process {self.ranks.rank} cannot go on in the middle of a pass through a network that all processes "
                f"divide ({reason}); expected all of them to finish it. Mend that and run the same command: it goes on "
                "where this one was. For want of memory set ACCELERATE_GRADIENT_ACCUMULATION_STEPS, e.g. to 4, or "
                "launch more processes."
            ) from error

    def divided(
        self, modules: Sequence[nn.Module], network: Network, inputs: tuple[torch.Tensor, ...]
    ) -> tuple[Any, ...]:
        """Copies of modules that run a network, and of the network, divided as `sharding` says; see `divide`."""
        assert self.sharding is not None, "processes divide it"
        return divide(modules, network, inputs, self.sharding, self.runtime.device)

    def hashes(self, indices: Indices) -> HashArray:
        """uint8 (samples, 16): content hashes of some samples."""
        return self.task.hashes[np.asarray(indices, dtype=np.int64)]

    def labels(self, indices: Indices) -> torch.Tensor:
        """Labels of some samples: int64 (samples,), of the other kinds float32 (samples, outputs).

        Raises:
            MethodError: A sample is of the test part of a comparison.
        """
        return torch.from_numpy(readable(self.task.labels[np.asarray(indices, dtype=np.int64)]))

    def no_labels(self, indices: Indices) -> torch.Tensor:
        """What stands for the labels of samples that are only looked at: as `labels`, −1 or not a number."""
        labels = self.task.labels[:1].repeat(len(indices), 0)
        return torch.from_numpy(np.full_like(labels, np.nan if labels.dtype.kind == "f" else -1))
