"""The schema as a list of fields: how their types read, which name is nearest to a wrong one."""

from __future__ import annotations

import ast
import difflib
import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic_core import PydanticUndefined

from big_vit_lite.config import durations
from big_vit_lite.config.errors import ABSENT
from big_vit_lite.config.model import Section
from big_vit_lite.config.optim import Rules
from big_vit_lite.config.schema import Metric, Renames, Run

_OTHER_NAMES = {
    "batch": "batch_size",
    "grad_clip_norm": "clip_norm",
    "learning_rate": "lr",
    "num_classes": "classes",
    "total_steps": "steps",
    "wd": "weight_decay",
}
"""What other projects call our fields, where spelling alone would not lead to them."""


@dataclass(frozen=True)
class Field:
    """One name of the schema.

    Attributes:
        key: full name, such as "optim.lr"; the entries of a dict stand under its NAME in capitals.
        type: the annotation, with what was annotated.
        meaning: the description.
        default: the default value, ABSENT if the field must be given.
    """

    key: str
    type: Any
    meaning: str
    default: Any

    @property
    def section(self) -> type[Section] | None:
        """The section this field holds, or of which it holds several by name."""
        return section_of(self.type)


def fields_of(section: type[Section], prefix: str = "") -> Iterator[Field]:
    """The fields of one section, in the order of the schema, without those of sections inside."""
    for name, info in section.model_fields.items():
        annotation = info.annotation
        if info.metadata:
            annotation = Annotated[(annotation, *info.metadata)]
        default = info.get_default(call_default_factory=True)
        default = ABSENT if default is PydanticUndefined else default
        yield Field(f"{prefix}{name}", annotation, info.description or "", default)


def all_fields(section: type[Section] = Run, prefix: str = "") -> Iterator[Field]:
    """Every field of the schema, depth first, sections before what they hold."""
    for field in fields_of(section, prefix):
        yield field
        if field.section is not None:
            inner = f"{field.key}.NAME." if holds_names(field.type) else f"{field.key}."
            yield from all_fields(field.section, inner)


def _options(annotation: Any) -> list[Any]:
    """The alternatives of a type, annotations of the whole handed down to each."""
    if get_origin(annotation) is Annotated:
        inner, *metadata = get_args(annotation)
        return [Annotated[(option, *metadata)] for option in _options(inner)]
    if get_origin(annotation) in (Union, types.UnionType):
        return [option for arg in get_args(annotation) for option in _options(arg)]
    return [annotation]


def _bare(annotation: Any) -> Any:
    return _bare(get_args(annotation)[0]) if get_origin(annotation) is Annotated else annotation


def holds_names(annotation: Any) -> bool:
    """Whether a field is a dict from names to sections."""
    return get_origin(_bare(annotation)) is dict


def section_of(annotation: Any) -> type[Section] | None:
    """The section class in a field's type: itself, optional, or the values of a dict."""
    for option in map(_bare, _options(annotation)):
        if get_origin(option) is dict:
            return section_of(get_args(option)[1])
        if isinstance(option, type) and issubclass(option, Section):
            return option
    return None


def find(path: tuple[str, ...]) -> tuple[Field | None, int]:
    """Follows names into the schema.

    Returns:
        The field reached, with how many names led there: len(path) if all are known. A name in a
        dict gives a field of the dict's value type. (None, n) if the n-th name is unknown.
    """
    section, field, key = Run, None, ""
    names = iter(enumerate(path))
    for i, name in names:
        known = {} if section is None else {f.key: f for f in fields_of(section, key)}
        if key + name not in known:
            return (None, i) if section is not None else (field, i)
        field = known[key + name]
        section, key = field.section, f"{field.key}."
        if holds_names(field.type):
            following = next(names, None)
            if following is None:
                return field, len(path)
            key = f"{field.key}.{following[1]}."
            field = Field(key[:-1], section, field.meaning, None)
    return field, len(path)


def describe(annotation: Any) -> str:
    """A type in words: "int >= 1 or (int >= 1, int >= 1) or none"."""
    words = []
    for option in _options(annotation):
        word = _describe_one(option)
        if word not in words:
            words.append(word)
    words.sort(key=lambda word: word == "none")
    return " or ".join(words)


def _describe_one(annotation: Any) -> str:
    metadata = get_args(annotation)[1:] if get_origin(annotation) is Annotated else ()
    validators = {getattr(m, "func", None) for m in metadata}
    if durations.parse_duration in validators:
        return "duration"
    if durations.parse_interval in validators:
        return "duration > 0"
    if validators & {get_args(Rules)[1].func}:
        return "list of (regular expression, number)"
    if validators & {get_args(Renames)[1].func}:
        return "list of (regular expression, text)"
    if validators & {get_args(Metric)[1].func}:
        return "metric"
    bare = _bare(annotation)
    origin, args = get_origin(bare), get_args(bare)
    if origin is Literal:
        return " | ".join(map(str, args))
    if origin is tuple:
        if args[-1] is Ellipsis:
            return f"list of {describe(args[0])}"
        return f"({', '.join(map(describe, args))})"
    if origin is dict:
        return "names with sections"
    if isinstance(bare, type) and issubclass(bare, Section):
        return "section"
    names = {int: "int", float: "number", str: "text", bool: "true | false", type(None): "none"}
    bounds = _bounds(metadata) if bare in (int, float) else ""
    return names[bare] + bounds


def _bounds(metadata: tuple[Any, ...]) -> str:
    low = high = None
    for m in metadata:
        for bound in getattr(m, "metadata", None) or (m,):
            if isinstance(bound, Ge | Gt):
                low = bound
            elif isinstance(bound, Le | Lt):
                high = bound
    if low is None:
        return ""
    bottom = low.ge if isinstance(low, Ge) else low.gt
    if high is None:
        return f" {'>=' if isinstance(low, Ge) else '>'} {bottom}"
    top = high.le if isinstance(high, Le) else high.lt
    brackets = "[" if isinstance(low, Ge) else "(", "]" if isinstance(high, Le) else ")"
    return f" in {brackets[0]}{bottom}, {top}{brackets[1]}"


def read_text(text: str, annotation: Any) -> Any:
    """The value that a text from the command line stands for in a field of this type.

    Text stays text where the field takes any; none and null are None where it takes that. All else
    is a Python literal in which true, false, none and null are known, too. What cannot be read so
    comes back as text, for the schema to refuse.
    """
    options = [_bare(option) for option in _options(annotation)]
    choices = {c for o in options if get_origin(o) is Literal for c in get_args(o)}
    if text in choices:
        return text
    if text.lower() in ("none", "null") and type(None) in options:
        return None
    if str in options or choices:
        return text
    try:
        return _literal(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text


_WORDS = {"true": True, "false": False, "none": None, "null": None}


def _literal(text: str) -> Any:
    tree = ast.parse(text.strip(), mode="eval").body
    for node in list(ast.walk(tree)):
        for name, child in ast.iter_fields(node):
            if isinstance(child, list):
                setattr(node, name, [_constant(item) for item in child])
            else:
                setattr(node, name, _constant(child))
    return ast.literal_eval(_constant(tree))


def _constant(node: Any) -> Any:
    if isinstance(node, ast.Name) and node.id.lower() in _WORDS:
        return ast.Constant(_WORDS[node.id.lower()])
    return node


def nearest(key: str) -> str | None:
    """The known key that was most likely meant, or None."""
    path = tuple(key.split("."))
    _, depth = find(path)
    if depth == len(path):
        return key
    parent, name = path[:depth], path[depth]
    field = find(parent)[0] if parent else None
    section = Run if field is None else field.section
    siblings = list(section.model_fields) if section else []
    name = _OTHER_NAMES.get(name, name)
    for close in difflib.get_close_matches(name, siblings, n=1, cutoff=0.6):
        better = (*parent, close, *path[depth + 1 :])
        return ".".join(better) if len(path) == depth + 1 else nearest(".".join(better))
    leaf = _OTHER_NAMES.get(path[-1], path[-1])
    keys = [f.key for f in all_fields()]
    same = [
        k for k in keys if k.rsplit(".", 1)[-1] == leaf and f"{k}.".startswith(".".join(parent))
    ]
    return next(iter(same or difflib.get_close_matches(key, keys, n=1, cutoff=0.75)), None)


def closest(text: str, known: Any) -> str:
    """'; did you mean X?' for the nearest of `known`, or nothing."""
    found = difflib.get_close_matches(text, list(known), n=1, cutoff=0.5)
    return f'; did you mean "{found[0]}"?' if found else ""
