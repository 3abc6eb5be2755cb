"""The published sizes of Vision Transformers as one table, and "B/16" read into it.

Sources: Dosovitskiy 2021 (B, L, H), Touvron 2021 (Ti, S), Zhai 2022 (g, G), Alabdulmohsin 2023
(So400m), Chen 2023 (e), Zhai 2023 and Tschannen 2025 (g-opt, G-opt: the same cost in shapes that
accelerators like better).
"""

import difflib
import re
from collections.abc import Iterable
from typing import NamedTuple

from big_vit_lite.config import InputError


class Size(NamedTuple):
    """Shape of a Transformer: `width` features a token, `depth` blocks, `heads` a block."""

    width: int
    depth: int
    mlp_dim: int
    heads: int


SIZES = {
    "mu": Size(32, 1, 128, 2),
    "Ti": Size(192, 12, 768, 3),
    "S": Size(384, 12, 1536, 6),
    "M": Size(512, 12, 2048, 8),
    "B": Size(768, 12, 3072, 12),
    "L": Size(1024, 24, 4096, 16),
    "So400m": Size(1152, 27, 4304, 16),
    "H": Size(1280, 32, 5120, 16),
    "g": Size(1408, 40, 6144, 16),
    "g-opt": Size(1536, 40, 6144, 16),
    "G": Size(1664, 48, 8192, 16),
    "G-opt": Size(1536, 48, 8192, 16),
    "e": Size(1792, 56, 15360, 16),
}


class ResNetSize(NamedTuple):
    """Shape of one of CLIP's ResNets: blocks of each stage, features of the stem."""

    stages: tuple[int, int, int, int]
    width: int


RESNETS = {
    "RN50": ResNetSize((3, 4, 6, 3), 64),
    "RN101": ResNetSize((3, 4, 23, 3), 64),
    "RN50x4": ResNetSize((4, 6, 10, 6), 80),
    "RN50x16": ResNetSize((6, 8, 18, 8), 96),
    "RN50x64": ResNetSize((3, 15, 36, 10), 128),
}
"""Radford 2021, for images of 224, 224, 288, 384 and 448 pixels."""

HYBRIDS = {
    "R+{}/16": ((), 8),
    "R26+{}/32": ((2, 2, 2, 2), 1),
    "R50+{}/16": ((3, 4, 9), 1),
    "R50+{}/32": ((3, 4, 6, 3), 1),
}
"""By name, with a size in its braces: blocks of the stages of the ResNet before the Transformer,
and the patch, in positions of its maps (Dosovitskiy 2021, Steiner 2022). Published are R+Ti/16,
R26+S/32, R50+B/16 and R50+L/32. The first one's name says 16, but a position of its maps is 4
pixels wide, and so a patch 32."""

_VARIANT = re.compile(rf"({'|'.join(SIZES)})/([1-9]\d*)(?:x([1-9]\d*))?")
_HYBRID = re.compile(rf"(R\d*\+)({'|'.join(SIZES)})(/\d+)")


class Variant(NamedTuple):
    """A size and its patch, (height, width) in pixels.

    Hybrids have `stages`, the blocks of their ResNet's stages, and their patch is in positions of
    the ResNet's maps.
    """

    size: Size
    patch: tuple[int, int]
    stages: tuple[int, ...] | None = None


def maps_stride(stages: tuple[int, ...] | None) -> int:
    """Pixels of the image's side for one position of what patches are cut from: maps of a ResNet
    with these stages, or the image itself."""
    return 1 if stages is None else 4 * 2 ** max(0, len(stages) - 1)


def parse_variant(text: str) -> Variant:
    """Reads "B/16", "B/16x8" for patches 16 high and 8 wide, or "R50+B/16" for a hybrid.

    Raises:
        InputError: no such variant; the message names the nearest one.
    """
    hybrid = _HYBRID.fullmatch(text)
    if hybrid and (known := HYBRIDS.get("{}".join(hybrid.group(1, 3)))):
        stages, patch = known
        return Variant(SIZES[hybrid[2]], (patch, patch), stages)
    match = _VARIANT.fullmatch(text)
    if match is None:
        raise InputError(
            f"model.variant: {text!r} is not SIZE/PATCH; did you mean {_nearest(text)!r}? "
            f"Sizes are {', '.join(SIZES)}; the patch is in pixels, as in 'B/16' or 'B/16x8'. "
            f"Hybrids are {', '.join(x.format('SIZE') for x in HYBRIDS)}; ResNets are "
            f"{', '.join(RESNETS)}."
        )
    name, height, width = match.groups()
    return Variant(SIZES[name], (int(height), int(width or height)))


def parse_size(text: str, key: str) -> Size:
    """Reads "B", the size of a tower without patches; `key` names it in the error.

    Raises:
        InputError: no such size; the message names the nearest one.
    """
    if text not in SIZES:
        raise InputError(
            f"{key}: {text!r} is no size; did you mean {_most_like(text, SIZES)!r}? Sizes are "
            f"{', '.join(SIZES)}."
        )
    return SIZES[text]


def _nearest(text: str) -> str:
    patch = re.search(r"[1-9]\d*(x[1-9]\d*)?$", text)
    names = [f"{size}/{patch.group() if patch else 16}" for size in SIZES]
    hybrids = [name.format(size) for name in HYBRIDS for size in SIZES]
    return _most_like(text, [*names, *RESNETS, *hybrids])


def _most_like(text: str, names: Iterable[str]) -> str:
    def likeness(name: str) -> tuple[float, float]:
        """Letters first, their case second: "b16" is B/16, "G_opt/14" is not g-opt/14."""
        folded = difflib.SequenceMatcher(None, name.casefold(), text.casefold()).ratio()
        return folded, difflib.SequenceMatcher(None, name, text).ratio()

    return max(names, key=likeness)
