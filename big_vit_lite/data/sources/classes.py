"""Class names, and from what files say about a class to its number."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from big_vit_lite.config import InputError
from big_vit_lite.data import files

MOST_CLASSES = 1_000_000  # a number above is no class: names are made for every number up to it
_WHOLE = re.compile(r"[+-]?\d{1,18}")


@dataclass(frozen=True)
class Classes:
    """The classes of a split in the order of their numbers.

    Attributes:
      names: one for each number.
      by_name: number of each name where files hold names; None where they hold numbers.
    """

    names: tuple[str, ...]
    by_name: dict[str, int] | None = None

    def number(self, value: str | int | None) -> int | None:
        """Number 0..len(names)-1 of what a file says; None where that is no class."""
        if self.by_name is not None:
            return self.by_name.get(str(value).strip()) if value is not None else None
        number = whole(value)
        return number if number is not None and 0 <= number < len(self.names) else None

    def wrong(self, value: object) -> str:
        """The sentence about a label that is no class, after the name of the file or row."""
        shown = value if value is None or isinstance(value, int) else str(value)[:80]
        return (
            f"label {shown!r} is not one of the {len(self.names)} classes; "
            "correct it or leave the row out with a part"
        )


def whole(value: str | int | None) -> int | None:
    """A label as a whole number, if it is one."""
    if isinstance(value, str):
        return int(value) if _WHOLE.fullmatch(value.strip()) else None
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def from_counts(counts: Mapping[str | int | None, int], given: tuple[str, ...] | None) -> Classes:
    """The classes of a split whose labels occur so often.

    Labels are numbers where most of them are, otherwise names. Names are numbered in sorted order,
    numbers are named by themselves, unless `given` names them all in order.
    """
    numbers = sum(n for value, n in counts.items() if whole(value) is not None)
    known = sum(n for value, n in counts.items() if value is not None and str(value).strip())
    if 2 * numbers > known:
        if given is not None:
            return Classes(given)
        found = (whole(value) for value in counts)
        largest = max((v for v in found if v is not None and 0 <= v < MOST_CLASSES), default=-1)
        return Classes(tuple(str(i) for i in range(largest + 1)))
    names = given
    if names is None:
        texts = (str(value).strip() for value in counts if value is not None)
        names = tuple(sorted({text for text in texts if text}))
    return Classes(names, {name: i for i, name in enumerate(names)})


def read_names(path: str, key: str) -> tuple[str, ...]:
    """Class names from a text file, one a line; a line may hold spaces.

    Args:
      key: the field of the config that names the file.

    Raises:
      InputError: the file cannot be read, is empty, or names a class twice.
    """
    path = files.normal(path)
    files.require(path, key)
    try:
        names = files.read(path).decode("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{key}: {path} cannot be read ({files.why(error)}); "
            "give a text file with one class name a line"
        ) from error
    while names and not names[-1].strip():
        names.pop()
    names = [name.strip() for name in names]
    if not names:
        raise InputError(f"{key}: {path} is empty; it needs one class name a line")
    first: dict[str, int] = {}
    for line, name in enumerate(names, 1):
        if not name:
            raise InputError(f"{key}: {path}, line {line} is empty; it needs the name of a class")
        if name in first:
            raise InputError(
                f"{key}: {path} names {name!r} twice, in lines {first[name]} and {line}"
            )
        first[name] = line
    return tuple(names)
