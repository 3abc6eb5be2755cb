"""Image transforms as text: which operations there are, and what a chain of them makes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from big_vit_lite.config import InputError
from big_vit_lite.data.grammar import Grammar
from big_vit_lite.data.transforms import crops, geometry, randaugment, resize
from big_vit_lite.data.transforms.decode import Decode
from big_vit_lite.data.transforms.op import Image, Op, Size

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
    "shift": geometry.Shift,
    "rotate": geometry.Rotate,
    "affine": geometry.Affine,
    "cutout": geometry.Cutout,
    "randaugment": randaugment.RandAugment,
}
GRAMMAR = Grammar(OPS, chain="decode|resize(224)|flip", single="flip or resize(224)")


@dataclass(frozen=True)
class Transform:
    """Operations one after the other; equal arguments and generators give equal pixels."""

    ops: tuple[Op, ...]

    def __call__(self, image: Any, rng: np.random.Generator) -> Image:
        for op in self.ops:
            image = op(image, rng)
        return image

    @property
    def decodes(self) -> bool:
        """Whether the first operation is decode, whose result can be kept between epochs."""
        return bool(self.ops) and isinstance(self.ops[0], Decode)

    def output_size(self) -> Size | None:
        """(height, width) of every result; None where it depends on the image."""
        size = None
        for op in self.ops:
            size = op.output_size(size)
        return size


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
    return ops, faults
