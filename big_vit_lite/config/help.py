"""The text of --help: how to call a command, and every field of a run with its meaning."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from big_vit_lite.config.errors import ABSENT, show
from big_vit_lite.config.fields import Field, describe, fields_of, holds_names
from big_vit_lite.config.schema import Run, Split

if TYPE_CHECKING:
    from big_vit_lite.config.command_line import Option

WIDTH = 100

_NOTES = """
Durations are a number of steps, or text: "300 steps", "10 epochs", "5000 examples", or "5%" of the
run; an epoch is one pass over data.train, and what is no whole number of steps is rounded up.
Values are read by the field's type: none (or null), true, false, numbers, and (1, 2) for lists;
text needs no quotes but the shell's, as in --config.data.train.transform='decode|flip'.
"""


def help_text(
    program: str,
    about: str,
    options: Sequence[Option],
    shipped: Sequence[str],
    source: str | None = None,
    doc: str = "",
    values: Mapping[str, Any] | None = None,
) -> str:
    """All of --help, at most 100 columns wide.

    Args:
        program: how the command is called, such as "python -m big_vit_lite.train".
        about: what it does.
        options: what it takes beside --config.
        shipped: config files to try.
        source: the config given, with its docstring and what it sets, if any.
    """
    lines = [f"usage: {program} --config FILE[:ARG] [--config.FIELD=VALUE ...] [options]", ""]
    lines += [*about.strip().splitlines(), "", *_options(options)]
    lines += ["", "configs at hand", *(f"  {file}" for file in shipped or ("(none found)",)), ""]
    if source is not None:
        lines += [f"config {source}", *textwrap.indent(doc, "  ").splitlines()]
        lines += ["", "  It sets", *_sets(values or {}), ""]
    lines += ["fields, to be set in a config or by --config.FIELD=VALUE", *_NOTES.splitlines()]
    lines += _section(Run, "", "the run")
    return "\n".join(line.rstrip() for line in lines) + "\n"


def options_text(program: str, about: str, options: Sequence[Option], words: str = "") -> str:
    """All of --help of a tool without a config; `words` is what it takes beside options."""
    usage = " ".join(part for part in ("usage:", program, words, "[options]") if part)
    lines = [usage, "", *about.strip().splitlines(), ""]
    return "\n".join(line.rstrip() for line in [*lines, *_options(options)]) + "\n"


def _options(options: Sequence[Option]) -> Iterator[str]:
    yield "options"
    for option in options:
        yield f"  --{option.name} {option.metavar}".rstrip()
        yield from _wrap(option.meaning, "      ")


def _section(section: type, prefix: str, title: str) -> Iterator[str]:
    yield ""
    yield from _wrap(title, "", "    ")
    inner: list[Field] = []
    for field in fields_of(section, prefix):
        if field.section is Split and section is not Run and prefix:
            yield from _leaf(field)
        elif field.section is not None:
            inner.append(field)
        else:
            yield from _leaf(field)
    for field in inner:
        name = f"{field.key}.NAME" if holds_names(field.type) else field.key
        yield from _section(field.section, f"{name}.", f"{name}: {field.meaning}")
    if prefix == "data.":
        yield from _section(
            Split, "data.train.", "data.train (and data.mix.NAME, data.val, evals.NAME.data alike)"
        )


def _leaf(field: Field) -> Iterator[str]:
    kind = describe(field.type)
    default = "must be set" if field.default is ABSENT else f"default {show(field.default, 300)}"
    head = f"  {field.key:<28} {kind}"
    if len(head) + len(default) + 4 > WIDTH:
        yield from _wrap(f"{kind};", f"  {field.key:<28} ", " " * 31)
        yield f"{'':<31}{default}"
    else:
        yield f"{head}; {default}"
    yield from _wrap(field.meaning, "      ")


def _sets(values: Mapping[str, Any]) -> Iterator[str]:
    for key, value in flat(values):
        yield from _wrap(f"{key} = {show(value, 300)}", "    ", "        ")


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(full key, value) of nested dicts, in their order; an empty dict is a value."""
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _wrap(text: str, first: str, rest: str | None = None) -> list[str]:
    return textwrap.wrap(
        " ".join(text.split()),
        WIDTH,
        initial_indent=first,
        subsequent_indent=first if rest is None else rest,
        break_on_hyphens=False,
        break_long_words=False,
    )
