"""A page of answers that needs no other file: thumbnails lie in it, and every text is escaped."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from big_vit_lite.predict.outputs import Answer

_STYLE = """
body { font: 15px/1.4 system-ui, sans-serif; margin: 2em; color: #222; background: #fff; }
section { display: flex; gap: 1.2em; padding: 1em 0; border-top: 1px solid #ddd; }
figure { margin: 0; width: 170px; overflow-wrap: anywhere; font-size: 13px; }
img { max-width: 160px; max-height: 160px; display: block; }
.gone { width: 160px; height: 100px; background: #eee; display: block; }
table { border-collapse: collapse; align-self: start; }
td, th { padding: .15em .8em .15em 0; text-align: left; }
td + td, th + th { text-align: right; font-variant-numeric: tabular-nums; }
.all { display: flex; flex-wrap: wrap; gap: 1.2em; }
"""
FOOT = "</body>\n</html>\n"


def head(title: str) -> str:
    """The page up to its first answer."""
    title = html.escape(title)
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{title}</title>'
        f"\n<style>{_STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n"
    )


def row(answer: Answer, numbers: Sequence[str]) -> str:
    """An answer: its image or text, and what was found, with images where there are any."""
    from big_vit_lite.predict.outputs import number

    asked = _figure(answer.name, answer.thumbnail) if answer.thumbnail else _quoted(answer.name)
    if any(found.thumbnail is not None for found in answer.found):
        shown = "".join(
            _figure(
                found.name,
                found.thumbnail or b"",
                ", ".join(f"{name} {number(name, found.numbers[name])}" for name in numbers),
            )
            for found in answer.found
        )
        return f'<section>{asked}<div class="all">{shown}</div></section>\n'
    heads = "".join(f"<th>{html.escape(name)}</th>" for name in ("", *numbers))
    lines = "".join(
        f"<tr><td>{html.escape(found.name)}</td>"
        + "".join(f"<td>{number(name, found.numbers[name])}</td>" for name in numbers)
        + "</tr>"
        for found in answer.found
    )
    return f"<section>{asked}<table><tr>{heads}</tr>{lines}</table></section>\n"


def _quoted(text: str) -> str:
    return f"<figure><q>{html.escape(text)}</q></figure>"


def _figure(name: str, thumbnail: bytes, more: str = "") -> str:
    name = html.escape(name)
    image = '<span class="gone" title="no longer there"></span>'
    if thumbnail:
        data = base64.b64encode(thumbnail).decode()
        image = f'<img src="data:image/jpeg;base64,{data}" alt="{name}">'
    below = f"{name}<br>{html.escape(more)}" if more else name
    return f"<figure>{image}<figcaption>{below}</figcaption></figure>"
