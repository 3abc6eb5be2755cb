"""The command line that train, evaluate and the tools share."""

from __future__ import annotations

import difflib
import errno
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from big_vit_lite import storage
from big_vit_lite.config import fields, source
from big_vit_lite.config.errors import Fault, InputError, PeerError, RunError
from big_vit_lite.config.help import help_text, options_text
from big_vit_lite.config.load import Check, apply_overrides, refuse, validate
from big_vit_lite.config.schema import Run
from big_vit_lite.exit_codes import PEER_ENDED


@dataclass(frozen=True)
class Option:
    """An option of a command beside --config and its fields.

    Attributes:
        name: without the dashes, as in "checkpoint".
        metavar: what stands for the value in --help; empty for a switch, which is given or not.
        meaning: for --help.
        type: turns the text into the value; its ValueError's text says what is wanted.
        required: whether the command cannot do without.
    """

    name: str
    metavar: str
    meaning: str
    type: Callable[[str], Any] = str
    required: bool = False


@dataclass(frozen=True)
class CommandLine:
    """What a command was told.

    Attributes:
        run: the checked run.
        workdir: --workdir, or None.
        extras: the values of the command's own options that were given, switches as True.
        source: the text after --config.
        overrides: (key, text) of each --config.KEY, in order.
    """

    run: Run
    workdir: storage.Place | None
    extras: dict[str, Any]
    source: str
    overrides: tuple[tuple[str, str], ...]


_COMMON = (
    Option(
        "config", "FILE[:ARG]", "The run: a Python file with get_config(arg), and its argument."
    ),
    Option("config.FIELD", "VALUE", "Sets a field listed below, in place of what the file says."),
    Option(
        "workdir",
        "DIR",
        "Takes every output; goes on with the run it holds, if any. A folder here or "
        "gs://BUCKET/FOLDER; by default a dated one under runs/.",
        storage.place,
    ),
    Option("help", "", "Prints this text; with --config also what that config says and sets."),
)


@dataclass
class _Words:
    """The argv taken apart."""

    options: dict[str, Any] = field(default_factory=dict)
    given: list[str] = field(default_factory=list)
    overrides: list[tuple[str, str]] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)


def command_line(
    argv: Sequence[str],
    *,
    program: str,
    about: str,
    options: Sequence[Option] = (),
    checks: Iterable[Check] = (),
    begin: Callable[[dict[str, Any]], None] = lambda extras: None,
) -> CommandLine:
    """Reads a command line; --help prints and leaves with exit code 0.

    Args:
        argv: the words after the program's name.
        program: how the command is called, for --help.
        about: what it does, for --help.
        options: what the command takes beside --config, --config.FIELD, --workdir and --help.
        checks: see `load`.
        begin: gets the command's own options, if they are without fault, before the checks run:
            for what those count on.

    Raises:
        InputError: every fault of options, config and overrides, one line each.
        SystemExit: after --help.
    """
    known = (*_COMMON, *options)
    words = _take_apart(list(argv), known)
    if words.options.get("help"):
        sys.stdout.write(_help(program, about, known, words))
        raise SystemExit(0)
    faults = words.faults
    faults += _missing(options, words)
    file = words.options.get("config")
    if file is None:
        if not any(fault.key == "--config" for fault in faults):
            faults.insert(0, _no_config())
        raise refuse(faults)
    try:
        values, _ = source.read_source(file)
    except InputError as error:
        raise InputError("\n".join([*map(str, faults), str(error)]), faults) from None
    faults = [*faults, *apply_overrides(values, words.overrides)]
    extras = {o.name: words.options[o.name] for o in options if o.name in words.options}
    if not words.faults:
        begin(extras)
    run, faults = validate(values, checks, faults)
    if faults:
        raise refuse(faults)
    workdir = words.options.get("workdir")
    return CommandLine(run, workdir, extras, file, tuple(words.overrides))


def options_line(
    argv: Sequence[str], *, program: str, about: str, options: Sequence[Option]
) -> tuple[dict[str, Any], list[Fault]]:
    """Reads the command line of a tool without a config; --help prints and leaves with code 0.

    Returns:
        The values of the options that were given, switches as True, and what is wrong with them.

    Raises:
        SystemExit: after --help.
    """
    _, values, faults = words_line(argv, program=program, about=about, options=options)
    return values, faults


def words_line(
    argv: Sequence[str], *, program: str, about: str, options: Sequence[Option], words: str = ""
) -> tuple[list[str], dict[str, Any], list[Fault]]:
    """As `options_line`, of a command that takes words beside its options.

    Args:
        words: what they stand for in --help, such as "MODEL INPUT..."; empty: there may be none.

    Returns:
        The words in their order, and what `options_line` returns.
    """
    known = (*options, Option("help", "", "Prints this text."))
    read = _take_apart(list(argv), known, bool(words))
    if read.options.get("help"):
        sys.stdout.write(options_text(program, about, known, words))
        raise SystemExit(0)
    read.faults += _missing(options, read)
    return read.given, read.options, read.faults


def exit_code(main: Callable[..., int | None], *args: Any) -> int:
    """Runs a command; wrong input is printed and gives 2, a failed run, or a file that the machine
    does not let us read or write, is printed and gives 1, another process that ended gives 4.

    Everything else that is raised is a defect of ours and keeps its traceback.
    """
    try:
        return main(*args) or 0
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    except RunError as error:
        print(error, file=sys.stderr)
        return 1
    except PeerError as error:
        print(error, file=sys.stderr)
        return PEER_ENDED
    except OSError as error:
        if error.errno not in _MACHINE or error.filename is None:
            raise
        print(
            f"{error.filename}: {os.strerror(error.errno)}; see to that and start again",
            file=sys.stderr,
        )
        return 1


_MACHINE = (
    errno.EACCES, errno.EDQUOT, errno.EIO, errno.ENOSPC, errno.EPERM, errno.EROFS, errno.ESTALE,
)  # fmt: skip
"""Faults of disks and rights, none of which is ours."""


def _missing(options: Sequence[Option], words: _Words) -> list[Fault]:
    """Options that a command cannot do without and that were not given, not even wrongly."""
    told = {fault.key for fault in words.faults}
    return [
        Fault(f"--{option.name}", f"is missing: {option.meaning}")
        for option in options
        if option.required and option.name not in words.options and f"--{option.name}" not in told
    ]


def _no_config() -> Fault:
    files = source.shipped() or ["configs/quickstart.py"]
    return Fault("--config", f"is missing; give a config file, one of {', '.join(files)}")


def _take_apart(argv: list[str], known: Sequence[Option], with_words: bool = False) -> _Words:
    words, options = _Words(), {option.name: option for option in known}
    while argv:
        word = argv.pop(0)
        name, given, value = word.removeprefix("--").partition("=")
        if word == "-h":
            name = "help"
        elif with_words and not word.startswith("-"):
            words.given.append(word)
            continue
        elif not word.startswith("--") or word == "--":
            wanted = "no option, they begin with --; values with spaces want quotes in the shell"
            words.faults.append(Fault(word, wanted))
            continue
        if name.startswith("config.") and "config" in options:
            key = name.removeprefix("config.")
            value = value if given else _following(argv, _bare_value(key))
            if value is None:
                words.faults.append(Fault(f"--{name}", "wants a value, as in --config.FIELD=VALUE"))
            else:
                words.overrides.append((key, value))
        elif name not in options or name == "config.FIELD":
            words.faults.append(_unknown_option(name, options))
            if not given:
                _following(argv, None)
        else:
            _take_option(words, options[name], value if given else None, argv)
    return words


def _take_option(words: _Words, option: Option, value: str | None, argv: list[str]) -> None:
    name = f"--{option.name}"
    if not option.metavar:
        if value is None:
            words.options[option.name] = True
        else:
            words.faults.append(Fault(name, "is a switch and takes no value", value))
        return
    value = _following(argv, None) if value is None else value
    if not value:
        words.faults.append(Fault(name, f"wants a value: {name} {option.metavar}"))
        return
    try:
        words.options[option.name] = option.type(value)
    except ValueError as error:
        words.faults.append(Fault(name, str(error) or f"wants {option.metavar}", value))


def _following(argv: list[str], otherwise: str | None) -> str | None:
    """Takes the next word as a value, unless it is an option itself."""
    return argv.pop(0) if argv and not argv[0].startswith("--") else otherwise


def _bare_value(key: str) -> str | None:
    """What --config.KEY means without a value: true for switches, nothing for others."""
    found, depth = fields.find(tuple(key.split(".")))
    whole = found is not None and depth == len(key.split("."))
    return "true" if whole and "true | false" in fields.describe(found.type) else None


def _unknown_option(name: str, options: dict[str, Option]) -> Fault:
    near = difflib.get_close_matches(name, list(options), n=1, cutoff=0.6)
    if not near and "config" in options and (key := fields.nearest(name)):
        near = [f"config.{key}"]
    hint = f"did you mean --{near[0]}?" if near else "--help lists all"
    return Fault(f"--{name}", f"there is no such option; {hint}")


def _help(program: str, about: str, known: Sequence[Option], words: _Words) -> str:
    file = words.options.get("config")
    if file is None:
        return help_text(program, about, known, source.shipped())
    try:
        values, doc = source.read_source(file)
    except InputError as error:
        return help_text(program, about, known, source.shipped()) + f"\n{error}\n"
    faults = apply_overrides(values, words.overrides)
    text = help_text(program, about, known, source.shipped(), file, doc, values)
    return text + "".join(f"\n{fault}" for fault in faults) + ("\n" if faults else "")
