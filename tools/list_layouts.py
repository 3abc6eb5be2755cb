"""Writes the table of weights' layouts into docs/weights.md, from what is registered and recorded.

python tools/list_layouts.py            # writes the page
python tools/list_layouts.py --check    # exits 1 if the page is not what it would write
"""

import argparse
import pathlib
import sys

import numpy as np

from big_vit_lite.weights.layout import Layout
from big_vit_lite.weights.layouts import LAYOUTS

ROOT = pathlib.Path(__file__).parent.parent
PAGE = ROOT / "docs" / "weights.md"
GOLDENS = ROOT / "tests" / "weights" / "goldens"
START, END = "<!-- layouts -->\n", "<!-- end of layouts -->\n"
SOURCES = {
    "file": "written by the library",
    "pth": "names by hand, through timm's loader",
    "script": "names by hand, through open_clip's loader",
    "npz": "names by hand, through timm's or open_clip's loader",
}
CASES = {"native": "native size", "other": "2x8 patches of 4x4", "low": "low variance"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing")
    check = parser.parse_args().check
    old = PAGE.read_text()
    new = with_table(old)
    if check and new != old:
        sys.exit(f"{PAGE} is older than the layouts: run python tools/list_layouts.py")
    PAGE.write_text(new)


def with_table(page: str) -> str:
    """The page with the table between its two marks made anew."""
    before, rest = page.split(START)
    _, after = rest.split(END)
    return before + START + table() + END + after


def table() -> str:
    lines = ["| | layout | `layout=` | written | models that prove it | files | inputs |",
             "|---|---|---|---|---|---|---|"]  # fmt: skip
    return "\n".join([*lines, *(row(layout) for layout in LAYOUTS)]) + "\n"


def row(layout: Layout) -> str:
    files = sorted(GOLDENS.glob(f"{layout.number}-*.npz"))
    names: set[str] = set()
    for file in files:
        with np.load(file) as golden:
            names |= set(golden.files)
    kinds = [text for kind, text in SOURCES.items() if any(x.startswith(f"{kind}/") for x in names)]
    cases = [text for case, text in CASES.items() if f"{case}/images" in names]
    models = ", ".join(file.stem.split("-", 1)[1] for file in files)
    written = "no" if layout.file is None else f"`{layout.file}`"
    return (
        f"| {layout.number} | {layout.title} | `{layout.name}` | {written} | {models} | "
        f"{'; '.join(kinds)} | {', '.join(cases)} |"
    )


if __name__ == "__main__":
    main()
