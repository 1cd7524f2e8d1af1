"""Freed memory, given back to the system, and memory that did not suffice."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from accelerate.utils.memory import should_reduce_batch_size


def release() -> None:
    """Give back what was freed.

    glibc keeps freed memory below anything that is still in use, and a pass over many samples leaves some in use with
    every shard: 0.9 kB a text, measured on 40,000, where this leaves 0.15 kB. Other C libraries are left alone.
    """
    trim = _trim()
    if trim is not None:
        trim(0)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory did not suffice, that of the machine or of an accelerator."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, Exception) and should_reduce_batch_size(error)
    )


class LackOfMemory(MemoryError):
    """Memory did not suffice, and what takes less is said."""


@contextmanager
def enough_memory() -> Iterator[None]:
    """Says what takes less where memory does not suffice for what is done in this context; other errors pass.

    Raises:
        LackOfMemory: So it is, whichever library's error told it.
    """
    try:
        yield
    except LackOfMemory:
        raise
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        reason = next(iter(str(error).strip().splitlines()), "none is left")
        told = LackOfMemory(
            f"Memory did not suffice ({reason}); expected room for the network, its features and what trains it. Lower "
            "--batch-size, --max-tokens or --image-size, give fewer labels (--train-size), or choose a method that "
            "trains less."
        )
        told.is_shared = getattr(error, "is_shared", False)  # pyright: ignore[reportAttributeAccessIssue]
        raise told from error


@cache
def _trim() -> Callable[[int], Any] | None:
    try:
        return ctypes.CDLL("libc.so.6").malloc_trim
    except (OSError, AttributeError):
        return None
