"""Writes the table of weights' layouts into docs/weights.md, from what is registered and recorded.

python tools/list_layouts.py            # writes the page
python tools/list_layouts.py --check    # exits 1 if the page is not what it would write
"""

import argparse
import pathlib
import re
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
THROUGH = re.compile("through .*")
CASES = {"native": "native size", "other": "{0}x{1} of 16x16", "low": "low variance"}
SHAPES = "several shapes in a batch"
"""In place of the native size, where each image has a grid of its own."""


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
    kinds, cases = set(), set()
    for file in files:
        with np.load(file) as golden:
            kinds |= {_source(kind, golden) for kind in SOURCES if _holds(golden, f"{kind}/")}
            cases |= {(case, _inputs(case, golden)) for case in CASES if _holds(golden, f"{case}/")}
    kinds = sorted(kinds)
    cases = [
        text for _, text in sorted(cases, key=lambda found: ([*CASES].index(found[0]), found[1]))
    ]
    models = ", ".join(file.stem.split("-", 1)[1] for file in files)
    written = "no" if layout.file is None else f"`{layout.file}`"
    return (
        f"| {layout.number} | {layout.title} | `{layout.name}` | {written} | {models} | "
        f"{'; '.join(kinds)} | {', '.join(cases)} |"
    )


def _holds(golden, prefix: str) -> bool:
    return any(name.startswith(prefix) for name in golden.files)


def _source(kind: str, golden) -> str:
    """Where the files of a kind are from; a golden may name the library whose model computed."""
    if "through" not in golden.files:
        return SOURCES[kind]
    return THROUGH.sub(f"through {golden['through']}", SOURCES[kind])


def _inputs(case: str, golden) -> str:
    if case == "native" and f"{case}/positions" in golden.files:
        return SHAPES
    return CASES[case].format(*golden[f"{case}/images"].shape[1:3])


if __name__ == "__main__":
    main()
