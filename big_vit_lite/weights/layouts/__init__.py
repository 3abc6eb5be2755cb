"""All layouts, numbered as in docs/weights.md; one file each, or one for a few that differ in a
line."""

import difflib

from big_vit_lite.config import InputError
from big_vit_lite.weights.files import Source
from big_vit_lite.weights.layout import Layout
from big_vit_lite.weights.layouts import (
    big_vision,
    facebook,
    facebook_mae,
    open_clip,
    open_clip_coca,
    openai_clip,
    timm,
    transformers_clip,
    transformers_dinov2,
    transformers_mae,
    transformers_siglip,
    transformers_siglip2,
    transformers_vit,
    vit_jax,
)

LAYOUTS: tuple[Layout, ...] = (
    vit_jax.LAYOUT,
    big_vision.VIT,
    big_vision.PAIR,
    openai_clip.LAYOUT,
    openai_clip.RESNET,
    open_clip.LAYOUT,
    open_clip.TRUNK,
    open_clip_coca.LAYOUT,
    transformers_vit.VIT,
    transformers_vit.DEIT,
    transformers_clip.LAYOUT,
    transformers_siglip.LAYOUT,
    transformers_dinov2.LAYOUT,
    transformers_dinov2.WITH_REGISTERS,
    timm.VIT,
    timm.DEIT,
    facebook.DINOV2,
    facebook.MAE,
    facebook.DINO,
    facebook.DEIT,
    transformers_mae.LAYOUT,
    facebook_mae.LAYOUT,
    transformers_siglip2.LAYOUT,
    big_vision.NAFLEX,
)


def find(name: str) -> Layout:
    """A layout by its name or number.

    Raises:
        InputError: there is none; the message names the nearest one.
    """
    names = {key: layout for layout in LAYOUTS for key in (layout.name, layout.number)}
    if name not in names:
        near = difflib.get_close_matches(name, [x.name for x in LAYOUTS], n=1, cutoff=0.0)
        raise InputError(
            f"{name!r} is no layout of weights; did you mean {near[0]!r}? There are "
            f"{', '.join(x.name for x in LAYOUTS)}."
        )
    return names[name]


def detect(source: Source) -> Layout:
    """The layout of a file, by its names.

    Raises:
        InputError: they are of none.
    """
    for layout in LAYOUTS:
        if layout.fits(source):
            return layout
    names = list(source.arrays)
    raise InputError(
        f"{source.path} has a layout that is not known here: its {len(names)} arrays are "
        f"{', '.join(names[:3])} and so on. Known are {', '.join(x.title for x in LAYOUTS)}."
    )
