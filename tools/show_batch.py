"""Writes what a model is fed as a PNG: the images of one training batch with what is said of them.

Beneath each stands its class name, or its caption as read back from the tokens. Several views of
an image stand side by side; patch sequences are put together again.

    python tools/show_batch.py --config configs/quickstart.py --step 10 --out batch.png

Every field of the config can be set as for training (--config.data.train.transform=...), so that
an augmentation can be looked at before it is paid for.
"""

from __future__ import annotations

import math
import os
import sys
import textwrap
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from big_vit_lite import checks, config

INCHES = 1.1  # side of one picture
LETTERS, LINES = 19, 4  # of what stands beneath it
OPTIONS = (
    config.Option("step", "N", "Which batch: that of step N, counted from 0. Default 0.", int),
    config.Option("images", "N", "How many of its images, at most. Default 64.", int),
    config.Option("out", "FILE", "Where the picture goes. Default batch.png.", Path),
)


def main(argv: list[str]) -> None:
    line = config.command_line(
        argv,
        program="python tools/show_batch.py",
        about=__doc__,
        options=OPTIONS,
        checks=checks.STATIC,
    )
    step, images = line.extras.get("step", 0), line.extras.get("images", 64)
    if step < 0 or images < 1:
        raise config.InputError("--step is 0 or more, --images 1 or more")
    out = line.extras.get("out", Path("batch.png"))
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # pictures need no accelerator
    from big_vit_lite import data

    stream = data.train_stream(line.run.data, line.run.seed)
    batch = stream.host_batch(step)
    captions = stream.captions(step, batch["text"]) if "text" in batch else None
    shown = pictures(batch, stream.class_names, images, captions)
    if not shown:
        raise config.InputError(
            f"data.train.transform makes {', '.join(batch)} and no images: there is nothing to draw"
        )
    draw(shown, out, f"step {step}: {_shapes(batch)}")
    rows = len(next(iter(batch.values())))
    print(f"{out}: {min(images, rows)} of {rows} images of step {step}")


def pictures(
    batch: dict[str, np.ndarray],
    class_names: tuple[str, ...],
    most: int,
    captions: list[str] | None = None,
) -> list[tuple[str, UInt8[np.ndarray, "h w c"]]]:
    """(title, image) of everything that shows the first `most` examples."""
    rows = min(most, len(next(iter(batch.values()))))
    names = captions or [""] * rows
    if captions is None and "label" in batch:
        names = [class_names[label] for label in batch["label"]]
    shown = []
    for row in range(rows):
        if "patches" in batch:
            arrays = (batch[key][row] for key in ("patches", "positions", "patch_mask"))
            shown.append((names[row], assembled(*arrays)))
            continue
        for key, values in batch.items():
            title = f"{names[row]} {key}" if key != "image" else names[row]
            if values.ndim == 4:
                shown.append((title, values[row]))
            elif values.ndim == 5:
                shown += [(f"{title} {i}", view) for i, view in enumerate(values[row])]
    return shown


def assembled(
    patches: UInt8[np.ndarray, "n d"], positions: np.ndarray, mask: np.ndarray
) -> UInt8[np.ndarray, "h w c"]:
    """The image whose patches these are; patches are taken to be square."""
    rows, columns = positions[mask].max(axis=0) + 1
    channels = 3 if patches.shape[1] % 3 == 0 else 1
    side = math.isqrt(patches.shape[1] // channels)
    grid = np.zeros((rows, columns, side, side, channels), np.uint8)
    grid[tuple(positions[mask].T)] = patches[mask].reshape(-1, side, side, channels)
    return grid.transpose(0, 2, 1, 3, 4).reshape(rows * side, columns * side, channels)


def draw(shown: list[tuple[str, UInt8[np.ndarray, "h w c"]]], out: Path, title: str) -> None:
    """A grid of the images with their titles beneath, as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    columns = int(np.ceil(np.sqrt(len(shown))))
    rows = -(-len(shown) // columns)
    texts = [_wrapped(name) for name, _ in shown]
    lines = 1 + max(text.count("\n") for text in texts)
    size = (columns * INCHES, rows * INCHES * (1.13 + 0.12 * lines))
    figure, axes = pyplot.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    for axis, text, (_, image) in zip(axes.flat, texts, shown, strict=False):
        axis.imshow(_as_picture(image), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        axis.set_xlabel(text, fontsize=7)
    figure.suptitle(title, fontsize=8)
    try:
        figure.savefig(out, dpi=150)
    except OSError as error:
        raise config.InputError(f"--out {out} cannot be written: {error.strerror}") from error
    pyplot.close(figure)


def _wrapped(name: str) -> str:
    """On a few short lines, "..." at the end of what is longer."""
    name = name.replace("$", r"\$")  # which begins mathematics
    return "\n".join(textwrap.wrap(name, LETTERS, max_lines=LINES, placeholder=" ..."))


def _shapes(batch: dict[str, np.ndarray]) -> str:
    shapes = {k: " x ".join(map(str, v.shape)) for k, v in batch.items() if v.ndim > 1}
    return ", ".join(f"{key} {shape}" for key, shape in shapes.items())


def _as_picture(image: UInt8[np.ndarray, "h w c"]) -> UInt8[np.ndarray, " h w ..."]:
    """Three channels as colours; of any other number the first, as grey."""
    return image if image.shape[-1] == 3 else image[..., 0]


if __name__ == "__main__":
    sys.exit(config.exit_code(main, sys.argv[1:]))
