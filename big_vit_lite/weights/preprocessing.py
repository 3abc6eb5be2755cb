"""How images and texts become inputs, as the source of the weights had it."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

from big_vit_lite.data import transforms
from big_vit_lite.data.transforms import preprocessing as published

HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
"""Mean and standard deviation of each channel, pixels in [0, 1]."""
BY_EDGE = ("CLIP", "Bit")
"""transformers' processors for which a number as size is that of the shorter side."""
METHODS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}
"""Pillow's numbers, as transformers' JSON has them."""
OPEN_CLIP_METHODS = ("bilinear", "bicubic")
PLAIN = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
"""Mean and standard deviation of pixels that stay in [0, 1]."""


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


@dataclasses.dataclass(frozen=True)
class NotUnderstood:
    """In place of preprocessing that a source says in words that are not known here.

    Weights load without it: it is a fault only where pixels are to be prepared by it.

    Attributes:
        fault: the sentence for who needs it.
        about: the JSON that says it, to be written back as it came.
        text: as in Preprocessing.
    """

    fault: str
    about: dict[str, Any]
    text: str | None = None


def understood(
    read: Callable[[], Preprocessing | None], about: dict[str, Any], where: Any, file: str
) -> Preprocessing | NotUnderstood | None:
    """What `read` makes of the JSON `about`, which lies beside `where` as `file`."""
    try:
        found = read()
        if found is not None:
            transforms.parse(found.transform)
            _check_statistics(found)
        return found
    except KeyError as error:
        reason = f"it lacks {error}"
    except (ValueError, TypeError, IndexError, AttributeError, ZeroDivisionError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
    return NotUnderstood(
        f"{where}: how images were prepared is not understood from the {file} beside it ({reason}):"
        " give transform=, mean= and std= yourself.",
        about,
    )


def _check_statistics(found: Preprocessing) -> None:
    numbers = (*found.mean, *found.std)
    good = all(isinstance(x, int | float) and not isinstance(x, bool) for x in numbers)
    if not good or len(found.mean) != len(found.std) or min(found.std) <= 0:
        raise ValueError(f"mean {found.mean} and standard deviation {found.std}")


def with_text(
    found: Preprocessing | NotUnderstood | None, text: str | None
) -> Preprocessing | NotUnderstood | None:
    """The same with a text transform."""
    return found and dataclasses.replace(found, text=text)


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


def from_transformers(about: dict[str, Any]) -> Preprocessing:
    """What a preprocessor_config.json says.

    Raises:
        ValueError, KeyError, TypeError: it asks for what is not known here.
    """
    about = {name: value for name, value in about.items() if value is not None}  # the default
    statistics = _statistics(about)
    kind = about.get("image_processor_type") or about.get("feature_extractor_type") or ""
    number, size = about.get("resample", 2), about.get("size", 224)
    if number not in METHODS:
        raise ValueError(f"resample {number!r}")
    method = METHODS[number]
    if kind.startswith("Siglip2") and "max_num_patches" in about:
        return patches(about["patch_size"], about["max_num_patches"], statistics, method)
    crop = ""
    if about.get("do_center_crop"):
        # transformers' crop is one pixel off torchvision's where the margin is odd.
        crop = f"|central_crop({_side(about.get('crop_size', size))})"
    if not about.get("do_resize", True):
        return Preprocessing("decode" + crop, *statistics)
    by_edge = "shortest_edge" in size if isinstance(size, dict) else kind.startswith(BY_EDGE)
    if not by_edge:
        return Preprocessing(published.squash(_side(size), method) + crop, *statistics)
    if isinstance(size, dict) and "longest_edge" in size:
        raise ValueError(f"size {size}")
    edge = f"decode|resize_small({_side(size)}, {method!r}, rule='torchvision')"
    return Preprocessing(edge + crop, *statistics)


def _statistics(about: dict[str, Any]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Of pixels in [0, 1], to which all processors bring them first."""
    factor = about.get("rescale_factor", 1 / 255)
    if not about.get("do_rescale", True):
        raise ValueError("do_rescale is false")
    if abs(255 * factor - 1) > 1e-6:
        raise ValueError(f"rescale_factor {factor}")
    if not about.get("do_normalize", True):
        return PLAIN
    return tuple(about["image_mean"]), tuple(about["image_std"])


def _side(size: Any) -> Any:
    if not isinstance(size, dict):
        return size
    if "shortest_edge" in size:
        return size["shortest_edge"]
    height, width = size["height"], size["width"]
    return height if height == width else (height, width)


def from_timm(about: dict[str, Any]) -> Preprocessing | None:
    """What timm's pretrained_cfg says; None where it does not say it.

    Raises:
        ValueError, TypeError: it asks for what is not known here.
    """
    if "mean" not in about or "input_size" not in about:
        return None
    size = tuple(about["input_size"][-2:])
    method, mode = about.get("interpolation") or "bicubic", about.get("crop_mode") or "center"
    statistics = tuple(about["mean"]), tuple(about["std"])
    crop = about.get("crop_pct") or 0.875
    if method not in METHODS.values():
        raise ValueError(f"interpolation {method!r}")
    if mode == "squash":
        enlarged = enlarged_by(size, crop)
        cut = f"|central_crop({_one(size)}, rule='torchvision')" if enlarged != size else ""
        squashed = published.squash(_one(enlarged), method)
        return Preprocessing(squashed + cut, *statistics)
    if mode != "center" or size[0] != size[1]:
        raise ValueError(f"crop_mode {mode!r} to {size[0]}x{size[1]}")
    return shortest(size[0], statistics, crop, method)


def enlarged_by(size: tuple[int, int], crop: float) -> tuple[int, int]:
    """The size of which timm cuts out a part, `crop` of each side, cut off to whole pixels."""
    return math.floor(size[0] / crop), math.floor(size[1] / crop)


def _one(size: tuple[int, int]) -> int | tuple[int, int]:
    return size[0] if size[0] == size[1] else size


def from_open_clip(about: dict[str, Any], size: Any) -> Preprocessing:
    """What open_clip's preprocess_cfg says; empty: OpenAI's.

    Raises:
        ValueError, TypeError: it asks for what is not known here.
    """
    side = about.get("size", size)
    side = side[0] if isinstance(side, list | tuple) and side[0] == side[1] else side
    statistics = tuple(about.get("mean", CLIP[0])), tuple(about.get("std", CLIP[1]))
    method, mode = about.get("interpolation", "bicubic"), about.get("resize_mode", "shortest")
    if method not in OPEN_CLIP_METHODS:
        raise ValueError(f"interpolation {method!r}")
    if mode == "squash":
        return squash(side if isinstance(side, int) else tuple(side), statistics, method)
    if mode != "shortest" or not isinstance(side, int):
        raise ValueError(f"resize_mode {mode!r} to {side}")
    return shortest(side, statistics, method=method)
