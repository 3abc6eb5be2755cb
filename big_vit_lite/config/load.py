"""From a config file and overrides to a checked Run: every fault is found in one go."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pydantic import ValidationError

from big_vit_lite.config import durations, fields, rules
from big_vit_lite.config.errors import ABSENT, Fault, InputError
from big_vit_lite.config.schema import Run
from big_vit_lite.config.source import plain, read_source

Check = Callable[[Run], Iterable[Fault]]
Overrides = Mapping[str, Any] | Iterable[tuple[str, Any]]

_LENGTHS = ("steps", "epochs", "examples")
_STAND_INS = {"batch_size": 1, "match": "", "source": "synthetic", "transform": ""}
"""For required fields that are wrong or missing, so that everything else can still be checked."""


def load(
    source: str | Mapping[str, Any], overrides: Overrides = (), checks: Iterable[Check] = ()
) -> Run:
    """A run, checked as a whole.

    Args:
        source: FILE[:ARG] of a config file, or the ConfigDict itself.
        overrides: full key -> value. Text is read as on the command line, by the field's type.
        checks: further findings about a run that is valid by the schema. Where it is not, they get
            one with stand-ins for what is wrong, and what they say about those is dropped.

    Raises:
        InputError: one line for each fault, and all of them.
    """
    values = read_source(source)[0] if isinstance(source, str) else plain(source)
    faults = apply_overrides(values, overrides)
    run, more = validate(values, checks, faults)
    if more:
        raise refuse(more)
    return run


def refuse(faults: Iterable[Fault]) -> InputError:
    """The error that lists faults, one line each."""
    faults = tuple(faults)
    return InputError("\n".join(map(str, faults)), faults)


def run_from_json(text: str | bytes, where: str) -> Run:
    """See Run.from_json."""
    try:
        values = json.loads(text)
    except ValueError as error:
        raise InputError(f"{where} is no readable JSON: {error}") from None
    if not isinstance(values, dict):
        raise InputError(f"{where} holds {type(values).__name__}, not a run")
    try:
        return Run.model_validate(values)
    except ValidationError as error:
        faults = _schema_faults(error, values)
        raise InputError("\n".join(f"{where}: {fault}" for fault in faults), faults) from None


def apply_overrides(values: dict[str, Any], overrides: Overrides) -> list[Fault]:
    """Sets overrides in the nested dicts of a config; returns a fault for each that has no field.

    One of steps, epochs and examples takes the place of whichever of them the file had.
    """
    pairs = list(overrides.items() if isinstance(overrides, Mapping) else overrides)
    faults = []
    for key, value in pairs:
        path = tuple(key.split("."))
        field, depth = fields.find(path)
        if field is None or depth < len(path) or not all(path):
            faults.append(_unknown(key, value))
            continue
        if isinstance(value, str):
            value = fields.read_text(value, field.type)
        _put(values, path, value)
    given = {key: value for key, value in pairs if key in _LENGTHS}
    if any(values.get(name) is not None for name in given):
        for name in set(_LENGTHS) - set(given):
            values.pop(name, None)
    return faults


def _put(values: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    for name in path[:-1]:
        if not isinstance(values.get(name), dict):
            if values.get(name) is not None:
                return  # The file has nonsense here, which the schema will report.
            values[name] = {}
        values = values[name]
    parent = fields.find(path[:-1])[0] if len(path) > 1 else None
    if value is None and parent is not None and fields.holds_names(parent.type):
        values.pop(path[-1], None)  # So --config.evals.val=none leaves an evaluation out.
    else:
        values[path[-1]] = value


def validate(
    values: dict[str, Any], checks: Iterable[Check] = (), found: Iterable[Fault] = ()
) -> tuple[Run, list[Fault]]:
    """The run that `values` describe, as far as they do, and all that is wrong with them."""
    faults = list(found)
    try:
        run = Run.model_validate(values)
    except ValidationError as error:
        faults += _schema_faults(error, values)
        run = _partial(values)
    spoilt = {key for fault in faults for key in (fault.key, *fault.depends)}
    for check in (rules.check, *checks):
        for fault in check(run):
            if not any(_overlap(k, s) for k in (fault.key, *fault.depends) for s in spoilt):
                faults.append(fault)
    return run, faults


def _overlap(a: str, b: str) -> bool:
    return a == b or a.startswith(f"{b}.") or b.startswith(f"{a}.")


def _unknown(key: str, value: Any) -> Fault:
    near = fields.nearest(key)
    hint = f"; did you mean {near}?" if near else "; --help lists all fields"
    return Fault(key, f"there is no such field{hint}", value, depends=(near,) if near else ())


def _at(values: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        if not isinstance(values, dict) or name not in values:
            return ABSENT
        values = values[name]
    return values


def _schema_faults(error: ValidationError, values: dict[str, Any]) -> list[Fault]:
    """One fault for each field that pydantic refuses (it has several for alternatives)."""
    faults: dict[str, Fault] = {}
    for item in error.errors():
        path = tuple(map(str, item["loc"]))
        if item["type"] == "extra_forbidden":
            key = ".".join(path)
            faults.setdefault(key, _unknown(key, item["input"]))
            continue
        field, depth = fields.find(path)
        key, value = ".".join(path[:depth]), _at(values, path[:depth])
        words = fields.describe(field.type)
        wanted = f"wants {_in_a_sentence(words)}"
        if item["type"] == "missing":
            wanted, value = f"is missing, {wanted}", ABSENT
        elif item["type"] == "value_error":
            wanted = str(item["ctx"]["error"])
        elif isinstance(value, str):
            wanted += fields.closest(value, re.findall(r"[\w.]+(?= \|)|(?<=\| )[\w.]+", words))
        faults.setdefault(key, Fault(key, wanted, value))
    return list(faults.values())


def _in_a_sentence(words: str) -> str:
    if words == "section":
        return "a section, which is a dict of its fields"
    if words == "names with sections":
        return "a dict from names to sections"
    if words.startswith("duration"):
        return durations.WANTED
    if " | " in words:
        return f"one of {words.replace(' | ', ', ')}"
    articles = {"int": "an ", "text": ""}
    first = words.split()[0]
    return words if first.startswith("(") else articles.get(first, "a ") + words


def _partial(values: dict[str, Any]) -> Run:
    """A valid run out of what is right in `values`: defaults and stand-ins for the rest."""
    values = copy.deepcopy(values)
    while True:
        try:
            return Run.model_validate(values)
        except ValidationError as error:
            for item in error.errors():
                path = tuple(map(str, item["loc"]))
                known = item["type"] == "extra_forbidden"
                _replace(values, path if known else path[: fields.find(path)[1]])


def _replace(values: dict[str, Any], path: tuple[str, ...]) -> None:
    for name in path[:-1]:
        values = values.get(name) if isinstance(values, dict) else None
    if not isinstance(values, dict):
        return
    field, _ = fields.find(path)
    name = path[-1]
    if field is None or field.default is not ABSENT:
        values.pop(name, None)
    else:
        values[name] = _STAND_INS.get(name, {})
