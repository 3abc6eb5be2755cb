"""Where answers go: a table on the terminal, a JSON object a line, an HTML page."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

from big_vit_lite import storage
from big_vit_lite.config import InputError, RunError
from big_vit_lite.data import files
from big_vit_lite.predict import page

MOST_ON_PAGE = 5_000
"""Thumbnails of a page: at 5 kB each, what a browser still shows."""
PIPE_WIDTH = 120  # columns of the table where there is no terminal


class Found(NamedTuple):
    """One line of an answer.

    Attributes:
        name: of a class, or the path of an image.
        numbers: what is said of it, by column.
        thumbnail: of an image, empty where its file is gone; None for what is no image.
    """

    name: str
    numbers: dict[str, float]
    thumbnail: bytes | None = None


class Answer(NamedTuple):
    """What is said of one image or query.

    Attributes:
        name: the image's path, or the text.
        found: the best first.
        record: what JSON gets.
        thumbnail: of the image; empty where there is none.
    """

    name: str
    found: list[Found]
    record: dict[str, Any]
    thumbnail: bytes = b""


class Outputs:
    """Takes answers, one after the other; `opened` makes it."""

    def __init__(self, sinks: list[Callable[[Answer], None]]):
        self._sinks = sinks

    def add(self, answer: Answer) -> None:
        for sink in self._sinks:
            sink(answer)


def check(given: dict[str, Any], images: int) -> None:
    """Before anything is computed: whether the outputs that are asked for can be made.

    Args:
        images: thumbnails that a page would have.

    Raises:
        InputError: a file is there already, its folder is not, or the page would be too large.
    """
    for name in ("json", "html"):
        if name in given and given[name] != "-":
            _require_free(given[name], f"--{name}")
    if given.get("html") == "-":
        raise InputError("--html wants a file; - is for --json")
    if "html" in given and given.get("json") == given["html"]:
        raise InputError(f"--json and --html both name {given['html']}: give two files")
    if "html" in given and images > MOST_ON_PAGE:
        raise InputError(
            f"--html: a page with {images:,} thumbnails is more than a browser shows, at most "
            f"{MOST_ON_PAGE:,}: give --json, or fewer images"
        )


def _require_free(name: str, option: str) -> None:
    """Raises InputError for a place that cannot be written to, or holds something already."""
    try:
        place = storage.place(name)
        stored = storage.is_store(place)
        taken = place.is_file() if stored else place.exists()
    except OSError as error:
        raise InputError(f"{option}: {name} cannot be reached ({files.why(error)})") from None
    except ValueError as error:
        raise InputError(f"{option} = {name}: {error}") from None
    if not stored and not place.parent.is_dir():
        raise InputError(f"{option}: the folder {place.parent} is not there")
    if taken:
        raise InputError(f"{option}: {name} is there already: remove it, or name another file")


@contextmanager
def opened(
    given: dict[str, Any], title: str, columns: tuple[str, ...], widest: tuple[int, int]
) -> Iterator[Outputs]:
    """The outputs that options ask for: the table, unless JSON takes its place.

    Files appear under their names when everything is in them, and not at all where the command
    fails.

    Args:
        title: of the page.
        columns: heads of the table: what was asked, what was found, the numbers' names.
        widest: letters of the longest names in the first two columns.

    Raises:
        RunError: a file cannot be written.
    """
    with ExitStack() as stack:
        sinks: list[Callable[[Answer], None]] = []
        if given.get("json") == "-":
            sinks.append(lambda answer: print(json.dumps(answer.record), flush=True))
        else:
            sinks.append(Table(columns, widest).add)
        if given.get("json", "-") != "-":
            lines = stack.enter_context(_File(storage.place(given["json"])))
            sinks.append(lambda answer: lines.write(json.dumps(answer.record) + "\n"))
        if "html" in given:
            shown = stack.enter_context(_File(storage.place(given["html"]), page.FOOT))
            shown.write(page.head(title))
            sinks.append(lambda answer: shown.write(page.row(answer, columns[2:])))
        yield Outputs(sinks)


class _File:
    """A text file that appears under its name when it is whole, and not if an error comes first.

    Args:
        place: where; an object of a store is held in memory until then.
        end: what is written last.

    Raises:
        RunError: by every method, where it cannot be written.
    """

    def __init__(self, place: storage.Place, end: str = ""):
        self._place, self._end = place, end
        self._stored = storage.is_store(place)
        self._part = io.StringIO() if self._stored else None

    def __enter__(self) -> _File:
        if not self._stored:
            with self._told():
                self._part = open(f"{self._place}.part", "w", encoding="utf-8")
        return self

    def write(self, text: str) -> None:
        with self._told():
            self._part.write(text)

    def __exit__(self, kind: Any, *_: object) -> None:
        if kind is not None:
            self._part.close()
            if not self._stored:
                Path(self._part.name).unlink(missing_ok=True)
            return
        with self._told():
            self._part.write(self._end)
            if self._stored:
                self._place.write_text(self._part.getvalue())
                return
            self._part.flush()
            os.fsync(self._part.fileno())
            self._part.close()
            os.replace(self._part.name, self._place)

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise RunError(f"{self._place} cannot be written ({files.why(error)})") from error


class Table:
    """Answers on the standard output as they come: the image once, beside it a line for each class.

    Args:
        columns, widest: see `opened`; longer names are folded where they do not fit.
        stream: None: the standard output.
    """

    def __init__(
        self, columns: tuple[str, ...], widest: tuple[int, int], stream: IO[str] | None = None
    ):
        from rich.console import Console

        stream = sys.stdout if stream is None else stream
        width = None if stream.isatty() else PIPE_WIDTH
        self._console = Console(file=stream, width=width, highlight=False)
        self._columns, self._begun = columns, False
        room = max(self._console.width - 14 * len(columns[2:]) - 4, 20)
        asked, found = (max(n, len(name)) for n, name in zip(widest, columns, strict=False))
        asked = min(asked, max(room * 3 // 5, room - found))
        self._widths = asked, min(found, room - asked)

    def add(self, answer: Answer) -> None:
        from rich.table import Table as Rich
        from rich.text import Text

        table = Rich(box=None, show_header=not self._begun, pad_edge=False, padding=(0, 2, 0, 0))
        numbers = self._columns[2:]
        for name, width in zip(self._columns, self._widths, strict=False):
            table.add_column(name, width=width, overflow="fold")
        for name in numbers:
            table.add_column(name, width=12, justify="right")
        for place, found in enumerate(answer.found):
            first = Text("" if place else answer.name)
            shown = [Text(number(name, found.numbers[name])) for name in numbers]
            table.add_row(first, Text(found.name), *shown)
        self._console.print(table)
        self._begun = True


def number(name: str, value: float) -> str:
    """A probability in percent, other numbers with four digits."""
    return f"{value:.2%}" if name == "probability" else f"{value:.4f}"
