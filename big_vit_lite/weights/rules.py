"""The engine: a table of (their name, our names, form) that is read in both directions.

A name is a pattern: {i} stands for a number, {i:02} for one of two digits at least, {rest} for all
that follows, and all are carried over. A form is a pair of functions between their array and ours.
Nothing may be left over on either side, unless the layout lists it; what does not fit is told in
the file's own names.
"""

import dataclasses
import difflib
import functools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from big_vit_lite.config import InputError

Shape = tuple[int, ...]
LINES = 12
"""Lines that an error shows of each kind; the rest is counted."""


@dataclasses.dataclass(frozen=True)
class Form:
    """From their array to ours and back."""

    read: Callable[[Any], Any]
    write: Callable[[Any], Any]


SAME = Form(lambda x: x, lambda x: x)
LINEAR = Form(lambda x: x.T, lambda x: x.T)
"""(out, in) to (in, out)."""
CONVOLUTION = Form(lambda x: x.transpose(2, 3, 1, 0), lambda x: x.transpose(3, 2, 0, 1))
"""(out, in, rows, columns) to (rows, columns, in, out)."""
NUMBER = Form(lambda x: x.reshape(1), lambda x: x.reshape(()))
"""() to (1,)."""


def leading(axes: int) -> Form:
    """(...) to (1, ..., 1, ...) with `axes` more of them."""
    return Form(lambda x: x.reshape((1,) * axes + x.shape), lambda x: x.reshape(x.shape[axes:]))


def onto_heads(heads: int) -> Form:
    """(heads * k, in) to (in, heads, k): query, key and value."""
    return Form(lambda x: x.T.reshape(x.shape[1], heads, -1), lambda x: x.reshape(x.shape[0], -1).T)


def bias_onto_heads(heads: int) -> Form:
    """(heads * k,) to (heads, k)."""
    return Form(lambda x: x.reshape(heads, -1), lambda x: x.reshape(-1))


def from_heads(heads: int) -> Form:
    """(out, heads * k) to (heads, k, out): the projection behind attention."""
    return Form(
        lambda x: x.T.reshape(heads, -1, x.shape[0]), lambda x: x.reshape(-1, x.shape[-1]).T
    )


@dataclasses.dataclass(frozen=True)
class Rule:
    """One line of a layout's table.

    `ours` has several names where their array holds several of ours, one after the other along its
    first axis; `form` is that of each.
    """

    theirs: str
    ours: tuple[str, ...]
    form: Form = SAME

    def read(self, array: Any) -> list[Any]:
        return [self.form.read(part) for part in _split(array, len(self.ours))]

    def write(self, arrays: Sequence[Any]) -> Any:
        parts = [self.form.write(array) for array in arrays]
        if len(parts) == 1:
            return parts[0]
        library = np if isinstance(parts[0], np.ndarray) else jnp
        return library.concatenate(parts)


def _split(array: Any, parts: int) -> list[Any]:
    size = array.shape[0] // parts if parts > 1 else 0
    return [array] if parts == 1 else [array[i * size : (i + 1) * size] for i in range(parts)]


@functools.cache
def _pattern(template: str) -> re.Pattern[str]:
    text = ""
    for n, part in enumerate(re.split(r"\{([\w:]+)\}", template)):
        if n % 2 == 0:
            text += re.escape(part)
            continue
        name, _, digits = part.partition(":")
        kind = ".+" if name == "rest" else "[0-9]{2,}" if digits else "[0-9]+"
        text += f"(?P<{name}>{kind})"
    return re.compile(text)


def _fill(template: str, match: re.Match[str]) -> str:
    """The name that a template makes of what another one found."""
    found = match.groupdict()
    return template.format(**{k: x if k == "rest" else int(x) for k, x in found.items()})


def their_names(rules: Iterable[Rule], leaves: Iterable[str]) -> dict[str, tuple[Rule, list[str]]]:
    """{their name: (rule, our names in it)} for our leaves, by the first rule that each meets.

    Raises:
        KeyError: a leaf for which no rule is there.
    """
    found: dict[str, tuple[Rule, list[str]]] = {}
    for leaf in leaves:
        rule, match = _first(rules, leaf)
        theirs = _fill(rule.theirs, match)
        found.setdefault(theirs, (rule, [_fill(ours, match) for ours in rule.ours]))
    return found


def _first(rules: Iterable[Rule], leaf: str) -> tuple[Rule, re.Match[str]]:
    for rule in rules:
        for ours in rule.ours:
            if match := _pattern(ours).fullmatch(leaf):
                return rule, match
    raise KeyError(leaf)


def write(rules: Sequence[Rule], leaves: Mapping[str, Any]) -> dict[str, Any]:
    """Our leaves, by path, under their names and in their forms.

    Works on NumPy arrays, jax arrays and tracers.

    Raises:
        InputError: leaves that the layout has no place for.
    """
    homeless = [leaf for leaf in leaves if not _has_place(rules, leaf)]
    if homeless:
        raise InputError(f"the layout has no place for {_listed(homeless)}")
    names = their_names(rules, leaves)
    return {
        theirs: rule.write([leaves[name] for name in ours])
        for theirs, (rule, ours) in names.items()
    }


def _has_place(rules: Sequence[Rule], leaf: str) -> bool:
    return any(_pattern(ours).fullmatch(leaf) for rule in rules for ours in rule.ours)


def read(rules: Sequence[Rule], arrays: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Their arrays as our leaves by path, and the names that no rule knows.

    Values may be arrays, or functions that read them.
    """
    leaves, unknown = {}, []
    for theirs, array in arrays.items():
        for rule in rules:
            if match := _pattern(rule.theirs).fullmatch(theirs):
                values = rule.read(array() if callable(array) else array)
                ours = [_fill(name, match) for name in rule.ours]
                leaves |= dict(zip(ours, values, strict=True))
                break
        else:
            unknown.append(theirs)
    return leaves, unknown


def expected(rules: Sequence[Rule], leaves: Mapping[str, Any]) -> dict[str, Shape]:
    """Names and shapes that a file of these leaves (ShapeDtypeStructs) has."""
    shapes = jax.eval_shape(lambda x: write(rules, x), dict(leaves))
    return {name: tuple(x.shape) for name, x in shapes.items()}


def check(given: Mapping[str, Shape], wanted: Mapping[str, Shape], where: str) -> None:
    """Compares names and shapes of a file with those it should have.

    Raises:
        InputError: with every name that only one side has, the nearest of the other side beside it,
            and every array of another shape.
    """
    missing, extra = wanted.keys() - given.keys(), given.keys() - wanted.keys()
    lines = []
    for title, names, others, shapes in (
        ("not in the file", missing, extra, wanted),
        ("only in the file", extra, missing, given),
    ):
        entries = {name: f"{_show(shapes[name])}{_nearest(name, others)}" for name in names}
        lines += _section(title, entries)
    wrong = {
        name: f"is {_show(given[name])}, should be {_show(wanted[name])}"
        for name in given.keys() & wanted.keys()
        if tuple(given[name]) != tuple(wanted[name])
    }
    lines += _section("of another shape", wrong)
    if lines:
        raise InputError(f"{where}\n" + "\n".join(lines))


def _section(title: str, entries: Mapping[str, str]) -> list[str]:
    if not entries:
        return []
    groups: dict[tuple[str, str], list[str]] = {}
    for name, text in entries.items():
        key = re.sub(r"[0-9]+", "*", name), re.sub(r"(?<=[._])[0-9]+", "*", text)
        groups.setdefault(key, []).append(name)
    lines = [f"  {title} ({len(entries)}):"]
    for (pattern, _), names in sorted(groups.items())[:LINES]:
        first = min(names, key=_natural)
        many = f" and {len(names) - 1} more like {pattern}" if len(names) > 1 else ""
        lines.append(f"    {first}: {entries[first]}{many}")
    if len(groups) > LINES:
        lines.append(f"    and {len(groups) - LINES} more kinds")
    return lines


def _natural(name: str) -> list[tuple[int, str]]:
    """Numbers by their value, not digit by digit."""
    return [(int(x) if x.isdigit() else -1, x) for x in re.split(r"([0-9]+)", name)]


def _nearest(name: str, others: Iterable[str]) -> str:
    digits = re.findall(r"[0-9]+", name)
    same = [other for other in others if re.findall(r"[0-9]+", other)[:1] == digits[:1]]
    close = difflib.get_close_matches(name, same or list(others), n=1, cutoff=0.6)
    return f" (there is {close[0]})" if close else ""


def _show(shape: Shape) -> str:
    return f"({', '.join(map(str, shape))})"


def _listed(names: Sequence[str], most: int = 4) -> str:
    shown = ", ".join(sorted(names, key=_natural)[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
