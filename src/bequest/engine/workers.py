"""Processes on a cluster of Ray that compute frozen passes for a run here, which keeps order, samples and store.

A part of a pass holds the batches that it would hold here, so what comes back is what would have been computed here, to
the bit on processors of one kind with as many threads.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from bequest.core.errors import BequestError, RunError, first_line
from bequest.engine.cluster import Resources, check_versions, versions
from bequest.engine.features import Work, run_frozen
from bequest.engine.runtime import Runtime, choose_runtime

Array = np.ndarray[Any, Any]

_AHEAD = 2
"""Parts of a pass that lie with each worker, one of which it computes: what bounds the memory of both sides."""
RESTARTS = 3
"""How often a worker that died is replaced: one that dies at something each time may well die of it."""


def num_workers(ray: Any, asked: Resources, most: int) -> int:
    """How many workers the cluster has room for now, at least one and `most` at most."""
    return max(1, min(most, asked.times_in(ray.cluster_resources())))


@dataclass
class Workers:
    """Workers, started when they are first needed.

    Attributes:
        ray: The module, connected.
        asked: What each has for itself.
    """

    ray: Any
    asked: Resources
    _actors: list[Any] = field(default_factory=list[Any])
    _given: int = 0

    def run(
        self, work: Work, runtime: Runtime, parts: Iterable[Sequence[Array]]
    ) -> Iterator[tuple[list[list[Any]], float]]:
        """As `run_frozen` of each part, in order, with the seconds that it took.

        Args:
            work: What is computed.
            runtime: How; that of the workers must be of the same kind.
            parts: Encoded samples; only a few parts are asked for ahead.

        Raises:
            BequestError: What `run_frozen` raises, on a worker.
            RunError: Workers died again and again, have other versions, or compute on another kind of device.
        """
        self._start()
        self._given += 1
        held = [self.ray.put(work)]  # in a list, so that a worker fetches it once and not with every part
        running: deque[Any] = deque()
        for number, part in enumerate(parts):
            if len(running) == _AHEAD * len(self._actors):
                yield self._result(running.popleft())
            actor = self._actors[number % len(self._actors)]
            same = versions(), runtime.frozen, runtime.describe()
            running.append(actor.run.remote(self._given, held, *same, list(part)))
        while running:
            yield self._result(running.popleft())

    def close(self) -> None:
        """End them."""
        for actor in self._actors:
            self.ray.kill(actor)
        self._actors = []

    def _start(self) -> None:
        if not self._actors:
            remote = self.ray.remote(**self.asked.describe(), max_restarts=RESTARTS, max_task_retries=RESTARTS)
            made = remote(_Worker)
            num = num_workers(self.ray, self.asked, most=2**10)
            self._actors = [made.remote(self.asked.threads) for _ in range(num)]

    def _result(self, reference: Any) -> tuple[list[list[Any]], float]:
        try:
            return result(self.ray, reference)
        except self.ray.exceptions.RayActorError as error:
            raise died(first_line(error)) from error


def result(ray: Any, reference: Any) -> Any:
    """What a worker returned; what the user can mend is raised here as it was there."""
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, BequestError):
            raise error.cause from None
        raise


def died(reason: str, times: int = RESTARTS + 1) -> RunError:
    """What to say of a worker that died each time."""
    return RunError(
        f"A worker died {times} times ({reason}); expected one that stays. It may lack memory: state what it needs, "
        "e.g. --resources memory=8GB, or run without --on."
    )


class _Worker:
    """Computes parts of passes; lives on the cluster."""

    def __init__(self, threads: int) -> None:
        torch.set_num_threads(threads)
        self.number = 0

    def run(
        self,
        number: int,
        held: list[Any],
        begun: dict[str, str],
        frozen: Any,
        described: dict[str, Any],
        items: list[Array],
    ) -> tuple[list[list[Any]], float]:
        """One part of the pass with a number."""
        import ray

        if number != self.number:
            check_versions(begun)
            self.work: Work = ray.get(held[0])
            self.number = number
            self.runtime = choose_runtime(frozen)
            own = self.runtime.describe()
            other = [f"{k} {own[k]}, not {described[k]}" for k in ("device", "channels_last") if own[k] != described[k]]
            if other:
                raise RunError(
                    f"A worker computes with {'; '.join(other)} as this process does, and what they make is kept under "
                    "one key. Start the command where the devices are the workers', or state --resources alike."
                )
        began = time.perf_counter()
        found = run_frozen(self.work, self.runtime, items)
        # Arrays of their own: a row of a tensor would take the whole batch along.
        return [[row.numpy().copy() for row in rows] for rows in found], time.perf_counter() - began
