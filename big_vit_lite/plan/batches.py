"""What batches of a run look like, from its data where they are here, else from its config."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from big_vit_lite import checks, data, parallel
from big_vit_lite.config import InputError, Run

IMAGENET_CLASSES, IMAGENET_EXAMPLES = 1000, 1_281_167
PAIRS = 400_000_000  # of CLIP's own data, and of LAION-400M


class Batches(NamedTuple):
    """As much of a stream as compiling a step asks for.

    Attributes:
        spec: {key: jax.ShapeDtypeStruct} of a global batch, with shardings.
        assumed: what was not known, in sentences.
    """

    spec: dict[str, Any]
    class_names: tuple[str, ...]
    examples: int
    assumed: tuple[str, ...] = ()


def describe(run: Run, mesh: Mesh) -> Batches:
    """The batches of a run; files that are on this machine are opened, others never.

    Raises:
        InputError: data that are here and cannot be used, or images whose size only files tell.
    """
    if _is_here(run):
        sharding = parallel.batch_sharding(mesh)
        # Without the mesh: none of its devices need be here, and no row is read.
        stream = data.train_stream(run.data, run.seed)
        spec = {
            key: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
            for key, x in stream.spec.items()
        }
        return Batches(spec, stream.class_names, stream.examples)
    return unread(run, mesh)


def unread(run: Run, mesh: Mesh) -> Batches:
    """The batches of a run as its config alone tells; no file is opened.

    Raises:
        InputError: images whose size only files tell.
    """
    sharding, split = parallel.batch_sharding(mesh), run.data.train
    transform = data.transforms.parse(split.transform, "data.train.transform")
    shapes = dict(transform.specs(_pair(run.model.image_size), run.model.channels))
    if None in shapes.get("image", ((),))[0] and run.model.image_size:
        stated = (*_pair(run.model.image_size), run.model.channels)
        shapes["image"] = (stated, np.uint8)  # the files' own size, which the config states
    for key, (shape, _) in shapes.items():
        if None in shape:
            raise InputError(
                f"data.train.transform leaves the size of {key} to the files, which are not here; "
                "say it with --config.model.image_size=N, or have the data here."
            )
    if split.text:
        shapes["text"] = ((data.text.length(split.text),), np.int32)
    if not split.text or split.label_key:
        shapes["label"] = ((), np.int32)
    rows = run.data.batch_size
    spec = {
        key: jax.ShapeDtypeStruct((rows, *shape), dtype, sharding=sharding)
        for key, (shape, dtype) in shapes.items()
    }
    assumed = []
    classes = run.model.classes or 0
    if not classes and run.task.name == "classification":
        classes = IMAGENET_CLASSES
        assumed.append(
            f"{classes:,} classes, as {split.path} was not read; or --config.model.classes=N"
        )
    examples = PAIRS if split.text else IMAGENET_EXAMPLES
    if run.epochs is not None:
        assumed.append(f"{examples:,} examples an epoch, which sets learning rates only")
    return Batches(spec, ("",) * classes, examples, tuple(assumed))


def _pair(value: int | tuple[int, int] | None) -> tuple[int, int] | None:
    return (value, value) if isinstance(value, int) else value


def _is_here(run: Run) -> bool:
    """Whether all that trains lies on this machine."""
    for split in (run.data.train, *run.data.mix.values()):
        if split.source in ("digit_pairs", "digits", "synthetic"):
            continue
        if not split.path or "://" in split.path:
            return False
    return checks.trains_here(run)
