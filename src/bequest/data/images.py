"""Images, opened when they are asked for: files, PIL images, and arrays of pixels."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bequest.core.errors import DataError
from bequest.core.names import shown
from bequest.core.task import HashArray, IntArray, Modality
from bequest.data.files import read_regular
from bequest.data.messages import counted, listed
from bequest.data.spool import picked, spool_hashes

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff"))

_FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "GIF", "TIFF")
"""What a file may be, whatever its name says. PIL knows more, among them PostScript, for which it runs a program."""

_REDUCED_PIXELS = 2**24
"""What a JPEG has at most that is decoded smaller than it is because PIL would not decode it whole."""


@dataclass(frozen=True)
class ImageFiles:
    """Image files, decoded on access; make them with `image_files`, which checks them.

    Attributes:
        paths: The files.
        hashes: uint8 (samples, 16): BLAKE2b of each file's bytes when it was loaded.
        remedy: What to do about a broken one.
    """

    paths: Sequence[Path]
    hashes: HashArray
    remedy: str = "Replace or remove it."

    @property
    def modality(self) -> Modality:
        """Always `image`."""
        return "image"

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Image:
        read = partial(read_regular, self.paths[index])
        return decode_image(_unchanged(read, self, index), self.describe(index), self.remedy)

    def content_hash(self, index: int) -> bytes:
        """BLAKE2b of the file's bytes when it was loaded (16 bytes)."""
        return self.hashes[index].tobytes()

    def describe(self, index: int) -> str:
        """The path; bytes in it that are no UTF-8 are escaped."""
        return shown(self.paths[index])


@dataclass(frozen=True)
class EncodedImages:
    """Images within a table, decoded on access; make them with `encoded_images`, which checks them.

    Attributes:
        read: Reads the bytes of the image at a position.
        places: What each is called in messages.
        hashes: uint8 (samples, 16): BLAKE2b of each image's bytes.
        remedy: What to do about a broken one.
    """

    read: Callable[[int], bytes]
    places: Sequence[str]
    hashes: HashArray
    remedy: str = "Replace or remove it."

    @property
    def modality(self) -> Modality:
        """Always `image`."""
        return "image"

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> Image:
        data = _unchanged(partial(self.read, index), self, index)
        return decode_image(data, self.places[index], self.remedy)

    def content_hash(self, index: int) -> bytes:
        """BLAKE2b of the image's bytes (16 bytes)."""
        return self.hashes[index].tobytes()

    def describe(self, index: int) -> str:
        """The place in the table."""
        return self.places[index]


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
            return upright(self.images[index])
        except Exception as error:  # PIL's decoders raise whatever a broken file leads them to
            raise DataError(
                f"Cannot decode the image {self.describe(index)}: {error}. Expected a whole image. Replace "
                "or remove it."
            ) from error

    @cached_property
    def hashes(self) -> HashArray:
        """uint8 (samples, 16)."""
        return spool_hashes(picture_hash(self[i]) for i in range(len(self)))

    def content_hash(self, index: int) -> bytes:
        """BLAKE2b of mode, size, pixels and palette (16 bytes)."""
        return self.hashes[index].tobytes()

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

    @cached_property
    def hashes(self) -> HashArray:
        """uint8 (samples, 16)."""
        return spool_hashes(map(array_hash, self.values))

    def content_hash(self, index: int) -> bytes:
        """BLAKE2b of dtype, shape and pixels (16 bytes)."""
        return self.hashes[index].tobytes()

    def describe(self, index: int) -> str:
        """The position in the array."""
        return f"{self.place}[{index}]"


def array_hash(values: np.ndarray[Any, Any]) -> bytes:
    """BLAKE2b of an array's dtype, shape and bytes (16 bytes)."""
    digest = hashlib.blake2b(f"{values.dtype.str}{values.shape}".encode(), digest_size=16)
    digest.update(np.ascontiguousarray(values).tobytes())
    return digest.digest()


def picture_hash(image: Image) -> bytes:
    """BLAKE2b of a decoded image's mode, size, pixels and palette (16 bytes)."""
    kind = (image.mode, image.size, image.getpalette(), image.info.get("transparency"))
    return hashlib.blake2b(repr(kind).encode() + image.tobytes(), digest_size=16).digest()


def _unchanged(read: Callable[[], bytes], images: ImageFiles | EncodedImages, index: int) -> bytes:
    """An image's bytes, which must be those that were loaded: what is made of them is kept by their hash."""
    place = images.describe(index)
    try:
        data = read()
    except OSError as error:
        raise _undecodable(place, error, images.remedy) from error
    if _bytes_hash(data) != images.content_hash(index):
        raise DataError(
            f"The image {place} has changed since it was loaded; expected data that stay as they are until all is "
            "done. Load them again."
        )
    return data


def _bytes_hash(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()


_SKIP_ONE = "Replace or remove it, or load with --skip-bad to leave out what cannot be decoded."


def image_files(paths: Sequence[Path], *, skippable: bool = False) -> ImageFiles:
    """Image files with their hashes, each checked without decoding its pixels.

    Args:
        paths: The files.
        skippable: Whether the user can leave broken files out, and is told so.

    Raises:
        DataError: Files cannot be read or are no images: all of them are named.
    """
    hashes, faults = _checked(lambda i: read_regular(paths[i]), len(paths), decode=False)
    _refuse(faults, paths, "file", skippable)
    return ImageFiles(paths, hashes, _SKIP_ONE) if skippable else ImageFiles(paths, hashes)


def sound_image_files(paths: Sequence[Path]) -> tuple[ImageFiles, IntArray]:
    """Those image files that can be decoded, and their positions. Every one is decoded to find out."""
    hashes, faults = _checked(lambda i: read_regular(paths[i]), len(paths), decode=True)
    kept = _sound(faults, len(paths))
    return ImageFiles(picked(paths, kept) if faults else paths, hashes, _SKIP_ONE), kept


def encoded_images(read: Callable[[int], bytes], places: Sequence[str]) -> EncodedImages:
    """Images within a table with their hashes, each checked without decoding its pixels.

    Raises:
        DataError: Some are not there or are no images: all of them are named.
    """
    hashes, faults = _checked(read, len(places), decode=False)
    _refuse(faults, places, "image", True)
    return EncodedImages(read, places, hashes, _SKIP_ONE)


def sound_encoded_images(read: Callable[[int], bytes], places: Sequence[str]) -> tuple[EncodedImages, IntArray]:
    """Those images within a table that can be decoded, and their positions. Every one is decoded to find out."""
    hashes, faults = _checked(read, len(places), decode=True)
    kept = _sound(faults, len(places))
    return EncodedImages(partial(_read_at, read, kept), picked(places, kept), hashes, _SKIP_ONE), kept


def _checked(read: Callable[[int], bytes], num: int, *, decode: bool) -> tuple[HashArray, list[tuple[int, str]]]:
    """Hashes of what is sound, and the positions and faults of what is not."""
    faults: list[tuple[int, str]] = []

    def hashes() -> Iterator[bytes]:
        for i in range(num):
            try:
                data = read(i)
            except OSError as error:
                faults.append((i, error.strerror or str(error)))
                continue
            fault = _fault(data) or (_decoding_fault(data) if decode else "")
            if fault:
                faults.append((i, fault))
            else:
                yield _bytes_hash(data)

    return spool_hashes(hashes()), faults


def _read_at(read: Callable[[int], bytes], kept: IntArray, index: int) -> bytes:
    return read(int(kept[index]))


def _sound(faults: list[tuple[int, str]], num: int) -> IntArray:
    return np.setdiff1d(np.arange(num), np.array([i for i, _ in faults], np.int64))


def _refuse(faults: list[tuple[int, str]], places: Sequence[object], noun: str, skippable: bool) -> None:
    if faults:
        named = listed([f"{shown(places[i])} ({fault})" for i, fault in faults], 100)
        raise DataError(
            f"{counted(len(faults), noun)} of {len(places):,} cannot be read as images: {named}. Expected whole image "
            f"files. Replace or remove them{', or leave them out: --skip-bad' if skippable else ''}."
        )


def decode_image(data: bytes, place: str, remedy: str = "Replace or remove it.") -> Image:
    """An image file's bytes, decoded and upright.

    Args:
        data: The bytes.
        place: What it is called in messages.
        remedy: What to do about a broken one.

    Raises:
        DataError: They cannot be decoded.
    """
    try:
        with _opened(io.BytesIO(data)) as image:
            return upright(image)
    except Exception as error:  # PIL's decoders raise whatever a broken file leads them to
        raise _undecodable(place, error, remedy) from error


def open_image(path: Path) -> Image:
    """An image file, decoded and upright.

    Raises:
        DataError: It cannot be read or decoded.
    """
    try:
        data = read_regular(path)
    except OSError as error:
        raise _undecodable(shown(path), error, "Replace or remove it.") from error
    return decode_image(data, shown(path))


def _undecodable(place: str, error: BaseException, remedy: str) -> DataError:
    return DataError(
        f"Cannot decode the image {place}: {_reason(error)}. Expected a whole image file, not a truncated or "
        f"corrupt one, nor one larger than the limit. {remedy}"
    )


def _opened(file: io.BytesIO) -> Image:
    """An image file, its pixels not yet decoded.

    PIL refuses what has more than twice `PIL.Image.MAX_IMAGE_PIXELS`. JPEG alone can be decoded smaller without the
    room for all of it, unless it is progressive.
    """
    from PIL import Image, JpegImagePlugin

    try:
        return Image.open(file, formats=_FORMATS)
    except Image.DecompressionBombError:
        file.seek(0)
        with suppress(SyntaxError):
            image = JpegImagePlugin.JpegImageFile(file)
            if "progressive" not in image.info:
                width, height = image.size
                parts = next((n for n in (2, 4) if width * height <= n * n * _REDUCED_PIXELS), 8)
                image.draft(None, (width // parts, height // parts))
                return image
            image.close()
        raise


def _reason(error: BaseException) -> str:
    return str(error).rstrip(".") or type(error).__name__


def _decoding_fault(data: bytes) -> str:
    try:
        decode_image(data, "")
    except DataError as error:
        return _reason(error.__cause__ or error)
    return ""


def _fault(data: bytes) -> str:
    """What is wrong with an image file's header or check sums; empty where nothing is."""
    from PIL import Image

    if not data:
        return "empty"
    try:
        with _opened(io.BytesIO(data)) as image:
            image.verify()
    except Image.UnidentifiedImageError:
        return "not an image, or a damaged one"
    except Exception as error:  # PIL's decoders raise whatever a broken file leads them to
        return _reason(error)
    return ""


def upright(image: Image) -> Image:
    """A decoded copy, turned as the EXIF orientation says."""
    from PIL import ImageOps

    image.load()
    with suppress(Exception):  # a broken EXIF block says nothing of the pixels: viewers ignore it too
        return ImageOps.exif_transpose(image)
    return image.copy()
