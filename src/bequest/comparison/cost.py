"""What a trial costs, measured."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Self

import numpy as np
import psutil

from bequest.engine.context import Context, Indices
from bequest.engine.features import encoded, forward, frozen_module
from bequest.nn.network import Network

_EVERY_S = 0.05
_TIMED_BATCHES = 2


class PeakMemory:
    """The largest resident memory of this process while the context is open, bytes; sampled 20 times a second."""

    def __enter__(self) -> Self:
        self._process, self._stop = psutil.Process(), threading.Event()
        self.bytes = self._process.memory_info().rss
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._stop.wait(_EVERY_S):
            self.bytes = max(self.bytes, self._process.memory_info().rss)


def inference_per_s(context: Context, network: Network, indices: Indices) -> float:
    """Samples a second through the finished network, in the precision of frozen passes; the fastest of two batches."""
    module = frozen_module(context, network)
    items = encoded(context, indices[: context.batch_size])
    forward(context, module, items)
    seconds: list[float] = []
    for _ in range(_TIMED_BATCHES):
        began = time.perf_counter()
        forward(context, module, items)
        seconds.append(time.perf_counter() - began)
    return len(items) / float(np.min(seconds))
