"""Images, opened when they are asked for: files, PIL images, and arrays of pixels."""

from __future__ import annotations

import hashlib
import io
import struct
import zlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bequest.core.errors import DataError
from bequest.core.task import Modality
from bequest.data.messages import counted, listed

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff"))

# What PIL's decoders raise on broken files.
_FAULTS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    EOFError,
    IndexError,
    KeyError,
    struct.error,
    zlib.error,
)


@dataclass(frozen=True)
class ImageFiles:
    """Image files, decoded on access; make them with `image_files`, which checks them.

    Attributes:
        paths: The files.
        hashes: BLAKE2b of each file's bytes (16 bytes each).
    """

    paths: Sequence[Path]
    hashes: Sequence[bytes]

    @property
    def modality(self) -> Modality:
        """Always `image`."""
        return "image"

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Image:
        from PIL import Image

        path = self.paths[index]
        try:
            with Image.open(path) as image:
                return _upright(image)
        except (*_FAULTS, Image.DecompressionBombError) as error:
            raise DataError(
                f"Cannot decode the image {path}: {error}. Expected a whole image file, not a truncated or "
                "corrupt one. Replace or remove it."
            ) from error

    def content_hash(self, index: int) -> bytes:
        """BLAKE2b of the file's bytes when it was loaded (16 bytes)."""
        return self.hashes[index]

    def describe(self, index: int) -> str:
        """The path."""
        return str(self.paths[index])


@dataclass(frozen=True)
class Pictures:
    """PIL images from Python.

    Attributes:
        images: The images.
        place: What they are called in messages.
    """

    images: Sequence[Image]
    place: str

    @property
    def modality(self) -> Modality:
        """Always `image`."""
        return "image"

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Image:
        try:
            return _upright(self.images[index])
        except _FAULTS as error:
            raise DataError(
                f"Cannot decode the image {self.describe(index)}: {error}. Expected a whole image. Replace "
                "or remove it."
            ) from error

    def content_hash(self, index: int) -> bytes:
        """BLAKE2b of mode, size, pixels and palette (16 bytes)."""
        image = self[index]
        kind = (image.mode, image.size, image.getpalette(), image.info.get("transparency"))
        return hashlib.blake2b(repr(kind).encode() + image.tobytes(), digest_size=16).digest()

    def describe(self, index: int) -> str:
        """The position in the list."""
        return f"{self.place}[{index}]"


@dataclass(frozen=True)
class Pixels:
    """Images as an array of pixels.

    Attributes:
        values: uint8 (samples, height, width) or (samples, height, width, 3).
        place: What they are called in messages.
    """

    values: np.ndarray[Any, np.dtype[np.uint8]]
    place: str

    @property
    def modality(self) -> Modality:
        """Always `image`."""
        return "image"

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: int) -> Image:
        from PIL import Image

        return Image.fromarray(np.ascontiguousarray(self.values[index]))

    def content_hash(self, index: int) -> bytes:
        """BLAKE2b of dtype, shape and pixels (16 bytes)."""
        return array_hash(self.values[index])

    def describe(self, index: int) -> str:
        """The position in the array."""
        return f"{self.place}[{index}]"


def array_hash(values: np.ndarray[Any, Any]) -> bytes:
    """BLAKE2b of an array's dtype, shape and bytes (16 bytes)."""
    digest = hashlib.blake2b(f"{values.dtype.str}{values.shape}".encode(), digest_size=16)
    digest.update(np.ascontiguousarray(values).tobytes())
    return digest.digest()


def image_files(paths: Sequence[Path]) -> ImageFiles:
    """Image files with their hashes, each checked without decoding its pixels.

    Raises:
        DataError: Files cannot be read or are no images: all of them are named.
    """
    hashes: list[bytes] = []
    broken: list[str] = []
    for path in paths:
        try:
            data = path.read_bytes()
        except OSError as error:
            broken.append(f"{path} ({error.strerror or error})")
            continue
        fault = _fault(data)
        if fault:
            broken.append(f"{path} ({fault})")
        hashes.append(hashlib.blake2b(data, digest_size=16).digest())
    if broken:
        raise DataError(
            f"{counted(len(broken), 'file')} of {len(paths):,} cannot be read as images: {listed(broken)}. "
            "Expected whole image files. Replace or remove them."
        )
    return ImageFiles(paths, hashes)


def _fault(data: bytes) -> str:
    """What is wrong with an image file's header or check sums; empty where nothing is."""
    from PIL import Image

    if not data:
        return "empty"
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.verify()
    except Image.UnidentifiedImageError:
        return "not an image, or a damaged one"
    except (*_FAULTS, Image.DecompressionBombError) as error:
        return str(error) or type(error).__name__
    return ""


def _upright(image: Image) -> Image:
    """A decoded copy, turned as the EXIF orientation says."""
    from PIL import ImageOps

    image.load()
    with suppress(*_FAULTS):  # a broken EXIF block says nothing of the pixels: viewers ignore it too
        return ImageOps.exif_transpose(image)
    return image.copy()
