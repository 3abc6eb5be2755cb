"""Image transforms as text: which operations there are, and what a chain of them makes."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np

from big_vit_lite.config import InputError
from big_vit_lite.data.grammar import Grammar
from big_vit_lite.data.transforms import (
    augmix,
    autoaugment,
    colour_ops,
    cropped,
    crops,
    erasing,
    features,
    geometry,
    patchify,
    randaugment,
    resize,
    views,
)
from big_vit_lite.data.transforms.decode import Decode
from big_vit_lite.data.transforms.op import Image, Op, Several, Size, Specs

OPS: dict[str, type[Op]] = {
    "decode": Decode,
    "resize": resize.Resize,
    "to_size": resize.Resize,
    "resize_small": resize.ResizeSmall,
    "central_crop": crops.CentralCrop,
    "random_crop": crops.RandomCrop,
    "pad_crop": crops.PadCrop,
    "random_resized_crop": crops.RandomResizedCrop,
    "flip": geometry.Flip,
    "vertical_flip": geometry.VerticalFlip,
    "shift": geometry.Shift,
    "translate": geometry.Translate,
    "rotate": geometry.Rotate,
    "affine": geometry.Affine,
    "cutout": geometry.Cutout,
    "random_erasing": erasing.RandomErasing,
    "grayscale": colour_ops.Grayscale,
    "autocontrast": colour_ops.Autocontrast,
    "equalize": colour_ops.Equalize,
    "invert": colour_ops.Invert,
    "posterize": colour_ops.Posterize,
    "solarize": colour_ops.Solarize,
    "sharpness": colour_ops.Sharpness,
    "gaussian_blur": colour_ops.GaussianBlur,
    "color_jitter": colour_ops.ColorJitter,
    "three_augment": colour_ops.ThreeAugment,
    "randaugment": randaugment.RandAugment,
    "randaugment_timm": randaugment.RandAugmentTimm,
    "randaugment_paper": randaugment.RandAugmentPaper,
    "autoaugment": autoaugment.AutoAugment,
    "trivialaugment": autoaugment.TrivialAugment,
    "augmix": augmix.AugMix,
    "patchify": patchify.Patchify,
    "views": views.Views,
    "features": features.Features,
}
GRAMMAR = Grammar(OPS, chain="decode|resize(224)|flip", single="flip or resize(224)")


@dataclass(frozen=True)
class Transform:
    """Operations one after the other; equal arguments and generators give equal pixels.

    A call gives an image or, where the last operation makes several arrays, a dict of them.
    """

    ops: tuple[Op, ...]

    def __call__(self, image: Any, rng: np.random.Generator) -> Image | dict[str, np.ndarray]:
        ops = self.ops
        if self._start and isinstance(image, bytes):
            image, ops = self._start(image, rng), ops[2:]
        for op in ops:
            image = op(image, rng)
        return image

    @functools.cached_property
    def _start(self) -> Op | None:
        """The first two operations as one, where that is faster."""
        return cropped.join(self.ops)

    @property
    def decodes(self) -> bool:
        """Whether the first operation is decode, and what it gives can be kept between epochs."""
        return self._decode is not None and not self._decode.approximate

    @property
    def _decode(self) -> Decode | None:
        return self.ops[0] if self.ops and isinstance(self.ops[0], Decode) else None

    @property
    def several(self) -> Several | None:
        """The last operation, if it makes several arrays."""
        return self.ops[-1] if self.ops and isinstance(self.ops[-1], Several) else None

    def output_size(self, size: Size | None = None) -> Size | None:
        """(height, width) of what it makes of images of `size` (None: any).

        None where that depends on the image, and where several arrays are made.
        """
        for op in self.ops:
            size = op.output_size(size)
        return size

    def specs(self, size: Size | None = None, channels: int | None = None) -> Specs:
        """Shape and type of each array it makes, by key; "image" where it makes one image.

        Args:
          size, channels: of the images it is given; None where they differ or are not known.
        """
        if self._decode:
            channels = self._decode.channels
        if not self.several:
            return {"image": ((*(self.output_size(size) or (None, None)), channels), np.uint8)}
        before = Transform(self.ops[:-1]).output_size(size)
        return self.several.specs(before, channels)


def parse(text: str, where: str = "transform") -> Transform:
    """The transform that `text` describes; an empty text changes nothing.

    Raises:
      InputError: with every fault of the text in one sentence each.
    """
    ops, faults = _read(text)
    if faults:
        raise InputError(f"{where} {text!r}: {'; '.join(faults)}")
    return Transform(tuple(ops))


def check(text: str) -> list[str]:
    """Faults of the text, one sentence each; an empty list where it is sound."""
    return _read(text)[1]


def output_size(text: str) -> Size | None:
    """(height, width) that the transform makes of any image; None where that depends on it."""
    return parse(text).output_size()


def _read(text: str) -> tuple[list[Op], list[str]]:
    ops, faults = GRAMMAR.read(text)
    late = [i for i, op in enumerate(ops) if i and isinstance(op, Decode)]
    if late and not faults:
        faults.append("decode comes first and once")
    faults += [] if faults else cropped.faults(tuple(ops))
    if len(ops) > 1 and any(isinstance(op, features.Features) for op in ops) and not faults:
        faults.append("features stands alone; it reads what was computed before")
    early = [GRAMMAR.name_of(op) for op in ops[:-1] if isinstance(op, Several)]
    if early and not faults:
        faults.append(f"{early[0]} comes last; it makes more than one image")
    return ops, faults
