"""The refusal of a column that is not there, with the name that was probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from big_vit_lite.config import InputError


def require(
    name: str,
    there: Sequence[str],
    key: str,
    file: str,
    kind: str = "column",
    note: str = "",
) -> None:
    """Some column, feature or member of `file` has this name.

    Args:
      there: the names it has.
      key: the field of the config that gave the name.
      kind: what the format calls it.
      note: ends the error.

    Raises:
      InputError: none has.
    """
    if name in there:
        return
    near = difflib.get_close_matches(name, there, n=1, cutoff=0.4)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    shown = ", ".join(there[:20]) + (" ..." if len(there) > 20 else "")
    raise InputError(f"{key}: {file} has no {kind} {name!r}{hint}; its {kind}s are: {shown}{note}")
