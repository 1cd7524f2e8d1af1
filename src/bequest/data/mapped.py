"""Files as arrays, mapped into memory."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np

from bequest.core.errors import RunError


def map_file(path: Path, num_bytes: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The first bytes of a file, mapped: uint8 (num_bytes,).

    Raises:
        FileNotFoundError: There is no such file.
        RunError: The system maps no more.
    """
    import torch

    # Torch closes the file once it is mapped; numpy would hold it open, and a process may open but 1,024.
    try:
        return torch.from_file(str(path), shared=False, size=num_bytes, dtype=torch.uint8).numpy()
    except RuntimeError as error:
        if not path.exists():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path)) from None
        raise RunError(
            f"Cannot map {path} into memory ({error}); expected that a process may map every shard that it uses. "
            "Raise the limits that the system sets to it (on Linux vm.max_map_count)."
        ) from error
