"""`bequest.data.views`: what a view depends on, how it is drawn, and what is refused in which words."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats

from bequest.core.errors import MethodError
from bequest.data.views import (
    RECIPES,
    Mix,
    ViewRecipe,
    mix_images,
    mix_labels,
    parse_recipe,
    rand_augment_operations,
)

STRONG = RECIPES["strong"]
NUM = 2000


def scene(width: int = 90, height: int = 60) -> Image.Image:
    """A smooth picture without any symmetry."""
    y, x = np.mgrid[0:1:6j, 0:1:9j]
    colours = np.stack([x, y * x, 1 - y], -1) * 200 + 20
    return Image.fromarray(colours.astype(np.uint8)).resize((width, height), Image.Resampling.BICUBIC)


def content(name: object) -> bytes:
    return hashlib.blake2b(str(name).encode(), digest_size=16).digest()


def hashes(num: int, of: str = "pool") -> np.ndarray:
    return np.stack([np.frombuffer(content(f"{of} {i}"), np.uint8) for i in range(num)])


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(np.float64)


def digests(recipe: ViewRecipe) -> list[str]:
    views = [recipe.apply(scene(), content("a"), number) for number in range(12)]
    mixes = [recipe.partner(content("a"), number, hashes(9)) for number in range(12)]
    return [
        hashlib.blake2b(repr((v.size, mix)).encode() + v.tobytes()).hexdigest()
        for v, mix in zip(views, mixes, strict=True)
    ]


def ramps(width: int, height: int) -> Image.Image:
    """Each pixel's column in red, its row in green."""
    y, x = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([x, y, 0 * x], -1).astype(np.uint8))


# What a view depends on


def test_another_process_draws_the_same_views():
    code = (
        "import sys, json, random; sys.path[:0] = json.loads(sys.argv[1]); random.seed(5)\n"
        "import test_views as t; print(json.dumps(t.digests(t.STRONG)))"
    )
    paths = [str(Path(__file__).parent), *(p for p in sys.path if p)]
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(paths)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONHASHSEED": "7"},
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == digests(STRONG)


def test_global_random_states_are_neither_read_nor_changed():
    def states():
        return random.getstate(), repr(np.random.get_state()), torch.random.get_rng_state().tolist()

    drawn = []
    for seed in (1, 2):
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        before = states()
        drawn.append(digests(STRONG))
        assert states() == before
    assert drawn[0] == drawn[1]


def test_threads_draw_the_same_views_as_one():
    def view(number: int) -> bytes:
        return STRONG.apply(scene(), content("a"), number).tobytes()

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(view, range(200))) == [view(number) for number in range(200)]


def test_recipe_sample_and_number_each_make_another_view():
    image = scene(300, 200)
    drawn = {
        (name, sample, number): RECIPES[name].apply(image, content(sample), number).tobytes()
        for name in ("light", "standard", "strong")
        for sample in "abc"
        for number in range(1, 8)
    }
    assert len(set(drawn.values())) == len(drawn)


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_view_0_is_the_sample_itself(recipe: ViewRecipe):
    image = scene().convert("P")
    assert recipe.apply(image, content("a"), 0) is image
    assert recipe.partner(content("a"), 0, hashes(9)) is None


def test_the_recipe_none_changes_nothing():
    for number in range(9):
        assert RECIPES["none"].apply(scene(), content("a"), number).tobytes() == scene().tobytes()
        assert RECIPES["none"].partner(content("a"), number, hashes(9)) is None


def test_a_view_of_a_larger_copy_is_the_same_view():
    large = scene(400, 268)
    small = large.resize((200, 134), Image.Resampling.BICUBIC)

    def at_64(image: Image.Image, number: int) -> np.ndarray:
        return pixels(STRONG.apply(image, content("a"), number).resize((64, 64), Image.Resampling.BICUBIC))

    same, other = [], []
    for number in range(1, 121):
        view = at_64(small, number)
        same.append(np.abs(view - at_64(large, number)).mean())
        other.append(np.abs(view - at_64(large, number + 1)).mean())
    assert np.median(same) < 1  # of 255
    assert max(same) < min(other)


def test_a_reduced_crop_gives_the_same_view():
    image = scene(600, 400)
    for number in range(1, 30):
        whole = STRONG.apply(image, content("a"), number)
        reduced = STRONG.apply(image, content("a"), number, side=64)
        assert min(reduced.size) == min(64, min(whole.size))
        assert reduced.width / reduced.height == pytest.approx(whole.width / whole.height, rel=0.01)
        shrunk = [pixels(view.resize((32, 32), Image.Resampling.BICUBIC)) for view in (whole, reduced)]
        assert np.abs(shrunk[0] - shrunk[1]).mean() < 6


# How it is drawn


@pytest.mark.parametrize("size", [(240, 240), (240, 160), (90, 240)])
def test_the_crop_has_the_area_and_the_aspect_that_were_asked_for(size: tuple[int, int]):
    recipe = ViewRecipe(area=(0.2, 0.5))
    width, height = size
    lefts, areas, log_aspects = [], [], []
    for i in range(NUM):
        view = pixels(recipe.apply(ramps(*size), content(i), 1))
        rows, columns = view.shape[:2]
        left, top = view[0, 0, :2]
        assert np.array_equal(view[-1, -1, :2], (left + columns - 1, top + rows - 1))
        areas.append(rows * columns / (width * height))
        log_aspects.append(np.log(columns / rows))
        lefts.append(left / max(width - columns, 1))
    assert stats.kstest(areas, stats.uniform(0.2, 0.3).cdf).pvalue > 0.01
    if size == (240, 240):
        assert stats.kstest(lefts, stats.uniform().cdf).statistic < 0.04
    if size != (90, 240):  # there the aspect gives way where the crop would be broader than the image
        span = stats.uniform(np.log(3 / 4), np.log(4 / 3) - np.log(3 / 4))
        assert stats.kstest(log_aspects, span.cdf).statistic < 0.04


def test_where_the_aspect_does_not_fit_the_area_is_kept():
    for i in range(50):
        view = ViewRecipe(area=(0.6, 0.6)).apply(ramps(200, 20), content(i), 1)
        assert view.size == (120, 20)


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (3, 2)])
def test_the_smallest_images_have_views(size: tuple[int, int]):
    for number in range(1, 40):
        view = STRONG.apply(scene(*size), content("a"), number)
        assert min(view.size) >= 1


@pytest.mark.parametrize("chance", [0.0, 0.3, 1.0])
def test_the_share_of_flipped_views(chance: float):
    image = scene(9, 6)
    flipped = [
        ViewRecipe(flip=chance).apply(image, content(i), 1).tobytes()
        == image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).tobytes()
        for i in range(NUM)
    ]
    assert stats.binomtest(sum(flipped), NUM, chance).pvalue > 0.01


@pytest.mark.parametrize("name", rand_augment_operations())
@pytest.mark.parametrize("magnitude", [9, 30])
@pytest.mark.parametrize("sign", [-1, 1])
def test_rand_augments_operations_are_torchvisions(name: str, magnitude: int, sign: int):
    """331 pixels: there its translations are whole pixels, as torchvision makes all of them."""
    from torchvision.transforms.v2 import InterpolationMode, RandAugment

    image = scene(331, 331)
    magnitudes, signed = RandAugment._AUGMENTATION_SPACE[name]
    table = magnitudes(31, 331, 331)
    value = 0.0 if table is None else float(table[magnitude]) * (sign if signed else 1)
    expected = RandAugment()._apply_image_or_video_transform(image, name, value, InterpolationMode.BILINEAR, {})
    made = rand_augment_operations()[name](image, sign * magnitude / 30)
    assert np.abs(pixels(made) - pixels(expected)).max() <= 1


def test_rand_augment_draws_from_all_of_torchvisions_operations():
    from torchvision.transforms.v2 import RandAugment

    assert list(rand_augment_operations()) == list(RandAugment._AUGMENTATION_SPACE)
    image = Image.fromarray(np.random.default_rng(0).integers(30, 200, (40, 40, 3), np.uint8))
    recipe = ViewRecipe(num_ops=1, magnitude=30)
    seen = [recipe.apply(image, content(i), 1).tobytes() for i in range(NUM)]
    signs_of_each = {
        name: [operation(image, sign).tobytes() for sign in (-1.0, 1.0)]
        for name, operation in rand_augment_operations().items()
    }
    drawn = [sum(view in made for view in seen) for made in signs_of_each.values()]
    assert sum(drawn) == NUM
    assert stats.chisquare(drawn).pvalue > 0.01
    positive = sum(view == signs_of_each["Rotate"][1] for view in seen)
    assert stats.binomtest(positive, drawn[list(signs_of_each).index("Rotate")]).pvalue > 0.01


def test_the_brightness_factor_is_uniform():
    grey = Image.new("RGB", (1, 1), (100, 100, 100))
    factors = [pixels(ViewRecipe(brightness=0.4).apply(grey, content(i), 1))[0, 0, 0] / 100 for i in range(NUM)]
    assert stats.kstest(factors, stats.uniform(0.6, 0.8).cdf).statistic < 0.04


def test_the_hue_shift_is_within_its_strength():
    red = Image.new("RGB", (1, 1), (200, 50, 50))
    hues = [ViewRecipe(hue=0.1).apply(red, content(i), 1).convert("HSV").getpixel((0, 0))[0] for i in range(NUM)]
    turns = (np.array(hues) / 255 + 0.5) % 1 - 0.5
    assert stats.kstest(turns, stats.uniform(-0.1, 0.2).cdf).statistic < 0.08  # HSV's hue is coarse, 8 bits


# Mixing


def test_mixups_share_is_beta_and_the_box_is_none():
    recipe = ViewRecipe(mixup=0.4)
    mixes = [recipe.partner(content(i), 1, hashes(3)) for i in range(NUM)]
    assert all(mix and mix.box is None for mix in mixes)
    assert stats.kstest([mix.share for mix in mixes if mix], stats.beta(0.4, 0.4).cdf).pvalue > 0.01


def test_cutmixs_box_has_a_beta_area_and_a_uniform_centre():
    recipe = ViewRecipe(cutmix=2.0)
    inside, lefts = [], []
    for i in range(4 * NUM):
        mix = recipe.partner(content(i), 1, hashes(3))
        assert mix and mix.box
        top, left, height, width = mix.box
        assert top >= 0 and left >= 0 and top + height <= 1 and left + width <= 1
        assert mix.share == 1 - height * width
        if top > 0 and left > 0 and top + height < 1 and left + width < 1:
            assert height == pytest.approx(width)  # nothing was cut off
            inside.append(width)
            lefts.append(left / (1 - width))

    # A box of side s lies inside with chance (1 − s)².
    grid = np.linspace(0, 1, 20001)
    density = 2 * grid * stats.beta(2, 2).pdf(grid**2) * (1 - grid) ** 2
    cdf = np.cumsum(density) / density.sum()
    assert stats.kstest(inside, lambda s: np.interp(s, grid, cdf)).pvalue > 0.01
    assert stats.kstest(lefts, stats.uniform().cdf).pvalue > 0.01


def test_mixup_and_cutmix_have_an_even_chance():
    mixes = [STRONG.partner(content(i), 1, hashes(3)) for i in range(NUM)]
    cut = sum(mix is not None and mix.box is not None for mix in mixes)
    assert stats.binomtest(cut, NUM).pvalue > 0.01


def test_the_partner_does_not_depend_on_the_pools_order():
    pool = hashes(50)
    for number in range(1, 40):
        order = np.random.default_rng(number).permutation(50)
        first, second = (STRONG.partner(content("a"), number, p) for p in (pool, pool[order]))
        assert first and second
        assert order[second.partner] == first.partner
        assert (first.share, first.box) == (second.share, second.box)


def test_the_partner_stays_when_others_leave():
    pool = hashes(50)
    for number in range(1, 40):
        before = STRONG.partner(content("a"), number, pool)
        assert before
        kept = np.union1d(np.random.default_rng(number).permutation(50)[:20], before.partner)
        after = STRONG.partner(content("a"), number, pool[kept])
        assert after
        assert after == replace(before, partner=int(np.flatnonzero(kept == before.partner)[0]))


def test_every_other_member_is_as_likely_and_the_sample_itself_is_none():
    pool = hashes(20)
    own = pool[7].tobytes()
    drawn = [STRONG.partner(own, number, pool) for number in range(1, NUM + 1)]
    counts = np.bincount([mix.partner for mix in drawn if mix], minlength=20)
    assert counts[7] == 0
    assert counts.sum() == NUM
    assert stats.chisquare(np.delete(counts, 7)).pvalue > 0.01
    assert STRONG.partner(own, 1, pool[7:8]) is None
    assert STRONG.partner(own, 1, pool[:0]) is None


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_mixup_is_the_papers_formula(dtype: type):
    a, b = (np.random.default_rng(s).integers(0, 256, (7, 9, 3)).astype(dtype) for s in (0, 1))
    for share in (0.0, 0.123, 0.5, 1.0):
        mixed = mix_images(a, b, Mix(0, share))
        assert mixed.dtype == dtype
        exact = [share * float(x) + (1 - share) * float(y) for x, y in zip(a.flat, b.flat, strict=True)]
        assert np.allclose(mixed.ravel(), np.round(exact) if dtype is np.uint8 else exact, rtol=1e-6, atol=0)


def test_cutmix_replaces_the_nearest_pixels():
    a, b = (np.random.default_rng(s).integers(0, 256, (11, 13, 3), np.uint8) for s in (0, 1))
    for i in range(200):
        mix = ViewRecipe(cutmix=1.0).partner(content(i), 1, hashes(2))
        assert mix and mix.box
        top, left, height, width = mix.box
        expected = a.copy()
        for y in range(11):
            for x in range(13):  # a pixel is the partner's if its centre lies in the box
                if top <= (y + 0.5) / 11 < top + height and left <= (x + 0.5) / 13 < left + width:
                    expected[y, x] = b[y, x]
        before = a.copy()
        assert np.array_equal(mix_images(a, b, mix), expected)
        assert np.array_equal(a, before)
        swapped = mix_images(a.transpose(2, 0, 1), b.transpose(2, 0, 1), mix)
        assert np.array_equal(swapped, expected.transpose(2, 0, 1))


def test_labels_are_shared_out_as_the_pixels_are():
    a, b = np.eye(4, dtype=np.float32)[[1, 3]]
    ones, zeros = np.ones((400, 400, 1), np.uint8), np.zeros((400, 400, 1), np.uint8)
    for number in range(1, 100):
        mix = STRONG.partner(content("a"), number, hashes(3))
        assert mix and 0 <= mix.share <= 1
        label = mix_labels(a, b, mix.share)
        assert label.sum() == pytest.approx(1)
        assert label[1] == pytest.approx(mix.share)
        assert torch.equal(mix_labels(torch.tensor(a), torch.tensor(b), mix.share), torch.tensor(label))
        if mix.box:
            assert mix_images(ones, zeros, mix).mean() == pytest.approx(mix.share, abs=0.006)


# Recipes as text and plain data


def test_text_names_a_recipe_and_changes_to_it():
    assert parse_recipe("standard") is not None
    assert {name: parse_recipe(name) for name in RECIPES} == RECIPES
    assert parse_recipe(" standard, mixup=0.2 ,flip = 0") == replace(RECIPES["standard"], mixup=0.2, flip=0)
    assert parse_recipe("light,area=0.3:0.9,num_ops=1") == replace(RECIPES["light"], area=(0.3, 0.9), num_ops=1)


def test_every_fault_of_the_text_is_named_at_once():
    with pytest.raises(MethodError) as error:
        parse_recipe("standrad,mixpu=0.2,flip=2,flip=x,num_ops=1.5,area=0.5,aspect=2:1,hue=nan,mixup,cutmix=1,cutmix=2")
    assert str(error.value) == (
        "The views 'standrad,mixpu=0.2,flip=2,flip=x,num_ops=1.5,area=0.5,aspect=2:1,hue=nan,mixup,cutmix=1,cutmix=2' "
        "are none: "
        "there is no recipe 'standrad' (Did you mean 'standard'?); "
        "there is no setting 'mixpu' (Did you mean 'mixup'?); "
        "flip is 2, expected a number between 0 and 1; "
        "flip is 'x', expected a number; "
        "num_ops is '1.5', expected a whole number; "
        "area is '0.5', expected two numbers as in 0.6:1; "
        "aspect is 2:1, expected LOW:HIGH between 0.1 and 10; "
        "hue is nan, expected a number between 0 and 0.5; "
        "'mixup' is no change (expected NAME=VALUE); "
        "cutmix is set twice. "
        "Expected a recipe's name and changes to it, as in 'standard,mixup=0.2,flip=0'."
    )


def test_a_name_that_is_near_nothing_lists_all():
    with pytest.raises(MethodError, match=r"no recipe 'flip=1' \(There are: light, none, standard, strong\.\)"):
        parse_recipe("flip=1")


def test_values_out_of_range_are_refused_in_python_too():
    with pytest.raises(MethodError) as error:
        ViewRecipe(area=(0, 1), flip=-1, magnitude=31)
    assert str(error.value) == (
        "A recipe of views cannot be made: area is 0:1, expected LOW:HIGH between 0.01 and 1; "
        "flip is -1, expected a number between 0 and 1; magnitude is 31, expected a number between 0 and 30."
    )


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_plain_data_make_the_recipe_again(recipe: ViewRecipe):
    again = ViewRecipe(**json.loads(json.dumps(recipe.describe())))
    assert again == recipe
    assert again.fingerprint == recipe.fingerprint


def test_the_fingerprint_tells_settings_apart_and_nothing_else():
    assert len({recipe.fingerprint for recipe in RECIPES.values()}) == len(RECIPES)
    assert replace(STRONG, flip=0.25).fingerprint != STRONG.fingerprint
    whole, fraction = ViewRecipe(flip=1, area=(1, 1)), ViewRecipe(flip=1.0)  # 1 and 1.0
    assert whole.fingerprint == fraction.fingerprint
    assert (
        ViewRecipe().fingerprint == "c644bc76742e0f55ab48890b0423746e"
    )  # a change makes every stored view useless: only with _VERSION


def test_misuse_is_refused():
    with pytest.raises(ValueError, match=r"Views are numbered from 0; got -1\."):
        STRONG.apply(scene(), content("a"), -1)
    with pytest.raises(ValueError, match=r"drawn of RGB images; this one's mode is P\. Convert it first\."):
        STRONG.apply(scene().convert("P"), content("a"), 1)
    a = np.zeros((8, 8, 3), np.uint8)
    with pytest.raises(ValueError, match=r"Cannot mix uint8 \(8, 8, 3\) with float64 \(8, 8, 3\); expected the same"):
        mix_images(a, a.astype(float), Mix(0, 0.5))
    small = np.zeros((3, 8, 3), np.uint8)
    with pytest.raises(ValueError, match=r"CutMix of arrays \(3, 8, 3\): expected \(height, width, channels\) or"):
        mix_images(small, small, Mix(0, 0.5, (0, 0, 0.5, 0.5)))


# The docs


def test_the_docs_example_runs():
    page = (Path(__file__).parents[2] / "docs" / "views.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```$", page, re.M | re.S)
    encoded, other = (np.full((8, 8, 3), value, np.uint8) for value in (0, 200))
    one_hot, other_one_hot = np.eye(2)
    names = dict(image=scene(), content_hash=content("a"), hashes=hashes(4), encoded=encoded, other_encoded=other)
    exec(code, names | dict(one_hot=one_hot, other_one_hot=other_one_hot), made := {})
    assert made["view"].tobytes() == made["recipe"].apply(scene(), content("a"), 3).tobytes()
    assert made["label"][0] == pytest.approx(made["mix"].share)
    assert made["mixed"].shape == (8, 8, 3)


def test_the_docs_table_holds_the_recipes_numbers():
    page = (Path(__file__).parents[2] / "docs" / "views.md").read_text(encoding="utf-8")

    def text(value: object) -> str:
        return ":".join(f"{v:.3g}" for v in value) if isinstance(value, list) else f"{value:g}"

    described = [recipe.describe() for recipe in RECIPES.values()]
    assert f"| setting | {' | '.join(f'`{name}`' for name in RECIPES)} |" in page
    for setting in described[0]:
        assert f"| `{setting}` | {' | '.join(text(d[setting]) for d in described)} |" in page
