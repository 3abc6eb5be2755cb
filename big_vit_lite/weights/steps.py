"""What a transform is made of, as far as published layouts say it: a resize and a central crop."""

import dataclasses
from typing import Any, NamedTuple

from big_vit_lite.data import transforms
from big_vit_lite.data.transforms.crops import CentralCrop
from big_vit_lite.data.transforms.decode import Decode
from big_vit_lite.data.transforms.op import Op
from big_vit_lite.data.transforms.patchify import Patchify
from big_vit_lite.data.transforms.resize import Resize, ResizeSmall
from big_vit_lite.weights.preprocessing import Preprocessing

FILTERED = ("bilinear", "bicubic", "lanczos")
"""Methods for which antialias makes a difference."""


class Steps(NamedTuple):
    """The operations after decode; None for what is not there."""

    resize: Resize | ResizeSmall | None
    crop: CentralCrop | None

    def by(self, *methods: str) -> bool:
        """Whether the resize, if any, is by one of these methods, with antialias."""
        return self.resize is None or (self.resize.method in methods and self.resize.antialias)

    @property
    def size(self) -> tuple[int, int] | None:
        """(height, width) of what is made; None where it depends on the image."""
        last = self.crop or (self.resize if isinstance(self.resize, Resize) else None)
        return last and last.size


def steps(found: Preprocessing) -> Steps | None:
    """The resize and the crop of a transform that has nothing else; None of any other."""
    ops = _plain(found)
    resize = ops.pop(0) if ops and isinstance(ops[0], Resize | ResizeSmall) else None
    crop = ops.pop(0) if ops and isinstance(ops[0], CentralCrop) else None
    return None if ops else Steps(resize, crop)


def patchify(found: Preprocessing) -> Patchify | None:
    """The only operation after decode, where it is this one."""
    ops = _plain(found)
    return ops[0] if len(ops) == 1 and isinstance(ops[0], Patchify) else None


def _plain(found: Preprocessing) -> list[Op]:
    """The operations after a plain decode; with decode itself where it does more than that."""
    ops = _operations(found)
    return ops[1:] if ops[:1] == [Decode()] else [Decode(), *ops]


def same(ours: Preprocessing, theirs: Any) -> bool:
    """Whether two make the same of an image.

    By which rule the longer side and odd margins are rounded (`rule=`, a pixel at most) is each
    library's own, and no file says it.
    """
    if not isinstance(theirs, Preprocessing) or _statistics(ours) != _statistics(theirs):
        return False
    return _operations(ours) == _operations(theirs)


def _statistics(found: Preprocessing) -> tuple[tuple[float, ...], tuple[float, ...]]:
    return tuple(map(float, found.mean)), tuple(map(float, found.std))


def _operations(found: Preprocessing) -> list[Op]:
    """In one form: sizes as pairs, without rules, and without what changes nothing."""
    ops: list[Op] = []
    for op in transforms.parse(found.transform).ops:
        if isinstance(op, ResizeSmall | CentralCrop):
            op = dataclasses.replace(op, rule="tensorflow")
        if isinstance(op, Resize | CentralCrop):
            op = dataclasses.replace(op, size=op.output_size(None))
        if isinstance(op, Resize | ResizeSmall) and op.method not in FILTERED:
            op = dataclasses.replace(op, antialias=True)
        whole = isinstance(op, CentralCrop) and ops and isinstance(ops[-1], Resize)
        if not (whole and op.size == ops[-1].size):
            ops.append(op)
    # Pixels of three channels, which no decode changes, are what files decode to.
    if not (ops and isinstance(ops[0], Decode)) and len(found.mean) == 3:
        ops.insert(0, Decode())
    return ops
