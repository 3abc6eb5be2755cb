"""The grammar of transforms: operations joined by "|", arguments as Python literals, read by ast.

Nothing is evaluated: "decode|pad_crop(4, mode='reflect')|flip" is parsed as an expression, of
which only names, calls, literals and "|" are understood. Images and captions share it.
"""

from __future__ import annotations

import ast
import difflib
import inspect
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

Op = TypeVar("Op")


class WholeFault(ValueError):
    """A fault that says itself what to do: the operation's signature would not help."""


@dataclass(frozen=True)
class Grammar(Generic[Op]):
    """Reads chains of the operations `ops`, which check their own arguments (ValueError).

    An operation whose signature does not tell how it is written says so in `usage`.

    Attributes:
      ops: operation by name.
      chain, single: what a chain and a single operation may look like, for error texts.
    """

    ops: Mapping[str, type[Op]]
    chain: str
    single: str

    def read(self, text: str) -> tuple[list[Op], list[str]]:
        """Operations of `text`, and its faults in one sentence each."""
        if not text.strip():
            return [], []
        try:
            with warnings.catch_warnings(action="ignore", category=SyntaxWarning):
                tree = ast.parse(" ".join(text.splitlines()).strip(), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return [], [f"not readable; write operations such as {self.chain}"]
        ops, faults = [], []
        for node in _steps(tree):
            try:
                ops.append(self._make(node))
            except ValueError as error:
                faults.append(str(error))
        return ops, faults

    def signature(self, name: str) -> str:
        """How an operation is written: "pad_crop(pad, mode='constant')"."""
        if usage := getattr(self.ops[name], "usage", None):
            return usage
        parameters = _signature(self.ops[name]).parameters.values()
        arguments = [p.replace(annotation=p.empty) for p in parameters]
        return name + str(inspect.Signature(arguments))

    def name_of(self, op: Op) -> str:
        """The first name of an operation."""
        return next(name for name, cls in self.ops.items() if cls is type(op))

    def _make(self, node: ast.expr) -> Op:
        called = node.func if isinstance(node, ast.Call) else node
        if not isinstance(called, ast.Name):
            raise ValueError(f"{_written(node)} is not an operation, such as {self.single}")
        name = called.id
        if name not in self.ops:
            near = difflib.get_close_matches(name, self.ops, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(self.ops)}"
            raise ValueError(f"unknown operation {name!r}; {hint}")
        args, keywords = self._arguments(node, name) if isinstance(node, ast.Call) else ([], {})
        try:
            bound = _signature(self.ops[name]).bind(*args, **keywords)
        except TypeError as error:
            raise ValueError(f"{name}: {error}; write {self.signature(name)}") from None
        try:
            return self.ops[name](*bound.args, **bound.kwargs)
        except WholeFault as error:
            raise ValueError(f"{name}: {error}") from None
        except ValueError as error:
            raise ValueError(f"{name}: {error}; write {self.signature(name)}") from None

    def _arguments(self, node: ast.Call, name: str) -> tuple[list, dict[str, Any]]:
        if any(isinstance(a, ast.Starred) for a in node.args) or any(
            k.arg is None for k in node.keywords
        ):
            raise ValueError(f"{name}: * and ** are not understood; write {self.signature(name)}")
        args = [_literal(a, name) for a in node.args]
        return args, {k.arg: _literal(k.value, name) for k in node.keywords}


def _signature(cls: type) -> inspect.Signature:
    return inspect.signature(cls).replace(return_annotation=inspect.Signature.empty)


def _steps(node: ast.expr) -> list[ast.expr]:
    """Operands of a chain a|b|c, in order."""
    steps = []
    while isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        steps.append(node.right)
        node = node.left
    return [node, *reversed(steps)]


def _literal(node: ast.expr, name: str) -> Any:
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        raise ValueError(
            f"{name}: {_written(node)} is not a plain value (number, text or tuple)"
        ) from None


def _written(node: ast.expr) -> str:
    """How `node` is written, in quotes and cut to 60 characters."""
    try:
        text = ast.unparse(node)
    except (RecursionError, ValueError):  # deeper, or of more digits, than Python writes
        return "what is too long to show here"
    return repr(text if len(text) <= 60 else f"{text[:57]}...")
