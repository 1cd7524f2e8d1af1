"""The processes that carry out one trial together: what they divide, exchange and agree on.

All of them run the same code on the same draw, so every call here is made by all, in the same order. Alone, every call
is what it would be without the others.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from torch import Tensor

from bequest.core.errors import BequestError, RunError, first_line
from bequest.engine.memory import is_out_of_memory
from bequest.engine.store import Array

T = TypeVar("T")

_BUCKET_BYTES = 2**26
"""Tensors that are sent together take about so much at most."""


class LostProcess(RunError):
    """Another process of the run has ended, so that nothing can be exchanged any more."""


@dataclass(frozen=True)
class Ranks:
    """This process among those that carry out a trial.

    Attributes:
        rank: Its number, from 0, the main process, which alone writes to the run's folder.
        number: How many there are.
        local_rank: Its number among those of its machine.
        local_number: How many there are on its machine.
        device: Where tensors lie that are sent.
    """

    rank: int = 0
    number: int = 1
    local_rank: int = 0
    local_number: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @classmethod
    def of(cls, accelerator: Accelerator) -> Ranks:
        """Those that accelerate knows of."""
        number, local = accelerator.num_processes, accelerator.local_process_index
        return cls(accelerator.process_index, number, local, _local_number(local, number), accelerator.device)

    @property
    def alone(self) -> bool:
        """Whether there is no other."""
        return self.number == 1

    @property
    def is_main(self) -> bool:
        """Whether it is the one that writes and talks."""
        return self.rank == 0

    def sizes(self, total: int) -> list[int]:
        """Into how many of so many things each process's share is divided: as even as can be, in their order."""
        return [total // self.number + (rank < total % self.number) for rank in range(self.number)]

    def own(self, total: int) -> slice:
        """Where this process's share lies."""
        sizes = self.sizes(total)
        start = sum(sizes[: self.rank])
        return slice(start, start + sizes[self.rank])

    def rounds(self) -> list[Callable[[Array, int], Array]]:
        """How what a store lacks is divided, batch by batch, again and again until nothing is lacking.

        Among all processes, who may share one store; then among those of a machine; then not at all.
        """
        if self.alone:
            return [lambda lacking, _: lacking]
        ways = ((self.rank, self.number), (self.local_rank, self.local_number), (0, 1))
        return [_every(rank, number) for rank, number in ways]

    def any(self, is_so: bool) -> bool:
        """Whether it is so in any process; nobody goes on before all have asked."""
        if self.alone:
            return is_so
        flag = torch.tensor(int(is_so), device=self.device)
        with _sent():
            dist.all_reduce(flag, dist.ReduceOp.MAX)
        return bool(flag)

    def gather(self, rows: Tensor, sizes: Sequence[int]) -> Tensor:
        """The rows of all processes, in their order, on the device of `rows`.

        Args:
            rows: This process's (sizes[rank], …); of one shape and type everywhere but for the first dimension.
            sizes: How many each process has.
        """
        if self.alone:
            return rows
        padded = rows.new_zeros(max(sizes), *rows.shape[1:], device=self.device)
        padded[: len(rows)] = rows
        found = [torch.empty_like(padded) for _ in sizes]
        with _sent():
            dist.all_gather(found, padded)
        return torch.cat([part[:size] for part, size in zip(found, sizes, strict=True)]).to(rows.device)

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Put the sum over the processes into each tensor; the same bits everywhere."""
        self._through(tensors, dist.all_reduce)

    def sum_of(self, tensor: Tensor) -> Tensor:
        """The sum over the processes."""
        made = tensor.clone()
        self.add_up([made])
        return made

    def make_alike(self, tensors: Sequence[Tensor]) -> None:
        """Put the main process's values into each tensor."""
        self._through(tensors, lambda flat: dist.broadcast(flat, 0))

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Put the mean over the processes into each tensor of floats; others are taken from the main process."""
        if self.alone:
            return
        floats = [t for t in tensors if t.is_floating_point()]
        self.add_up(floats)
        for tensor in floats:
            tensor.div_(self.number)
        self.make_alike([t for t in tensors if not t.is_floating_point()])

    def from_main(self, make: Callable[[], T]) -> T:
        """What `make` returns in the main process; what it raises there is raised in all."""
        if self.alone:
            return make()
        made, error = None, None
        if self.is_main:
            try:
                made = make()
            except Exception as raised:
                error = raised
        with _sent():
            [made, told] = broadcast_object_list([made, error and _portable(error, 0)])
        if told is not None:
            raise _shared(error or told)
        return made  # pyright: ignore[reportReturnType]

    @contextmanager
    def agreed(self) -> Iterator[None]:
        """What one process raises in this context, all raise at its end; in it nothing is exchanged."""
        if self.alone:
            yield
            return
        error = None
        try:
            yield
        except LostProcess:
            raise
        except Exception as raised:
            error = raised
        if self.any(error is not None):
            self.exchange(error)

    def exchange(self, error: BaseException | None) -> None:
        """Raise in all processes the first error that any of them has; one of memory gives way to others."""
        if self.alone:
            if error is not None:
                raise error
            return
        with _sent():
            told: list[Any] = gather_object([error and _portable(error, self.rank)])
        found = [rank for rank, each in enumerate(told) if each is not None]
        if found:
            first = min(found, key=lambda rank: (isinstance(told[rank], MemoryError), rank))
            raise _shared(error if error is not None and first == self.rank else told[first])

    @contextmanager
    def own_random(self, *entropy: int) -> Iterator[None]:
        """Random numbers that differ between the processes; afterwards all go on with those that they have in common.

        Args:
            entropy: What they depend on beside the process's number and how many there are.
        """
        if self.alone:
            yield
            return
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            seed = np.random.SeedSequence([*entropy, self.number, self.rank]).generate_state(1)
            torch.manual_seed(int(seed[0]))
            yield

    def _through(self, tensors: Sequence[Tensor], send: Callable[[Tensor], Any]) -> None:
        """Send tensors, those of a type side by side, and put what comes back into them."""
        if self.alone:
            return
        for bucket in _buckets(tensors):
            flat = torch.cat([t.detach().flatten() for t in bucket]).to(self.device)
            with _sent():
                send(flat)
            for tensor, part in zip(bucket, flat.split([t.numel() for t in bucket]), strict=True):
                tensor.detach().copy_(part.view(tensor.shape))


def is_shared(error: BaseException) -> bool:
    """Whether all processes raise it."""
    return getattr(error, "is_shared", False)


def _local_number(local_rank: int, number: int) -> int:
    """How many processes this machine has: the launcher says it, else all are here."""
    return max(local_rank + 1, int(os.environ.get("LOCAL_WORLD_SIZE", number)))


def _every(rank: int, number: int) -> Callable[[Array, int], Array]:
    """Every so-manieth batch: batches are those of one process, so that their results are the same to the bit."""

    def share(lacking: Array, batch_size: int) -> Array:
        return lacking[np.arange(len(lacking)) // batch_size % number == rank]

    return share


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    kinds: dict[torch.dtype, list[Tensor]] = {}
    for tensor in tensors:
        kinds.setdefault(tensor.dtype, []).append(tensor)
    for kind in kinds.values():
        ends = np.cumsum([t.nbytes for t in kind]) // _BUCKET_BYTES
        for number in range(math.ceil(ends[-1]) + 1):
            bucket = [t for t, end in zip(kind, ends.tolist(), strict=True) if end == number]
            if bucket:
                yield bucket


@contextmanager
def _sent() -> Iterator[None]:
    """Turns what is raised where another process is gone into a message."""
    try:
        yield
    except RuntimeError as error:
        raise LostProcess(
            "Another process of this run has ended, or cannot be reached any more "
            f"({first_line(error)}); expected all of them to work "
            "until the end. See what it said, mend that, and run the same command: it goes on where this one was."
        ) from error


def _portable(error: BaseException, rank: int) -> Exception:
    """An error that another process can raise."""
    where = f" (process {rank})" if rank else ""
    if isinstance(error, BequestError):
        return type(error)(f"{error}{where}")
    if is_out_of_memory(error):
        return MemoryError(f"{error}{where}")
    return RuntimeError(f"{type(error).__name__}: {error}{where}")


def _shared(error: BaseException) -> BaseException:
    error.is_shared = True  # pyright: ignore[reportAttributeAccessIssue]
    return error
