"""`bequest.sources.preprocess`: pixels as timm and torchvision make them, tokens and masks, files."""

# Types of modules' parts and of transformers' configurations say less than tests know.
# pyright: reportIndexIssue=false, reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportOptionalMemberAccess=false, reportOptionalSubscript=false
# pyright: reportAssignmentType=false

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from timm.data.transforms_factory import transforms_imagenet_eval
from torchvision.transforms import InterpolationMode
from torchvision.transforms._presets import ImageClassification

from bequest.core.errors import RunError, SourceError
from bequest.sources.preprocess import FunctionPreprocess, ImagePreprocess, TextPreprocess, example_inputs, load

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PLAIN = ImagePreprocess(8, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), crop=1.0)
SHAPES = [(64, 48), (48, 64), (31, 97), (33, 32), (300, 201), (20, 21)]


def picture(width: int, height: int) -> Image.Image:
    rng = np.random.default_rng(width * 1000 + height)
    rough = Image.fromarray(rng.integers(0, 256, (7, 5, 3), dtype=np.uint8)).resize((width, height))
    return Image.blend(rough, Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)), 0.3)


def inputs(preprocess: ImagePreprocess, image: Any) -> torch.Tensor:
    [pixels] = preprocess.collate([preprocess.encode(image)])
    return pixels[0]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("size", "crop"), [(32, 0.875), (30, 0.9), (48, 1.0), (31, 0.95)])
@pytest.mark.parametrize("mode", ["center", "squash"])
def test_pixels_are_timms(shape: tuple[int, int], size: int, crop: float, mode: str):
    image = picture(*shape)
    theirs = transforms_imagenet_eval(size, crop, mode, interpolation="bicubic", mean=MEAN, std=STD)(image)
    ours = inputs(ImagePreprocess(size, MEAN, STD, crop, "bicubic", squash=mode == "squash"), image)
    assert torch.allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("size", "resize"), [(32, 36), (24, 24), (31, 40)])
def test_pixels_are_torchvisions(shape: tuple[int, int], size: int, resize: int):
    image = picture(*shape)
    preset = ImageClassification(crop_size=size, resize_size=resize, interpolation=InterpolationMode.BILINEAR)
    ours = inputs(ImagePreprocess(size, MEAN, STD, interpolation="bilinear", resize=resize), image)
    assert torch.allclose(ours, preset(image), atol=1e-5)


def test_another_size_keeps_the_share_that_the_crop_takes():
    shown = ImagePreprocess(224, MEAN, STD, resize=256)
    assert shown.resized(112) == replace(shown, size=112, resize=128)
    assert ImagePreprocess(224, MEAN, STD, crop=0.9).resized(96) == ImagePreprocess(96, MEAN, STD, crop=0.9)


@pytest.mark.parametrize("mode", ["I;16", "I;16L", "I;16B", "I"])
def test_16_bits_become_8(mode: str):
    values = np.array([[0, 257, 128 * 257, 65535]] * 4, dtype=np.uint16)
    if mode == "I":
        image = Image.fromarray(values.astype(np.int32))
    else:
        order = ">u2" if mode.endswith("B") else "<u2"
        image = Image.frombytes(mode, (4, 4), values.astype(order).tobytes())
    assert image.mode == mode
    pixels = ImagePreprocess(4, MEAN, STD, crop=1.0).encode(image)
    assert pixels[0].tolist() == [[v] * 3 for v in (0, 1, 128, 255)]


def test_a_dark_16_bit_image_stays_dark(tmp_path: Path):
    Image.fromarray(np.full((4, 4), 200, dtype=np.uint16)).save(tmp_path / "dark.png")
    pixels = ImagePreprocess(4, MEAN, STD, crop=1.0).encode(Image.open(tmp_path / "dark.png"))
    assert pixels.max() <= 1


@pytest.mark.parametrize("largest", [1.0, 255.0, 65535.0])
def test_floating_point_images_have_the_range_that_their_values_show(largest: float):
    image = Image.fromarray(np.array([[0.0, largest]] * 2, dtype=np.float32))
    assert image.mode == "F"
    assert ImagePreprocess(2, MEAN, STD, crop=1.0).encode(image)[0].tolist() == [[0] * 3, [255] * 3]


def test_transparent_pixels_are_white(tmp_path: Path):
    palette = Image.new("P", (8, 8))
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.paste(1, (0, 0, 4, 8))
    palette.save(tmp_path / "p.png", transparency=0)
    opened = Image.open(tmp_path / "p.png")
    assert opened.mode == "P"
    pixels = PLAIN.encode(opened)
    assert pixels[0, 0].tolist() == [0, 0, 255]
    assert pixels[0, 7].tolist() == [255, 255, 255]
    clear = Image.new("RGBA", (8, 8), (10, 20, 30, 0))
    for image in (clear, clear.convert("LA"), clear.convert("RGBa"), clear.convert("LA").convert("La")):
        assert (PLAIN.encode(image) == 255).all(), image.mode


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "HSV", "LAB"])
def test_every_mode_becomes_rgb(mode: str):
    image = picture(9, 12).convert("RGB").convert(mode) if mode != "LAB" else Image.new("LAB", (9, 12))
    assert PLAIN.encode(image).shape == (8, 8, 3)


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (3000, 2)])
def test_extreme_shapes(shape: tuple[int, int]):
    assert PLAIN.encode(Image.new("RGB", shape)).shape == (8, 8, 3)


def text(max_tokens: int = 5, pad: str = "[PAD]") -> TextPreprocess:
    return TextPreprocess(tiny.tokenizer_json(), max_tokens, pad)


def test_tokens_are_cut_and_padded_on_the_right():
    preprocess = text()
    long, short = preprocess.encode("ball goal team match referee soup"), preprocess.encode("the soup")
    assert len(long) == 5 and len(short) == 2 and long.dtype == np.int32
    ids, mask = preprocess.collate([long, short])
    assert ids.dtype == mask.dtype == torch.int64
    assert ids[1].tolist() == [*short, 0, 0, 0]
    assert mask.tolist() == [[1] * 5, [1, 1, 0, 0, 0]]


def test_a_text_without_tokens_has_one():
    assert text(pad="the").encode("").tolist() == text().encode("the").tolist()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (text(5), text(6)),
        (text(), text(pad="the")),
        (PLAIN, replace(PLAIN, size=9)),
        (PLAIN, replace(PLAIN, squash=True)),
        (PLAIN, replace(PLAIN, resize=9)),
        (PLAIN, replace(PLAIN, interpolation="bilinear")),
        (FunctionPreprocess(len, version="1"), FunctionPreprocess(len, version="2")),
        (FunctionPreprocess(len), FunctionPreprocess(len)),
    ],
)
def test_whatever_changes_the_result_changes_the_fingerprint(one: Any, other: Any):
    assert one.fingerprint != other.fingerprint
    assert one.fingerprint == replace(one, **{}).fingerprint or not one.persistent


@pytest.mark.parametrize("preprocess", [text(7, "the"), PLAIN, replace(PLAIN, resize=11, squash=True)])
def test_it_is_the_same_after_saving(preprocess: Any, tmp_path: Path):
    preprocess.save(tmp_path)
    again = load(json.loads(json.dumps(preprocess.describe())), tmp_path)
    assert again == preprocess
    assert again.fingerprint == preprocess.fingerprint


def test_what_cannot_be_loaded_is_told(tmp_path: Path):
    with pytest.raises(RunError, match=r"tokenizer\.json is missing"):
        load(text().describe(), tmp_path)
    with pytest.raises(RunError, match="kind 'function', which cannot be loaded"):
        load(FunctionPreprocess(len).describe(), tmp_path)


def test_functions():
    doubled = FunctionPreprocess(lambda x: np.asarray(x) * 2.0)
    [batch] = doubled.collate([doubled.encode([1, 2]), doubled.encode([3, 4])])
    assert batch.dtype == torch.float32 and batch.tolist() == [[2, 4], [6, 8]]
    assert not doubled.persistent and FunctionPreprocess().persistent
    [whole] = FunctionPreprocess().collate([np.array([1, 2]), np.array([3, 4])])
    assert whole.dtype == torch.int64
    with pytest.raises(SourceError, match="arrays of different shapes"):
        doubled.collate([np.zeros(2), np.zeros(3)])


def test_examples():
    ids, mask = example_inputs(text(3)) or ()
    assert ids.shape == mask.shape == (3, 3) and mask.sum(1).tolist() == [1, 2, 3]
    [pixels] = example_inputs(PLAIN) or ()
    assert pixels.shape == (3, 3, 8, 8)
    assert example_inputs(FunctionPreprocess()) is None


@pytest.mark.filterwarnings("ignore:invalid value encountered in cast")
@pytest.mark.parametrize("kind", ["RGBA", "LA", "P", "I;16", "I", "F", "F and no number", "CMYK"])
def test_large_images_are_converted_part_by_part(kind: str, monkeypatch: pytest.MonkeyPatch):
    rng = np.random.default_rng(3)
    image = Image.fromarray(rng.integers(0, 256, (41, 37, 4), dtype=np.uint8), "RGBA")
    if kind == "P":
        image = image.convert("RGB").quantize(16)
        image.info["transparency"] = bytes(range(0, 160, 10))
    elif kind == "I;16":
        image = Image.fromarray(rng.integers(0, 2**16, (41, 37), dtype=np.uint16))
    elif kind[0] in "IF":
        values = rng.integers(0, 2**16, (41, 37)).astype(np.int32 if kind == "I" else np.float32)
        if kind == "F and no number":
            values[5, 5] = np.nan
        image = Image.fromarray(values)
    else:
        image = image.convert(kind)
    whole = PLAIN.encode(image)
    for pixels in (1, 20, 100):
        monkeypatch.setattr("bequest.sources.preprocess._PART_PIXELS", pixels)
        assert np.array_equal(PLAIN.encode(image), whole)


@pytest.mark.parametrize("size", [(1, 10**6), (10**6, 1)])
def test_a_slender_image_that_is_squashed_is_thinned_first(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch):
    sizes = list[tuple[int, int]]()
    resize = Image.Image.resize
    monkeypatch.setattr(Image.Image, "resize", lambda self, *given: sizes.append(self.size) or resize(self, *given))
    squashed = ImagePreprocess(224, (0.5,) * 3, (0.5,) * 3, squash=True)
    assert (squashed.encode(Image.new("RGB", size, "red")) == (255, 0, 0)).all()
    assert max(sizes[0]) <= 2 * 4 * 256
