"""The exceptions a command turns into an exit code, and the faults of a configuration."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


class InputError(ValueError):
    """Wrong input from the user: one sentence, or one line for each fault. Exit code 2.

    Attributes:
        faults: what was found, for input that comes from a configuration; empty otherwise.
    """

    def __init__(self, message: str, faults: Iterable[Fault] = ()):
        super().__init__(message)
        self.faults = tuple(faults)


class RunError(RuntimeError):
    """The run itself failed (NaN loss, lost data, full disk): one sentence. Exit code 1."""


class PeerError(RuntimeError):
    """Another process of this run ended, or did not come: one sentence. Exit code PEER_ENDED."""


class _Absent:
    """Stands for a value which is not there at all, as None is a value."""

    def __repr__(self) -> str:
        return "(absent)"


ABSENT: Any = _Absent()


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong with a configuration.

    Attributes:
        key: the full name of the field, such as "optim.lr" (or an option, such as "--workdir").
        wanted: what would be right, as the rest of a sentence: "wants a number > 0".
        value: the offending value; ABSENT where there is none.
        depends: further keys that the finding rests on. It is dropped when one of them is at
            fault itself, as it was then judged by a stand-in value.
    """

    key: str
    wanted: str
    value: Any = ABSENT
    depends: tuple[str, ...] = ()

    def __str__(self) -> str:
        shown = "" if self.value is ABSENT else f" = {show(self.value)}"
        return f"{self.key}{shown}: {self.wanted}"


def show(value: Any, limit: int = 120) -> str:
    """A value as a person would write it in a config, cut to `limit` characters."""
    if value is None or isinstance(value, bool):
        return str(value).lower()
    text = f'"{value}"' if isinstance(value, str) and '"' not in value else repr(value)
    return text if len(text) <= limit else text[: limit - 4] + " ..."
