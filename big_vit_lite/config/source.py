"""Config files: running one, with the argument after its name, and what can go wrong."""

from __future__ import annotations

import importlib.util
import inspect
import re
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from big_vit_lite.config.errors import InputError
from big_vit_lite.config.fields import closest

_BOOLS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


def parse_arg(arg: str | None, **defaults: Any) -> SimpleNamespace:
    """Reads the text after the config file's name, such as "variant=B/32,tiny".

    Args:
        arg: names with values, separated by commas; a name alone means true.
        **defaults: every known name with its default, whose type the given value gets; text for
            a default of None.

    Raises:
        InputError: one line for each name that is unknown or whose value does not fit.
    """
    values, faults = dict(defaults), []
    for item in filter(None, (part.strip() for part in (arg or "").split(","))):
        name, given, text = item.partition("=")
        if name not in defaults:
            known = ", ".join(defaults) or "none"
            hint = closest(name, defaults)
            faults.append(f'config argument "{name}": unknown{hint or f" (known: {known})"}')
            continue
        try:
            values[name] = _typed(text if given else None, defaults[name])
        except ValueError as error:
            faults.append(f'config argument "{item}": {name} {error}')
    if faults:
        raise InputError("\n".join(faults))
    return SimpleNamespace(**values)


def _typed(text: str | None, default: Any) -> Any:
    if isinstance(default, bool):
        if text is None:
            return True
        if text.lower() not in _BOOLS:
            raise ValueError("wants true or false")
        return _BOOLS[text.lower()]
    if text is None:
        raise ValueError("wants a value, as in name=value")
    if isinstance(default, int | float):
        try:
            return type(default)(text)
        except ValueError:
            kind = "a whole number" if isinstance(default, int) else "a number"
            raise ValueError(f"wants {kind}") from None
    return text


def split_source(source: str) -> tuple[Path, str | None]:
    """FILE[:ARG] in its two parts."""
    match = re.fullmatch(r"(.*?\.py)(?::(.*))?", source, re.DOTALL)
    file, arg = match.groups() if match else (source.partition(":")[0], None)
    return Path(file), arg


def shipped() -> list[str]:
    """The config files at hand, as a person here would name them."""
    for folder in (Path("configs"), Path(__file__).parents[2] / "configs"):
        if found := sorted(folder.glob("[!_]*.py")):
            return [str(file) for file in found]
    return []


def read_source(source: str) -> tuple[dict[str, Any], str]:
    """Runs a config file.

    Args:
        source: FILE[:ARG].

    Returns:
        What its get_config gave, as nested plain dicts, and the file's docstring.

    Raises:
        InputError: no such file, an error inside it, no get_config, or no ConfigDict from it.
    """
    file, arg = split_source(source)
    if not file.is_file():
        hint = closest(str(file), shipped())
        hint = hint or "; give a Python file such as configs/quickstart.py"
        wrong = "is a folder" if file.is_dir() else "does not exist"
        raise InputError(f'config file "{file}" {wrong}{hint}')
    if file.suffix != ".py":
        raise InputError(
            f'config file "{file}" is no Python file; give one such as configs/quickstart.py'
        )
    module = _run(file, lambda: _import(file))
    get_config = getattr(module, "get_config", None)
    if not callable(get_config):
        raise InputError(f"{file}: wants a function get_config(arg) that returns a ConfigDict")
    takes_arg = bool(inspect.signature(get_config).parameters)
    if arg and not takes_arg:
        raise InputError(f'{file}: its get_config() takes no argument, but ":{arg}" was given')
    config = _run(file, lambda: get_config(arg) if takes_arg else get_config())
    if not isinstance(config, Mapping) and not hasattr(config, "items"):
        kind = type(config).__name__
        raise InputError(f"{file}: get_config must return a ConfigDict, but returned {kind}")
    return plain(config), inspect.cleandoc(module.__doc__ or "")


def plain(value: Any) -> Any:
    """Nested plain dicts of a ConfigDict, each its own copy even where the file shares one."""
    if isinstance(value, Mapping) or hasattr(value, "to_dict"):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(plain(item) for item in value)
    return value


def beside(file: str, name: str) -> ModuleType:
    """Another config file of the same folder as a module, for recipes that differ in little:
    beside(__file__, "clip_b32.py").get_config("variant=B/16")."""
    return _import(Path(file).parent / name)


def _import(file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"_config_{file.stem}", file)
    module = importlib.util.module_from_spec(spec)
    written, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        spec.loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = written
    return module


def _run(file: Path, action: Any) -> Any:
    """Calls `action`; an exception of the config's code becomes one sentence with its line."""
    try:
        return action()
    except InputError as error:
        lines = str(error).splitlines()
        raise InputError("\n".join(f"{file}: {line}" for line in lines)) from None
    except SyntaxError as error:
        raise InputError(f"{error.filename}:{error.lineno}: {error.msg}") from None
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        own = [frame.lineno for frame in frames if frame.filename == str(file)]
        text = " ".join(str(error).split())
        where = f"{file}:{own[-1]}" if own else str(file)
        raise InputError(f"{where}: {type(error).__name__}: {text}") from None
