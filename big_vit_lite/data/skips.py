"""Examples left out because they cannot be used: counted, named, and not more than allowed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from big_vit_lite.config import RunError
from big_vit_lite.data.examples import Skipped


class Skips:
    """What was left out so far; an example that comes again in every epoch counts once.

    Args:
      limit: how many examples may be left out, `data.skip_limit`.
      stored: what an earlier part of the run wrote into its checkpoint.
      say: gets one line for each example when it is first left out.
    """

    def __init__(
        self, limit: int, say: Callable[[str], None], stored: Mapping[str, Any] | None = None
    ):
        self._limit, self._say = limit, say
        self.names: list[str] = list((stored or {}).get("names", ()))
        self.times: int = (stored or {}).get("times", 0)

    def add(self, skipped: Iterable[Skipped], step: int) -> None:
        """Notes the examples that could not be used for the batch of step `step`.

        Raises:
          RunError: they are more than allowed.
        """
        for example in skipped:
            self.times += 1
            if example.name in self.names:
                continue
            self.names.append(example.name)
            if len(self.names) > self._limit:
                raise RunError(
                    f"step {step}: {example.fault}. With it {len(self.names)} examples cannot be "
                    f"used, and data.skip_limit is {self._limit}; repair the data or raise the "
                    "limit"
                )
            self._say(
                f"step {step}: left out {example.fault} ({len(self.names)} of at most "
                f"{self._limit} examples)"
            )

    def to_dict(self) -> dict[str, Any]:
        """For the checkpoint: how many, how often, and which."""
        return {"count": len(self.names), "times": self.times, "names": self.names}
