"""Images that nobody meant well: decoded in bounded memory, or an error that names the file."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from faulting import fault
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from bequest.core.errors import DataError
from bequest.data import load
from bequest.data.images import image_files, sound_image_files
from bequest.sources.preprocess import ImagePreprocess

HALF = (0.5, 0.5, 0.5)
FORMATS = ["PNG", "JPEG", "BMP", "WEBP", "GIF", "TIFF"]


def encoded(kind: str, size: tuple[int, int] = (9, 7)) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 255, (*size[::-1], 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


def png_of_zeros(width: int, height: int) -> bytes:
    """Black and white, one bit a pixel: 400 million pixels in 50 kB."""
    packer = zlib.compressobj(9)
    row = bytes(1 + (width + 7) // 8)
    data = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def grey_jpeg(side: int, *, progressive: bool = False) -> bytes:
    """Of one grey: every block is "as the one before, and no more", 6 bits by the standard's table, 4 in 3 bytes."""
    stream = io.BytesIO()
    Image.new("L", (8, 8), 128).save(stream, "JPEG")
    data = bytearray(stream.getvalue())
    frame, scan = data.index(b"\xff\xc0"), data.index(b"\xff\xda")
    data[frame + 5 : frame + 9] = struct.pack(">HH", side, side)
    if progressive:
        data[frame + 1] = 0xC2
    blocks = -((-side // 8) ** 2)
    return bytes(data[: scan + 2 + int.from_bytes(data[scan + 2 : scan + 4], "big")]) + (
        bytes([0b00101000, 0b10100010, 0b10001010]) * -(-blocks // 4) + b"\xff\xd9"
    )


@given(st.sampled_from(FORMATS), st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=8), st.data())
def test_any_bytes_changed(tmp_path: Path, kind: str, changes: list[tuple[int, int]], data: st.DataObject) -> None:
    content = bytearray(encoded(kind))
    for place, value in changes:
        content[place % len(content)] = value
    path = tmp_path / "photo.png"
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    sound_image_files([path])
    try:
        image = image_files([path])[0]
    except DataError as error:
        assert str(path) in str(error)
    else:
        assert ImagePreprocess(8, HALF, HALF).encode(image).shape == (8, 8, 3)


@pytest.mark.parametrize("size", [(1, 1), (1, 20_000), (20_000, 1), (3, 20_000)])
@pytest.mark.parametrize("squash", [False, True])
def test_images_of_one_pixel_and_of_20_000(size: tuple[int, int], squash: bool) -> None:
    image = Image.new("RGB", size, "red")
    made = ImagePreprocess(224, HALF, HALF, squash=squash).encode(image)
    assert made.shape == (224, 224, 3) and (made == (255, 0, 0)).all()
    views = ImagePreprocess(224, HALF, HALF).encode_view(image, lambda seen, _: seen)
    assert views.shape == (224, 224, 3)


def test_the_middle_of_a_slender_image_is_what_it_was() -> None:
    """Beyond 32 times as long as wide an image's ends are cut off first; the crop of its centre does not see them."""
    pixels = np.random.default_rng(1).integers(0, 255, (8, 32 * 8, 3), dtype=np.uint8)
    ends = np.zeros((8, 400, 3), np.uint8)
    prepared = ImagePreprocess(16, HALF, HALF)
    wide = prepared.encode(Image.fromarray(np.concatenate([ends, pixels, ends], axis=1)))
    assert np.array_equal(wide, prepared.encode(Image.fromarray(pixels)))


def test_an_ordinary_image_is_not_cut() -> None:
    image = Image.open(io.BytesIO(encoded("PNG", (300, 200))))
    shorter = image.resize((384, 256), Image.Resampling.BICUBIC).crop((80, 16, 304, 240))
    assert np.array_equal(ImagePreprocess(224, HALF, HALF).encode(image), np.asarray(shorter))


def test_a_jpeg_of_20_000_pixels_a_side_is_decoded_smaller_in_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "large.jpg"
    path.write_bytes(grey_jpeg(20_000))
    program = (
        "import resource, sys; from pathlib import Path; from bequest.data.images import image_files; "
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss; image = image_files([Path(sys.argv[1])])[0]; "
        "print(*image.size, *image.getextrema(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True)
    width, height, darkest, brightest, kilobytes = map(int, done.stdout.split())
    assert (width, height) == (5000, 5000) or (width, height) == (2500, 2500)
    assert darkest == brightest == 128
    assert kilobytes < 150_000, "400 million pixels would take 400 MB"


@fault(
    "an image of more than twice `PIL.Image.MAX_IMAGE_PIXELS`, or one of up to that in a small file",
    happens="the first is refused by its header, and named, a plain JPEG decoded smaller; the other is taken",
    outcome="about 12 bytes of memory at most for each pixel, 16 of a WebP: 2 or 3 GB at the limit",
)
@pytest.mark.parametrize("content", [png_of_zeros(20_000, 20_000), grey_jpeg(20_000, progressive=True)])
def test_a_decompression_bomb_is_named_before_it_is_decoded(tmp_path: Path, content: bytes) -> None:
    for label in ("a", "b"):
        (tmp_path / label).mkdir()
        for i in range(3):
            (tmp_path / label / f"{i}.png").write_bytes(encoded("PNG", (8 + ord(label), 8 + i)))
    bomb = tmp_path / "b" / "bomb.png"
    bomb.write_bytes(content)
    with pytest.raises(DataError) as caught:
        load(tmp_path)
    assert f"{bomb} (Image size (400000000 pixels) exceeds limit" in str(caught.value)
    assert "--skip-bad" in str(caught.value)
    task = load(tmp_path, skip_bad=True)
    assert len(task.labels) == 6 and any("bomb.png" in note for note in task.notes)


def test_what_runs_a_program_to_be_decoded_is_no_image(tmp_path: Path) -> None:
    path = tmp_path / "drawing.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    assert Image.open(path).format == "EPS", "PIL would take it"
    with pytest.raises(DataError, match=r"drawing\.png \(not an image"):
        image_files([path])


@fault(
    "a folder of images or texts holds links that lead out of it, or pipes",
    happens="they are left out, and a note says so",
    outcome="nothing outside of the given folder is read",
)
def test_links_that_lead_out_of_the_folder_are_not_followed(tmp_path: Path) -> None:
    outside, root = tmp_path / "outside", tmp_path / "photos"
    for width, folder in enumerate((outside, root / "cat", root / "dog"), 8):
        folder.mkdir(parents=True)
        for i in range(3):
            (folder / f"{i}.png").write_bytes(encoded("PNG", (width, 8 + i)))
    (root / "cat" / "secret.png").symlink_to(outside / "0.png")
    (root / "dog" / "more").symlink_to(outside, target_is_directory=True)
    (root / "owl").symlink_to(outside, target_is_directory=True)
    (root / "dog" / "again.png").symlink_to(root / "dog" / "0.png")
    task = load(root)
    assert task.classes == ("cat", "dog")
    [note] = [note for note in task.notes if "Did not follow" in note]
    assert "3 links that lead out of" in note and "cat/secret.png" in note
    for path in (root / "cat").iterdir():
        path.unlink()
    (root / "cat" / "secret.png").symlink_to(outside / "0.png")
    with pytest.raises(DataError, match="class folder without images"):
        load(root)


def test_a_pipe_is_not_read_for_ever(tmp_path: Path) -> None:
    import os

    for label in ("a", "b"):
        (tmp_path / label).mkdir()
        for i in range(3):
            (tmp_path / label / f"{i}.txt").write_text(f"{label} {i}")
    os.mkfifo(tmp_path / "a" / "pipe.txt")
    (tmp_path / "b" / "link.txt").symlink_to(tmp_path / "a" / "pipe.txt")
    task = load(tmp_path)
    assert len(task.labels) == 6 and any("2 no file" in note for note in task.notes)
    (tmp_path / "b" / "dangling.txt").symlink_to(tmp_path / "b" / "gone.txt")
    with pytest.raises(DataError, match=r"dangling\.txt \(No such file"):
        load(tmp_path)


def test_an_image_of_floats_is_prepared_in_little_memory() -> None:
    program = (
        "import resource; from PIL import Image; from bequest.sources.preprocess import ImagePreprocess; "
        "image = Image.new('F', (5000, 5000), 3.0); prepare = ImagePreprocess(8, (0.5,) * 3, (0.5,) * 3); "
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss; prepare.encode(image); "
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 300_000, "as RGB it takes 100 MB, as the numbers that it is scaled in 600 MB"
