"""The ResNet of timm's hybrids (vit_base_r50_s16_224 and its like): names, and what it computes.

timm took the published weights over with another epsilon in the group norms and in the kernels'
standardisation; what it computes differs by some 1e-4 from what was trained.
"""

from typing import Any

from big_vit_lite.config import InputError
from big_vit_lite.weights import tables
from big_vit_lite.weights.rules import CONVOLUTION, Rule
from big_vit_lite.weights.sections import Shape, count

BACKBONE = "patch_embed.backbone"
ARCHITECTURES = {
    (): "vit_tiny_r_s16_p8_224",
    (2, 2, 2, 2): "vit_small_r26_s32_224",
    (3, 4, 9): "vit_base_r50_s16_224",
    (3, 4, 6, 3): "vit_large_r50_s32_224",
}
"""By the stages, which timm's model_args cannot say."""


def root(shapes: dict[str, Shape]) -> Shape | None:
    """Shape of the first convolution (out, in, rows, columns); None where there is no ResNet."""
    names = (f"{BACKBONE}.{x}conv.weight" for x in ("", "stem."))
    return next((shapes[name] for name in names if name in shapes), None)


def stem_of(shapes: dict[str, Shape]) -> dict[str, Any] | None:
    """Fields of a section by the arrays of a file; None where it has no ResNet."""
    if (kernel := root(shapes)) is None:
        return None
    blocks = (count(shapes, f"{BACKBONE}.stages.{i}.blocks.{{i}}.conv1.weight") for i in range(8))
    return {
        "stages": tuple(n for n in blocks if n),
        "stem_width": kernel[0],
        "stem_norm_eps": 1e-5,
        "stem_standardize": "variance",
    }


def rules(theirs: str, ours: str, stem: tuple[tuple[int, ...], int] | None) -> list[Rule]:
    """The table of a ResNet with (stages, width)."""
    if stem is None:
        return []
    first = f"{theirs}.stem" if stem[0] else theirs
    found = _pair(f"{first}.conv", f"{first}.norm", f"{ours}/conv_root", f"{ours}/gn_root")
    for i, depth in enumerate(stem[0]):
        for j in range(depth):
            at, unit = f"{theirs}.stages.{i}.blocks.{j}", f"{ours}/block{i + 1}/unit{j + 1}"
            for n in (1, 2, 3):
                found += _pair(f"{at}.conv{n}", f"{at}.norm{n}", f"{unit}/conv{n}", f"{unit}/gn{n}")
            down = f"{at}.downsample"
            found += _pair(f"{down}.conv", f"{down}.norm", f"{unit}/conv_proj", f"{unit}/gn_proj")
    return found


def _pair(convolution: str, norm: str, kernel: str, group_norm: str) -> list[Rule]:
    """A convolution without bias, and its norm."""
    return [
        Rule(f"{convolution}.weight", (f"{kernel}/kernel",), CONVOLUTION),
        *tables.norm(norm, group_norm),
    ]


def architecture(stages: tuple[int, ...], width: int) -> str:
    """The name under which timm builds such a ResNet.

    Raises:
        InputError: there is none.
    """
    if stages not in ARCHITECTURES or width != 64:
        raise InputError(
            f"timm names hybrids by architecture, and has none of {stages} blocks and {width} "
            "features: save it as vit-jax."
        )
    return ARCHITECTURES[stages]
