"""How images and texts become inputs, as the source of the weights had it."""

import dataclasses
from typing import Any

from big_vit_lite.config import InputError
from big_vit_lite.data.transforms import preprocessing as published

HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
"""Mean and standard deviation of each channel, pixels in [0, 1]."""
BY_EDGE = ("CLIP", "Bit")
"""transformers' processors for which a number as size is that of the shorter side."""
METHODS = {0: "nearest", 2: "bilinear", 3: "bicubic"}
"""Pillow's numbers, as transformers' JSON has them."""


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """Fit for a config: `transform` for a split, `mean` and `std` for data.

    Attributes:
        transform: from a file's bytes to uint8 (H, W, 3).
        mean, std: of each channel, of pixels scaled to [0, 1].
        text: from a string to tokens, or None where the source names no tokenizer that is known
            here, or there is no text tower.
    """

    transform: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    text: str | None = None


def clip_text(length: int) -> str:
    """CLIP's tokens: cut so that the last is the end, padded by 0."""
    return f"tokenize('clip')|truncate({length})|pad({length}, 0)"


def shortest(size: Any, statistics, crop: float = 1.0, method: str = "bicubic") -> Preprocessing:
    """The shorter side to size / crop, the middle of it."""
    return Preprocessing(published.shortest(size, crop, method), *statistics)


def squash(size: Any, statistics, method: str = "bicubic") -> Preprocessing:
    """The whole image to a size."""
    return Preprocessing(published.squash(size, method), *statistics)


def patches(patch: Any, budget: int, statistics, method: str = "bilinear") -> Preprocessing:
    """At most `budget` patches at the image's own aspect ratio (NaFlex)."""
    other = "" if method == "bilinear" else f", {method!r}"
    return Preprocessing(f"decode|patchify({patch}, {budget}{other})", *statistics)


def from_transformers(about: dict[str, Any], where: Any) -> Preprocessing:
    """What a preprocessor_config.json says.

    Raises:
        InputError: it asks for what is not known here.
    """
    if not about.get("do_resize", True) or not about.get("do_normalize", True):
        raise InputError(
            f"{where}: the preprocessor_config.json beside it does not resize or does not "
            "normalise, which is not known here: write the transform yourself."
        )
    number = about.get("resample", 2)
    if number not in METHODS:
        raise InputError(f"{where}: preprocessor_config.json has resample {number}, unknown here.")
    method, size = METHODS[number], about.get("size", 224)
    statistics = tuple(about["image_mean"]), tuple(about["image_std"])
    kind = about.get("image_processor_type") or about.get("feature_extractor_type") or ""
    if kind.startswith("Siglip2") and "max_num_patches" in about:
        return patches(about["patch_size"], about["max_num_patches"], statistics, method)
    crop = ""
    if about.get("do_center_crop"):
        # transformers' crop is one pixel off torchvision's where the margin is odd.
        crop = f"|central_crop({_side(about.get('crop_size', size))})"
    by_edge = "shortest_edge" in size if isinstance(size, dict) else kind.startswith(BY_EDGE)
    if not by_edge:
        return Preprocessing(published.squash(_side(size), method) + crop, *statistics)
    edge = f"decode|resize_small({_side(size)}, {method!r}, rule='torchvision')"
    return Preprocessing(edge + crop, *statistics)


def _side(size: Any) -> Any:
    if not isinstance(size, dict):
        return size
    if "shortest_edge" in size:
        return size["shortest_edge"]
    height, width = size["height"], size["width"]
    return height if height == width else (height, width)


def from_timm(about: dict[str, Any], where: Any) -> Preprocessing | None:
    """What timm's pretrained_cfg says; None where it does not say it."""
    if "mean" not in about or "input_size" not in about:
        return None
    size = about["input_size"][-1]
    method, mode = about.get("interpolation", "bicubic"), about.get("crop_mode", "center")
    statistics = tuple(about["mean"]), tuple(about["std"])
    crop = about.get("crop_pct") or 0.875
    if mode == "squash":
        return squash(size, statistics, method) if crop == 1.0 else None
    if mode != "center":
        raise InputError(f"{where}: config.json has crop_mode {mode!r}, which is not known here.")
    return shortest(size, statistics, crop, method)


def from_open_clip(about: dict[str, Any], size: Any, where: Any) -> Preprocessing:
    """What open_clip's preprocess_cfg says; empty: OpenAI's."""
    side = about.get("size", size)
    side = side[0] if isinstance(side, list | tuple) and side[0] == side[1] else side
    statistics = tuple(about.get("mean", CLIP[0])), tuple(about.get("std", CLIP[1]))
    method, mode = about.get("interpolation", "bicubic"), about.get("resize_mode", "shortest")
    if mode not in ("shortest", "squash") or method not in METHODS.values():
        raise InputError(
            f"{where}: open_clip_config.json resizes by {mode!r}, {method!r}, unknown here."
        )
    make = squash if mode == "squash" else shortest
    return make(side, statistics, method=method)
