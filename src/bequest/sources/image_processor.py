"""Images as a transformers model expects them, read from its `preprocessor_config.json`."""

from __future__ import annotations

from typing import Any

from bequest.core.errors import SourceError
from bequest.core.parse import parse_json
from bequest.sources.preprocess import ImagePreprocess, check_image
from bequest.sources.tokenizer import read_file

_RESAMPLING = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
_CONVNEXT_WARPS_FROM = 384


def image_preprocess(name: str, config: Any) -> ImagePreprocess:
    """Size, crop and scaling of a model's images.

    Args:
        name: Hub name or folder.
        config: Of the model.

    Raises:
        SourceError: The file is missing, or asks for what `ImagePreprocess` cannot do.
    """
    content = read_file(name, "preprocessor_config.json") or read_file(name, "processor_config.json")
    if content is None:
        raise SourceError(
            f"{name!r} has no preprocessor_config.json; expected one that tells its images' size and scaling. Save "
            "one: ViTImageProcessor(size=…, image_mean=…).save_pretrained(folder)."
        )
    settings = parse_json(content)
    settings = settings.get("image_processor", settings)
    if settings.get("rescale_offset"):
        raise SourceError(f"{name!r} shifts pixels (rescale_offset), which is not supported. Give it as a module.")
    # Pixels are scaled by `factor` · 255 relative to [0, 1]; the same is said in mean and standard deviation.
    factor = 255 * settings.get("rescale_factor", 1 / 255) if settings.get("do_rescale", True) else 255.0
    normalised = settings.get("do_normalize", True)
    mean, std = (settings.get("image_mean"), settings.get("image_std")) if normalised else (None, None)
    try:
        return check_image(
            ImagePreprocess(
                **_shape(name, settings, config),
                mean=_triple(mean or 0.0, factor),
                std=_triple(std or 1.0, factor),
                interpolation=_RESAMPLING[settings.get("resample", 2)],
            )
        )
    except (ValueError, TypeError, KeyError, ArithmeticError) as error:
        raise SourceError(
            f"The preprocessor_config.json of {name!r} describes no preprocessing of images ({error}); expected what "
            "transformers writes. Mend that field, or choose another source."
        ) from error


def _shape(name: str, settings: dict[str, Any], config: Any) -> dict[str, Any]:
    native = getattr(config, "image_size", None) or 224
    size = settings.get("size", native)
    cropped = settings.get("do_center_crop", False)
    if isinstance(size, int):
        size = {"shortest_edge": size} if cropped or "crop_pct" in settings else {"height": size, "width": size}
    if not settings.get("do_resize", True):
        raise SourceError(
            f"{name!r} takes images of any size as they are, which is not supported. Give it as a module."
        )
    if "shortest_edge" not in size:
        side = _side(name, size)
        final = _side(name, settings.get("crop_size", side)) if cropped else side
        return {"size": final, "resize": side, "squash": True}
    edge = size["shortest_edge"]
    share = settings.get("crop_pct")
    if share is not None and edge >= _CONVNEXT_WARPS_FROM:
        return {"size": edge, "resize": edge, "squash": True}
    if share is not None:
        return {"size": edge, "resize": int(edge / share)}
    return {"size": _side(name, settings.get("crop_size", edge)) if cropped else edge, "resize": edge}


def _side(name: str, size: int | dict[str, int]) -> int:
    if isinstance(size, int):
        return size
    if size.get("height") != size.get("width") or size.get("height") is None:
        raise SourceError(f"{name!r} takes images of {size}; expected a square. Give it as a module.")
    return size["height"]


def _triple(values: float | list[float], factor: float) -> tuple[float, float, float]:
    red, green, blue = values if isinstance(values, list) else [values] * 3
    return red / factor, green / factor, blue / factor
