"""How many images are done, and how many were left out."""

from __future__ import annotations

from dataclasses import dataclass

from big_vit_lite.config import RunError


@dataclass
class Counts:
    """For report.Counting."""

    total: int
    done: int = 0
    skipped: int = 0

    def add(self, done: int, skipped: int) -> None:
        """Images up to number `done` are done, of which `skipped` more were left out."""
        self.done = done
        self.skipped += skipped

    def require_some(self) -> None:
        """Raises RunError where not one image could be used."""
        if self.total and self.skipped == self.total:
            raise RunError(f"none of the {self.total:,} images can be read")
