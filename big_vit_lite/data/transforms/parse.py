"""Text to transform: operations joined by "|", arguments as Python literals, read by ast.

Nothing is evaluated: "decode|pad_crop(4, mode='reflect')|flip" is parsed as an expression, of
which only names, calls, literals and "|" are understood.
"""

from __future__ import annotations

import ast
import difflib
import inspect
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from big_vit_lite.config import InputError
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


def signature(name: str) -> str:
    """How an operation is written: "pad_crop(pad, mode='constant')"."""
    arguments = [p.replace(annotation=p.empty) for p in _signature(OPS[name]).parameters.values()]
    return name + str(inspect.Signature(arguments))


def _signature(cls: type[Op]) -> inspect.Signature:
    return inspect.signature(cls).replace(return_annotation=inspect.Signature.empty)


def _read(text: str) -> tuple[list[Op], list[str]]:
    if not text.strip():
        return [], []
    try:
        with warnings.catch_warnings(action="ignore", category=SyntaxWarning):
            tree = ast.parse(" ".join(text.splitlines()).strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return [], ["not readable; write operations such as decode|resize(224)|flip"]
    ops, faults = [], []
    for node in _steps(tree):
        try:
            ops.append(_make(node))
        except ValueError as error:
            faults.append(str(error))
    late = [i for i, op in enumerate(ops) if i and isinstance(op, Decode)]
    if late and not faults:
        faults.append("decode comes first and once")
    return ops, faults


def _steps(node: ast.expr) -> list[ast.expr]:
    """Operands of a chain a|b|c, in order."""
    steps = []
    while isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        steps.append(node.right)
        node = node.left
    return [node, *reversed(steps)]


def _make(node: ast.expr) -> Op:
    called = node.func if isinstance(node, ast.Call) else node
    if not isinstance(called, ast.Name):
        raise ValueError(f"{ast.unparse(node)!r} is not an operation, such as flip or resize(224)")
    name = called.id
    if name not in OPS:
        near = difflib.get_close_matches(name, OPS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(OPS)}"
        raise ValueError(f"unknown operation {name!r}; {hint}")
    args, keywords = _arguments(node, name) if isinstance(node, ast.Call) else ([], {})
    try:
        bound = _signature(OPS[name]).bind(*args, **keywords)
    except TypeError as error:
        raise ValueError(f"{name}: {error}; write {signature(name)}") from None
    try:
        return OPS[name](*bound.args, **bound.kwargs)
    except ValueError as error:
        raise ValueError(f"{name}: {error}; write {signature(name)}") from None


def _arguments(node: ast.Call, name: str) -> tuple[list, dict[str, Any]]:
    if any(isinstance(a, ast.Starred) for a in node.args) or any(
        k.arg is None for k in node.keywords
    ):
        raise ValueError(f"{name}: * and ** are not understood; write {signature(name)}")
    args = [_literal(a, name) for a in node.args]
    return args, {k.arg: _literal(k.value, name) for k in node.keywords}


def _literal(node: ast.expr, name: str) -> Any:
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        raise ValueError(
            f"{name}: {ast.unparse(node)!r} is not a plain value (number, text or tuple)"
        ) from None
