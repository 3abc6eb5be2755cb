"""Writes docs/transforms.md: every operation of `transform` and of `text`, from its own docstring.

    python tools/list_transforms.py

A test fails where the page is not what this writes.
"""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path

from big_vit_lite.data.grammar import Grammar
from big_vit_lite.data.text.parse import GRAMMAR as TEXT
from big_vit_lite.data.transforms.parse import GRAMMAR as IMAGE

PAGE = Path(__file__).parent.parent / "docs" / "transforms.md"
HEAD = """# Operations of transforms

This page is written by `tools/list_transforms.py` from the docstrings of the operations.
[own_data.md](own_data.md) shows how they are used, with published recipes.

A transform is operations joined by `|`, read from left to right. Arguments stand in their order or
by name; those with `=` may be left out. `python tools/show_batch.py` draws what one makes.
"""


def main() -> None:
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page())
    print(PAGE)


def page() -> str:
    """The text of the page."""
    images, captions = section(IMAGE), section(TEXT)
    return f"{HEAD}\n## On images: `transform`\n\n{images}\n## On captions: `text`\n\n{captions}"


def section(grammar: Grammar) -> str:
    first_names = {cls: name for name, cls in reversed(grammar.ops.items())}
    return "".join(
        f"### {name}\n\n`{grammar.signature(name)}`\n\n{described(cls)}\n\n"
        for cls, name in reversed(first_names.items())
    )


def described(cls: type) -> str:
    """The docstring, with what it lists as a list."""
    text = inspect.getdoc(cls) or ""
    return re.sub(r"^ {2}(?=\w+(, \w+)*: )", "- ", text, flags=re.MULTILINE)


if __name__ == "__main__":
    sys.exit(main())
