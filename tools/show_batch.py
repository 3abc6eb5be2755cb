"""Writes what a model is fed as a PNG: the images of one training batch with their class names.

    python tools/show_batch.py --config configs/quickstart.py --step 10 --out batch.png

Every field of the config can be set as for training (--config.data.train.transform=...), so that
an augmentation can be looked at before it is paid for.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from big_vit_lite import checks, config

INCHES = 1.1  # side of one picture
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
    names = [stream.class_names[label] for label in batch["label"][:images]]
    draw(batch["image"][:images], names, out, f"step {step}: {_shape(batch)}")
    print(f"{out}: {len(names)} of {len(batch['label'])} images of step {step}")


def draw(images: UInt8[np.ndarray, "b h w c"], names: list[str], out: Path, title: str) -> None:
    """A grid of the images with `names` beneath, as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    columns = int(np.ceil(np.sqrt(len(images))))
    rows = -(-len(images) // columns)
    size = (columns * INCHES, rows * INCHES * 1.25)
    figure, axes = pyplot.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    for axis in axes.flat:
        axis.axis("off")
    for axis, image, name in zip(axes.flat, images, names, strict=False):
        axis.imshow(_as_picture(image), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        axis.set_title(name[:16], fontsize=7, y=-0.22)
    figure.suptitle(title, fontsize=8)
    try:
        figure.savefig(out, dpi=150)
    except OSError as error:
        raise config.InputError(f"--out {out} cannot be written: {error.strerror}") from error
    pyplot.close(figure)


def _shape(batch: dict[str, np.ndarray]) -> str:
    return " x ".join(map(str, batch["image"].shape)) + " uint8"


def _as_picture(image: UInt8[np.ndarray, "h w c"]) -> UInt8[np.ndarray, " h w ..."]:
    """Three channels as colours; of any other number the first, as grey."""
    return image if image.shape[-1] == 3 else image[..., 0]


if __name__ == "__main__":
    sys.exit(config.exit_code(main, sys.argv[1:]))
