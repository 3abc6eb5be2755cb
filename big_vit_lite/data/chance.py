"""What is done once to an image must not be drawn at random."""

from __future__ import annotations

from typing import Any

from big_vit_lite.config import InputError


class NoChance:
    """Stands where operations find their generator: one that draws is refused.

    Args:
        refusal: what is said.
    """

    def __init__(self, refusal: str):
        self._refusal = refusal

    def __getattr__(self, name: str) -> Any:
        raise InputError(self._refusal)

    def at(self, row: int, visit: int) -> NoChance:
        """The generator of an example, as in examples.Draws."""
        return self
