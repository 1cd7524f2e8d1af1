"""`bequest.data.images`: what it reads, and what it refuses in which words."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bequest.core.errors import DataError
from bequest.data.images import (
    Pictures,
    Pixels,
    array_hash,
    encoded_images,
    image_files,
    open_image,
    sound_image_files,
)

RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 256, (40, 30, 3), np.uint8)


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [
        ("RGB", "png"),
        ("RGBA", "png"),
        ("P", "gif"),
        ("L", "bmp"),
        ("I;16", "png"),
        ("I;16", "tif"),
        ("1", "png"),
        ("RGB", "jpg"),
        ("CMYK", "jpeg"),
        ("RGBA", "webp"),
        ("LA", "png"),
        ("F", "tiff"),
    ],
)
def test_every_mode_opens_as_it_is(tmp_path: Path, mode: str, suffix: str) -> None:
    if mode == "I;16":
        image = Image.fromarray(RNG.integers(0, 65536, (40, 30), np.uint16))
    else:
        image = Image.fromarray(np.dstack([NOISE, NOISE[..., :1]]), "RGBA").convert(mode)
    image.save(tmp_path / f"a.{suffix}")
    read = image_files([tmp_path / f"a.{suffix}"])[0]
    assert read.size == (30, 40)
    assert read.mode == mode
    read.convert("RGB").tobytes()  # decoded: the file is closed by now


def test_orientation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to view
    Image.fromarray(NOISE).save(tmp_path / "a.png", exif=exif)
    read = image_files([tmp_path / "a.png"])[0]
    assert np.array_equal(np.asarray(read), np.rot90(NOISE, -1))
    with Image.open(tmp_path / "a.png") as opened:
        assert np.array_equal(np.asarray(Pictures([opened], "inputs")[0]), np.rot90(NOISE, -1))


def test_hash_is_of_the_bytes_and_files_stay_closed(tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.png" for i in range(2)]
    for path in paths:
        Image.fromarray(NOISE).save(path)
    files = image_files(paths)
    assert (len(files), files.modality, files.describe(1)) == (2, "image", str(paths[1]))
    assert files.content_hash(0) == hashlib.blake2b(paths[0].read_bytes(), digest_size=16).digest()
    paths[0].unlink()
    with pytest.raises(DataError, match=r"Cannot decode the image .*0\.png: .*No such file"):
        files[0]
    assert files[1].size == (30, 40)


def test_all_broken_files_are_named_at_load(tmp_path: Path) -> None:
    good, empty, words, cut = (tmp_path / f"{n}.png" for n in ("good", "empty", "words", "cut"))
    Image.fromarray(NOISE).save(good)
    empty.touch()
    words.write_text("no image")
    cut.write_bytes(good.read_bytes()[:-500])
    with pytest.raises(DataError) as caught:
        image_files([good, empty, words, cut, tmp_path / "gone.png"])
    text = str(caught.value)
    assert text.startswith("4 files of 5 cannot be read as images: ")
    assert f"{empty} (empty), {words} (not an image, or a damaged one), {cut} (" in text
    assert "gone.png (No such file" in text
    assert "good.png" not in text


def test_truncated_jpeg_is_named_on_access(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole.jpg", tmp_path / "cut.jpg"
    Image.fromarray(NOISE).save(whole)
    cut.write_bytes(whole.read_bytes()[:-400])
    files = image_files([cut])  # the header is sound
    with pytest.raises(DataError, match=r"Cannot decode the image .*cut\.jpg: .*truncated.* Replace or remove it"):
        files[0]
    with Image.open(cut) as opened, pytest.raises(DataError, match=r"Cannot decode the image inputs\[0\]"):
        Pictures([opened], "inputs")[0]


def test_pictures_differ_by_pixels_mode_and_palette() -> None:
    flat = Image.new("L", (2, 2), 0)
    wide = Image.new("L", (4, 1), 0)
    palette = Image.new("P", (2, 2), 0)
    other_palette = palette.copy()
    other_palette.putpalette([9] * 768)
    pictures = Pictures([flat, flat.copy(), wide, palette, other_palette, Image.new("L", (2, 2), 1)], "inputs")
    hashes = [pictures.content_hash(i) for i in range(len(pictures))]
    assert hashes[0] == hashes[1]
    assert len(set(hashes)) == 5


def test_pixels_are_images() -> None:
    colour = Pixels(NOISE[None], "inputs")
    assert colour[0].mode == "RGB"
    assert np.array_equal(np.asarray(colour[0]), NOISE)
    grey = Pixels(NOISE[None, :, :, 0], "inputs")  # not contiguous
    assert grey[0].mode == "L"
    assert np.array_equal(np.asarray(grey[0]), NOISE[:, :, 0])
    assert grey.describe(0) == "inputs[0]"


def test_array_hash_is_of_dtype_shape_and_bytes() -> None:
    values = np.arange(6)
    others = [values.reshape(2, 3), values.astype(np.float64), values[::-1], values.view(np.uint64)]
    assert array_hash(values) == array_hash(np.arange(12)[:6])
    assert array_hash(values[::2]) == array_hash(np.array([0, 2, 4]))
    assert len({array_hash(v) for v in (values, *others)}) == 5


def test_an_image_that_changes_is_not_taken_for_what_was_loaded(tmp_path: Path) -> None:
    """What is made of an image is kept under the hash that it had when it was loaded, for other runs too."""
    path = tmp_path / "a.png"
    Image.fromarray(NOISE).save(path)
    content = path.read_bytes()
    several = [image_files([path]), sound_image_files([path])[0]]
    several += [encoded_images(lambda _: path.read_bytes(), ["row 0"])]
    Image.fromarray(255 - NOISE).save(path)
    for images in several:
        with pytest.raises(DataError, match=r"The image .* has changed since it was loaded; expected data that stay"):
            images[0]
    path.write_bytes(content)
    assert all(images[0].size == (30, 40) for images in several)


def test_names_that_are_no_text_are_shown_escaped(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"\xe9.png")
    Image.fromarray(NOISE).save(path)
    assert image_files([path]).describe(0) == f"{tmp_path}/\\udce9.png"
    assert open_image(path).size == (30, 40)
    path.write_bytes(b"no image")
    for read in (image_files, lambda paths: open_image(paths[0])):
        with pytest.raises(DataError, match=r"/\\udce9\.png") as caught:
            read([path])
        assert str(caught.value).isascii()
