"""What a trial costs, measured."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import numpy as np
import psutil
import torch
from torch import nn

from bequest.engine.context import Context, Indices
from bequest.engine.features import encoded, forward, frozen_module
from bequest.engine.memory import release
from bequest.engine.store import lengths_of
from bequest.nn.counting import counter, without_fused_layers
from bequest.nn.network import Network

_EVERY_S = 0.01
_TIMED_BATCHES = 2
_LEAST_ALONE, _MOST_ALONE, _SECONDS_ALONE = 20, 100, 0.25
"""Passes of a sample alone that are timed: at least so many, at most so many, and no more after so many seconds."""


class PeakMemory:
    """How much memory is taken while the context is open: of this process, and of the accelerator if there is one.

    What was freed is given back to the system first, so that it does not hide what is taken from then on.
    Resident memory is sampled 100 times a second.

    Args:
        device: Of an accelerator; None, or a processor, for none.

    Attributes:
        start_bytes: Resident memory when the context was entered.
        bytes: The largest resident memory so far.
    """

    def __init__(self, device: torch.device | None = None) -> None:
        self._device = device if device is not None and device.type == "cuda" else None

    def __enter__(self) -> Self:
        release()
        if self._device is not None:
            torch.cuda.reset_peak_memory_stats(self._device)
        self._process, self._stop = psutil.Process(), threading.Event()
        self.start_bytes = self.bytes = self._process.memory_info().rss
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._sample()

    @property
    def added_bytes(self) -> int:
        """How far resident memory rose above where it began."""
        return self.bytes - self.start_bytes

    @property
    def accelerator_bytes(self) -> int:
        """The most that tensors took on the accelerator since the context was entered; 0 without one."""
        return 0 if self._device is None else torch.cuda.max_memory_allocated(self._device)

    def _watch(self) -> None:
        while not self._stop.wait(_EVERY_S):
            self._sample()

    def _sample(self) -> None:
        self.bytes = max(self.bytes, self._process.memory_info().rss)


@dataclass(frozen=True)
class Inference:
    """What a prediction costs, from encoded samples to outputs.

    Attributes:
        latency_p50_ms: Milliseconds of a sample alone, median.
        latency_p95_ms: The same, 95th percentile.
        per_s: Samples a second in batches; the fastest of two.
        forward_flops: Floating-point operations of one sample, the one of median length.
    """

    latency_p50_ms: float
    latency_p95_ms: float
    per_s: float
    forward_flops: int


def measure_inference(context: Context, network: Network, indices: Indices) -> Inference:
    """What a finished network's predictions cost, in the precision of frozen passes.

    Args:
        context: The run.
        network: Merged, plain.
        indices: Samples of the task, which it predicts.
    """
    module = frozen_module(context, network)
    items = encoded(context, indices[:_MOST_ALONE])
    alone = _alone_s(context, module, items)
    batch = items[: context.batch_size]
    batches = [_seconds(context, module, batch) for _ in range(1 + _TIMED_BATCHES)][1:]
    p50, p95 = np.percentile(alone, [50, 95]) * 1000
    middle = int(np.argsort(lengths_of(items), kind="stable")[len(items) // 2])
    flops = forward_flops(context, module, items[middle : middle + 1])
    return Inference(float(p50), float(p95), len(batch) / min(batches), flops)


def forward_flops(context: Context, module: nn.Module, items: Sequence[Any]) -> int:
    """Floating-point operations of a forward pass of some encoded samples, as `bequest.nn.counting` counts them."""
    with without_fused_layers(), counter() as counted:
        forward(context, module, items)
    return counted.get_total_flops()


def _alone_s(context: Context, module: nn.Module, items: Sequence[Any]) -> list[float]:
    """Seconds of samples one by one, in turn; the first pass only warms up."""
    _seconds(context, module, items[:1])
    found: list[float] = []
    until = time.perf_counter() + _SECONDS_ALONE
    while len(found) < _LEAST_ALONE or (len(found) < _MOST_ALONE and time.perf_counter() < until):
        chosen = len(found) % len(items)
        found.append(_seconds(context, module, items[chosen : chosen + 1]))
    return found


def _seconds(context: Context, module: nn.Module, items: Sequence[Any]) -> float:
    began = time.perf_counter()
    forward(context, module, items)
    return time.perf_counter() - began
