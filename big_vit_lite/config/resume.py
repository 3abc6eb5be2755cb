"""Which fields of a run may change when it goes on from a checkpoint, and why those."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from big_vit_lite.config.errors import ABSENT, Fault, InputError, show
from big_vit_lite.config.schema import Run

RESUMABLE: dict[str, str] = {
    "name": "A label.",
    "steps|epochs|examples": "Meant to change the run: train longer or stop earlier. The one "
    "group here that bends the trajectory: schedules cosine and linear, a cooldown, and durations "
    "in percent follow the new length from the resumed step on, so that the result is that of "
    "neither length trained in one go. Under constant and rsqrt without cooldown it is.",
    r"evals(\..*)?": "Evaluations read parameters and change nothing.",
    r"data\.val(\..*)?": "Read by evaluations only.",
    r"checkpoint\..*": "When and what is saved changes nothing in what is computed.",
    r"report\..*": "When and what is logged changes nothing in what is computed.",
    r"data\.(train|mix\.[^.]+)\.path": "Data may move; its class names are compared with the "
    "checkpoint's.",
    r"data\.(threads|workers|prefetch_mib|skip_limit)": "Batches are a function of seed and "
    "step alone.",
    r"optim\.skip_nonfinite": "Decides on steps that would have ended the run, and on no other.",
    r"optim\.offload": "Where the state lies changes nothing in what is computed.",
    r"task\.(form|chunk)": "The same loss walked in other pieces; equal up to rounding.",
    r"mesh\..*": "The same mathematics on any mesh; sums are taken in another order, so that "
    "losses agree to 1e-5 in float32 instead of to the bit.",
    r"(model|text)\.(remat|scan)": "The same mathematics computed in other pieces; equal up to "
    "rounding. Checkpoints hold one form for both.",
    "deterministic": "Chooses among GPU kernels that differ in rounding.",
}
"""Regular expressions of whole keys -> why the field may change when a run is resumed."""


_TOKENIZER = re.compile(r"tokenize\(\s*(\"[^\"]*\"|'[^']*')")


def _same_texts(old: str, new: str) -> bool:
    """Whether two text transforms differ in nothing but where their vocabulary lies: what it holds
    is for its fingerprint to tell."""
    blank = (_TOKENIZER.sub("tokenize(FILE", text) for text in (old, new))
    return len(set(blank)) == 1


def differences(old: Run, new: Run) -> list[tuple[str, Any, Any]]:
    """(key, old value, new value) for each field that differs, in the order of the schema.

    Where a whole section is there in one run only, the section is what differs. A vocabulary may
    lie elsewhere.
    """
    found = _compare(old.to_dict(), new.to_dict(), "")
    return [(key, a, b) for key, a, b in found if not (_is_text(key, a, b) and _same_texts(a, b))]


def _is_text(key: str, old: Any, new: Any) -> bool:
    return key.endswith(".text") and isinstance(old, str) and isinstance(new, str)


def _compare(old: Any, new: Any, key: str) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(old, dict) and isinstance(new, dict):
        for name in dict.fromkeys([*new, *old]):
            inner = f"{key}.{name}" if key else name
            yield from _compare(old.get(name, ABSENT), new.get(name, ABSENT), inner)
    elif old is ABSENT or new is ABSENT or old != new:
        yield key, old, new


LENGTHS = ("steps", "epochs", "examples")


def changes(old: Run, new: Run) -> str:
    """What differs between two configs of one run, for a line of its log; "" if nothing does."""
    found = differences(old, new)
    said = ", ".join(f"{key} {show(before)} -> {show(after)}" for key, before, after in found)
    if any(key in LENGTHS for key, _, _ in found):
        said += " (schedules follow the new length from here)"
    return said


def check_resume(old: Run, new: Run) -> None:
    """Refuses to go on with a run under another config, but for the fields of RESUMABLE.

    Raises:
        InputError: one line for each other field that differs, with both values.
    """
    refused = [
        Fault(
            key,
            f"the run in this workdir has {show(before)}, and this cannot change on resume; "
            "set it back, or start anew in another --workdir",
            after,
        )
        for key, before, after in differences(old, new)
        if not any(re.fullmatch(pattern, key) for pattern in RESUMABLE)
    ]
    if refused:
        raise InputError("\n".join(map(str, refused)), refused)
