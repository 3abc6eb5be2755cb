"""A task whose two towers are tables, so that every feature is what a test has written down.

Image i is a picture whose red and green are i and i // 256; a caption is the number of its row.
"""

import json
from pathlib import Path

import cv2
import jax.numpy as jnp
import numpy as np


class NumberText:
    """From "12" to the tokens (12, 0); prompts may have words around the number."""

    text, length = "numbers", 2

    def without_templates(self):
        return self

    def __call__(self, caption, rng):
        number = int("".join(c for c in caption if c.isdigit()))
        if number > 9_999:
            raise ValueError("the caption has 3 tokens, more than pad(2) takes")
        return np.array([number, 0], np.int32)


class TwoTables:
    """params: {"image": (n, e), "text": (m, e)}; rows are brought to length 1."""

    text = NumberText()

    def encode_image(self, params, batch):
        pixel = batch["image"][:, 0, 0].astype(jnp.int32)
        return unit(params["image"][pixel[:, 0] + 256 * pixel[:, 1]])

    def encode_text(self, params, tokens):
        return unit(params["text"][tokens[:, 0]])


def unit(x):
    return x / (x**2).sum(-1, keepdims=True) ** 0.5


def tables(images, texts, features=16, seed=0):
    rng = np.random.default_rng(seed)
    sizes = {"image": images, "text": texts}
    return {k: jnp.array(rng.normal(size=(n, features)), jnp.float32) for k, n in sizes.items()}


def picture(folder: Path, i: int, name: str | None = None) -> str:
    """Writes picture `i`; its name."""
    pixels = np.full((2, 2, 3), (0, i // 256, i % 256), np.uint8)  # blue, green, red
    name = name or f"{i:03d}.png"
    assert cv2.imwrite(str(folder / name), pixels)
    return name


def write_table(folder: Path, rows: list[dict]) -> str:
    """A table of pictures: row i, beside what it says itself, has picture i."""
    folder.mkdir(exist_ok=True)
    lines = [{"path": picture(folder, i)} | row for i, row in enumerate(rows)]
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)
