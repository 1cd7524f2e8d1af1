"""Digests of files' bytes, by which damage is found before a file is used."""

from __future__ import annotations

import hashlib
from typing import IO, Any

DIGEST_BYTES = 16


def hasher(data: bytes | memoryview = b"") -> Any:
    """A BLAKE2 hash of some bytes, to which more can be added."""
    return hashlib.blake2b(data, digest_size=DIGEST_BYTES)


def digest_of(file: IO[bytes]) -> bytes:
    """The digest of an open file's bytes, from where it stands to its end, read block by block."""
    return hashlib.file_digest(file, hasher).digest()  # pyright: ignore[reportArgumentType]
