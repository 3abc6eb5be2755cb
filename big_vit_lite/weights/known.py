"""What a person knows of weights that their file does not say, as one writes it in a line."""

import ast
import re
from typing import Any

_BETWEEN = re.compile(r",(?![^(\[]*[)\]])")
"""A comma that stands in no brackets."""


def read_known(text: str) -> dict[str, Any]:
    """activation=quick,grid=(14,7) as a dict; values are numbers where they look like it.

    Raises:
        ValueError: it is written otherwise.
    """
    found = {}
    for part in _BETWEEN.split(text):
        name, given, value = part.partition("=")
        if not given or not name.strip():
            raise ValueError("wants NAME=VALUE with commas between them, as in activation=quick")
        try:
            found[name.strip()] = ast.literal_eval(value.strip())
        except (ValueError, SyntaxError):
            found[name.strip()] = value.strip()
    return found
