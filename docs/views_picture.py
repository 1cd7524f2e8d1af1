"""Writes docs/images/views.png: two photos and the first views of each by every recipe. Run it from the repository."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

from bequest.data.images import array_hash
from bequest.data.views import RECIPES, ViewRecipe, mix_images

FILE = Path(__file__).parent / "images" / "views.png"
SIDE, GAP, NUM = 84, 4, 8


def tile(recipe: ViewRecipe, index: int, number: int) -> np.ndarray:
    """A view of one of the two photos as a square, mixed with the other where the recipe mixes."""
    photos = load_sample_images().images
    hashes = [array_hash(photo) for photo in photos]

    def view(which: int) -> np.ndarray:
        image = recipe.apply(Image.fromarray(photos[which]), hashes[which], number)
        return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BICUBIC))

    mix = recipe.partner(hashes[index], number, np.stack([np.frombuffer(h, np.uint8) for h in hashes]))
    return mix_images(view(index), view(mix.partner), mix) if mix else view(index)


def main() -> None:
    """Draw the sheet: a row for each photo and recipe, view 0 to the left."""
    rows = [(recipe, index) for name, recipe in RECIPES.items() if name != "none" for index in (0, 1)]
    pitch = SIDE + GAP
    sheet = Image.new("RGB", (NUM * pitch - GAP, len(rows) * pitch - GAP), "white")
    for y, (recipe, index) in enumerate(rows):
        for x in range(NUM):
            sheet.paste(Image.fromarray(tile(recipe, index, x)), (x * pitch, y * pitch))
    sheet.quantize(128, dither=Image.Dither.NONE).save(FILE, optimize=True)
    print(f"Wrote {FILE} ({FILE.stat().st_size / 1000:.0f} kB).")


if __name__ == "__main__":
    main()
