"""Preprocessing in the words of each house's JSON; preprocessing.py reads the same words.

What a house has no words for is refused, never written as something else.
"""

import math
from collections.abc import Sequence
from typing import Any

from big_vit_lite import config
from big_vit_lite.config import InputError
from big_vit_lite.data.transforms.resize import Resize, ResizeSmall
from big_vit_lite.weights.preprocessing import (
    BY_EDGE,
    METHODS,
    OPEN_CLIP_METHODS,
    Preprocessing,
    enlarged_by,
    from_timm,
    understood,
)
from big_vit_lite.weights.steps import patchify, same, steps

NUMBERS = {name: number for number, name in METHODS.items()}
FLEXIBLE = "Siglip2ImageProcessor"
TRANSFORMERS = (
    "resize or resize_small with antialias by nearest, bilinear, bicubic or lanczos, then "
    "central_crop, each of the two or none"
)
NAFLEX = "patchify(patch, budget) of square patches with antialias by one of these methods"
TIMM = (
    "resize, or resize_small and central_crop of a square in it, with antialias by nearest, "
    "bilinear, bicubic or lanczos"
)
OPEN_CLIP = (
    "resize to the size of the model's images, or resize_small to their side and central_crop of "
    "as much, with antialias by bilinear or bicubic"
)
"""What each has words for, after decode."""


def cannot_say(house: str, found: Preprocessing, can: str) -> InputError:
    """For a house that has no words for a transform, and what it has words for."""
    return InputError(
        f"{house} cannot say how images are prepared here, {found.transform!r}: after a plain "
        f"decode it has {can}. Save with such a transform, or with preprocessing=None and hand "
        "the transform on yourself."
    )


def to_transformers(found: Preprocessing, kind: str) -> dict[str, Any]:
    """A preprocessor_config.json.

    Args:
        kind: the class in transformers that prepares images of this family; where it cannot crop,
            or resize by the shorter side, it is BiT's, which can.

    Raises:
        InputError: transformers has no words for the transform.
    """
    about: dict[str, Any] = {
        "image_processor_type": kind, "do_resize": True, "do_rescale": True, "do_normalize": True,
        "rescale_factor": 1 / 255, "do_convert_rgb": True,
        "image_mean": _numbers(found.mean), "image_std": _numbers(found.std),
    }  # fmt: skip
    return about | (_patches(found) if kind == FLEXIBLE else _pixels(found, kind))


def _patches(found: Preprocessing) -> dict[str, Any]:
    op = patchify(found)
    sides = set() if op is None else set(_pair(op.patch))
    if len(sides) != 1 or not op.resize or not op.antialias or op.method not in NUMBERS:
        raise cannot_say("transformers' NaFlex", found, NAFLEX)
    return {
        "resample": NUMBERS[op.method], "patch_size": sides.pop(), "max_num_patches": op.budget,
    }  # fmt: skip


def _pixels(found: Preprocessing, kind: str) -> dict[str, Any]:
    made = steps(found)
    if made is None or not made.by(*NUMBERS):
        raise cannot_say("transformers", found, TRANSFORMERS)
    edge = isinstance(made.resize, ResizeSmall)
    about: dict[str, Any] = {"do_resize": made.resize is not None}
    about["do_center_crop"] = made.crop is not None
    if made.resize:
        size = made.resize.size
        about["size"] = {"shortest_edge": size} if edge else _sides(size)
        about["resample"] = NUMBERS[made.resize.method]
    if made.crop:
        about["crop_size"] = _sides(made.crop.size)
    if (edge or made.crop) and not kind.startswith(BY_EDGE):
        about["image_processor_type"] = "BitImageProcessor"
    return about


def _sides(size: tuple[int, int]) -> dict[str, int]:
    return {"height": size[0], "width": size[1]}


def to_timm(
    model: config.Model, found: Preprocessing | None, kept: dict[str, Any] | None
) -> dict[str, Any]:
    """The pretrained_cfg of a model; `kept` is that of the file it came from, if any.

    Raises:
        InputError: timm has no words for the transform.
    """
    about = kept or {"input_size": [model.channels, *_pair(model.image_size)]}
    if found is None or (kept and _reads_as(kept, found)):
        return about
    made = steps(found)
    size = None if made is None else made.size
    if size is None or made.resize is None or not made.by(*NUMBERS):
        raise cannot_say("timm", found, TIMM)
    squashes, enlarged = isinstance(made.resize, Resize), _pair(made.resize.size)
    crop = _crop_pct(size, enlarged)
    if crop is None or not (squashes or size[0] == size[1]):
        raise cannot_say("timm", found, TIMM)
    return about | {
        "input_size": [model.channels, *size],
        "mean": _numbers(found.mean),
        "std": _numbers(found.std),
        "interpolation": made.resize.method,
        "crop_mode": "squash" if squashes else "center",
        "crop_pct": crop,
    }


def _reads_as(about: dict[str, Any], found: Preprocessing) -> bool:
    return same(found, understood(lambda: from_timm(about), about, "", ""))


def _crop_pct(size: tuple[int, int], enlarged: tuple[int, int]) -> float | None:
    """The shortest number of which timm cuts off to these whole pixels; None: there is none."""
    most = min(size[0] / enlarged[0], size[1] / enlarged[1])
    for digits in range(1, 17):
        for crop in (round(most, digits), math.floor(most * 10**digits) / 10**digits):
            if 0 < crop <= 1 and enlarged_by(size, crop) == enlarged:
                return crop
    return None


def to_open_clip(
    model: config.Model, found: Preprocessing | None, unread: dict[str, Any] | None
) -> dict[str, Any]:
    """preprocess_cfg. Whatever its size, open_clip sets it to that of the model's images.

    Args:
        unread: that of the file the weights came from, if it was not understood.

    Raises:
        InputError: open_clip has no words for the transform.
    """
    if found is None:
        return unread or {}
    made, size = steps(found), _pair(model.image_size)
    if made is None or made.resize is None or made.size != size:
        raise cannot_say("open_clip", found, OPEN_CLIP)
    if _pair(made.resize.size) != size or not made.by(*OPEN_CLIP_METHODS):
        raise cannot_say("open_clip", found, OPEN_CLIP)
    return {
        "size": model.image_size, "mean": _numbers(found.mean), "std": _numbers(found.std),
        "interpolation": made.resize.method,
        "resize_mode": "squash" if isinstance(made.resize, Resize) else "shortest",
    }  # fmt: skip


def _numbers(values: Sequence[float]) -> list[float]:
    return [float(x) for x in values]


def _pair(side: Any) -> tuple[int, int]:
    return (side, side) if isinstance(side, int) else tuple(side)
