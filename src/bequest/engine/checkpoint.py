"""Checkpoints of a Train stage: written whole or not at all, read without unpickling code.

A file is the digest of what torch saved, and then that: torch looks at no checksum of its own.
"""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Protocol

import torch

from bequest.core.digests import DIGEST_BYTES, digest_of, hasher
from bequest.core.errors import RunError
from bequest.core.results import atomic_open
from bequest.engine.ranks import Ranks

_DAMAGE = (
    RuntimeError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    EOFError,
    UnpicklingError,
)
"""What reading a file that is no checkpoint raises, or one of another shape."""


class Resumable(Protocol):
    """What a checkpoint saves and restores."""

    def state(self) -> dict[str, Any]:
        """Tensors, numbers and strings only."""
        ...

    def load(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""
        ...


class Checkpoint:
    """One stage's file.

    Args:
        path: Where it lies; None keeps nothing.
        identity: What the stage belongs to; a file of another identity is ignored.
        every_s: Seconds of work that may be lost: writing a large network's state costs seconds itself.
        ranks: The processes that go on from it together; the main one reads and writes it. None for this one alone.
    """

    def __init__(self, path: Path | None, identity: dict[str, Any], every_s: float, ranks: Ranks | None = None) -> None:
        self.path, self.identity, self.every_s, self.ranks = path, identity, every_s, ranks or Ranks()
        self._saved = time.monotonic()

    def restore(self, loop: Resumable) -> bool:
        """Load the file into `loop`; False where there is none that fits.

        Raises:
            RunError: The file is damaged.
        """
        state = self.ranks.from_main(self._read)
        if state is None:
            return False
        with self.ranks.agreed(), self._undamaged():
            loop.load(state)
        return True

    def _read(self) -> dict[str, Any] | None:
        """What the file holds; None where there is none that fits."""
        if self.path is None or not self.path.is_file():
            return None
        with self._undamaged(), self.path.open("rb") as file:
            if file.read(DIGEST_BYTES) != digest_of(file):
                raise ValueError("its digest does not fit")
            file.seek(DIGEST_BYTES)
            content = torch.load(file, map_location="cpu", weights_only=True)
            return content["state"] if content["identity"] == self.identity else None

    @contextmanager
    def _undamaged(self) -> Iterator[None]:
        try:
            yield
        except _DAMAGE as error:
            reason = next(iter(str(error).splitlines()), repr(error))
            raise RunError(
                f"The checkpoint {self.path} is damaged ({reason}); "
                "expected what bequest wrote. Remove it and run again: only this stage of the trial is repeated."
            ) from error

    def save(self, loop: Resumable) -> None:
        """Write the file if enough work would be lost without it."""
        if not self.ranks.from_main(self._is_due):
            return
        state = loop.state()  # in all processes, since each may hold a part of it
        self.ranks.from_main(lambda: self._write(state))

    def _is_due(self) -> bool:
        return self.path is not None and time.monotonic() - self._saved >= self.every_s

    def _write(self, state: dict[str, Any]) -> None:
        assert self.path is not None, "it is due"
        # Through memory: torch would tell of a full disk by an error of its own that names no file.
        content = io.BytesIO()
        torch.save({"identity": self.identity, "state": state}, content)
        with atomic_open(self.path) as file:
            file.write(hasher(content.getbuffer()).digest())
            file.write(content.getbuffer())
        self._saved = time.monotonic()
