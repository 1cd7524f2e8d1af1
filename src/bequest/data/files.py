"""Files that data name, read only where reading comes to an end."""

from __future__ import annotations

import os
import stat
from pathlib import Path


def read_regular(path: Path) -> bytes:
    """The bytes of a regular file.

    Raises:
        OSError: There is none of that name or it cannot be read, or it is a pipe, which may never answer, or a device,
            which may never end.
    """
    try:
        mode = os.stat(path).st_mode
    except ValueError as error:  # a NUL in the name
        raise OSError(str(error)) from error
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise OSError("not a regular file")
    return path.read_bytes()
