"""What the image tower of a run makes of its images, computed once for training that locks it (LiT,
Zhai 2022); the logic of tools/precompute_features.py.

A split's images pass the split's own transform, which must not draw at random, and the tower as in
evaluation: without dropout. Its output before it is brought to length 1 is what the task takes in
place of images.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Float32

from big_vit_lite import (
    agreement,
    assembly,
    checkpoint,
    config,
    data,
    evaluate,
    models,
    parallel,
    starting,
    tasks,
)
from big_vit_lite.data import sources, transforms
from big_vit_lite.data.chance import NoChance
from big_vit_lite.data.computed import Computed
from big_vit_lite.data.examples import Examples
from big_vit_lite.data.sources.base import BadExample
from big_vit_lite.data.transforms.op import ImageFault

PER_DEVICE = 128
"""Images of a batch for each device, unless another batch is asked for."""
_SAME_FUNCTION = ("scan", "remat", "attention", "image_size", "dtype")
"""Fields of a model that say how it is computed, not what."""


def split_of(run: config.Run, name: str) -> tuple[config.Split, str]:
    """The split `name` (train, val, or one of data.mix) as its features are stored: with captions;
    and its key in the config.

    Raises:
        InputError: there is no such split, or the run has no two towers.
    """
    if run.task.name != "contrastive":
        raise config.InputError(
            f"features of a locked image tower are for task contrastive, and task.name is "
            f"{run.task.name}"
        )
    splits = {"train": ("data.train", run.data.train), "val": ("data.val", run.data.val)}
    splits |= {mixed: (f"data.mix.{mixed}", split) for mixed, split in run.data.mix.items()}
    where, split = splits.get(name, ("", None))
    if split is None:
        there = ", ".join(key for key, (_, split) in splits.items() if split is not None)
        raise config.InputError(f"--data: the config has no split {name!r}; there are {there}")
    return split.model_copy(update={"text": split.text or run.data.train.text}), where


def computed(
    run: config.Run,
    split: config.Split,
    where: str,
    stored: str | None,
    dtype: str = "float16",
    batch_size: int | None = None,
) -> Computed:
    """What `data.prepare` stores in place of the images of a split.

    Args:
        split, where: as `split_of` gives them.
        stored: a checkpoint of two towers like the run's; None: run.init, by run.init_rules.
        dtype: of the stored numbers, float16 or float32.
        batch_size: images at a time over all devices; None: PER_DEVICE for each.

    Raises:
        InputError: a transform that draws at random or makes no image, or a checkpoint that does
            not hold the whole tower.
    """
    images, mesh = Images(split, where), parallel.make_mesh(run.mesh)
    size = batch_size or PER_DEVICE * mesh.size
    parts = _two_towers(run, images.shape, size, mesh)
    params, read_from = _image_params(parts, stored)
    tower = Tower(parts, params, size)
    model = run.model.model_dump(mode="json", exclude_defaults=True, exclude=set(_SAME_FUNCTION))
    made_by = {
        "tower": read_from,
        "model": model,
        "projections": run.joint.projections,
        "computed in": jnp.dtype(_compute_dtype(parts.model.img)).name,
        "transform": split.transform,
        "mean": list(run.data.mean),
        "std": list(run.data.std),
    }
    return Computed(functools.partial(_features, images, tower), tower.n, made_by, dtype)


def _compute_dtype(tower: models.ViT | models.ResNet) -> Any:
    return tower.dtype if isinstance(tower, models.ResNet) else tower.block.dtype


class Images:
    """The images of a split by row, transformed, read by some threads.

    Attributes:
        shape: (height, width, channels) of all of them.

    Raises:
        InputError: the transform draws at random, or makes something else than an image.
    """

    def __init__(self, split: config.Split, where: str):
        transform = transforms.parse(split.transform, f"{where}.transform")
        if "image" not in transform.specs():
            raise config.InputError(
                f"{where}.transform makes {', '.join(transform.specs())}, and the image tower "
                "looks at images; give the config with images"
            )
        # Every image is looked at once, so none is kept.
        source = sources.build(split, where)
        self._examples = Examples(source, transform, seed=0, decoded_bytes=0)
        self._draws = NoChance(
            f"{where}.transform {split.transform!r} draws at random, and features are computed "
            "once; take out what is random, as in "
            f'--config.{where}.transform="decode|resize(224)"'
        )
        self.shape = self._examples.keys["image"][0]
        self.at(0)  # refuses now what it would refuse in the first shard
        self._threads = ThreadPoolExecutor(os.cpu_count())

    def at(self, row: int) -> np.ndarray | str:
        """The image of a row, or why there is none."""
        try:
            return self._examples.example(row, 0, self._draws)["image"]
        except BadExample as error:
            cause = error.__cause__
            known = isinstance(cause, ImageFault | BadExample) or cause is None
            return str(cause or error) if known else f"{type(cause).__name__}: {cause}"

    def of(self, rows: Sequence[int]) -> list[np.ndarray | str]:
        return list(self._threads.map(self.at, rows))


class Tower:
    """An image tower on all devices, with its parameters.

    Attributes:
        n: numbers that it makes of an image.
    """

    def __init__(self, parts: assembly.Parts, params: Any, size: int):
        task, mesh = parts.task, parts.mesh

        def look(params, images):
            seen = task.images({"image": parallel.constrain(images)})
            return task.model.img.apply({"params": params}, seen)[0].astype(jnp.float32)

        self._params, self.size, self._mesh = params, size, mesh
        self._sharding = parallel.batch_sharding(mesh)
        self._look = jax.jit(look, out_shardings=self._sharding)
        with jax.set_mesh(mesh):
            self.n = jax.eval_shape(look, params, parts.batches["image"]).shape[1]

    def __call__(self, images: np.ndarray) -> Float[Array, "b n"]:
        """Features of `size` images, maybe still being computed."""
        with jax.set_mesh(self._mesh):
            return self._look(self._params, jax.device_put(images, self._sharding))


def _features(
    images: Images, tower: Tower, rows: Sequence[int]
) -> Iterator[Float32[np.ndarray, " n"] | str]:
    """Features of the images of some rows, or why there are none, in their order.

    The devices look at one batch while the next is read.
    """
    waiting: tuple[list, Any] | None = None
    for start in range(0, len(rows), tower.size):
        found = images.of(rows[start : start + tower.size])
        batch = np.zeros((tower.size, *images.shape), np.uint8)
        for place, image in enumerate(found):
            if not isinstance(image, str):
                batch[place] = image
        made = tower(batch)
        if waiting:
            yield from _told(*waiting)
        waiting = found, made
    if waiting:
        yield from _told(*waiting)


def _told(found: list, made: Any) -> Iterator[Float32[np.ndarray, " n"] | str]:
    for image, features in zip(found, np.asarray(made)[: len(found)], strict=True):
        yield image if isinstance(image, str) else features


def _two_towers(run: config.Run, shape: tuple[int, ...], size: int, mesh: Mesh) -> assembly.Parts:
    """Model and task of a run for images of a shape; `batches` is the spec alone."""
    sharding = parallel.batch_sharding(mesh)
    try:
        sharding.shard_shape((size,))
    except ValueError:
        raise config.InputError(
            f"--batch_size is {size}, which does not divide over {mesh.size} devices"
        ) from None
    length = data.text.length(run.data.train.text)
    spec = {
        "image": jax.ShapeDtypeStruct((size, *shape), np.uint8, sharding=sharding),
        "text": jax.ShapeDtypeStruct((size, length), np.int32, sharding=sharding),
    }
    model = tasks.build_model(run, spec, 0, mesh.devices.flat[0].platform)
    return assembly.Parts(run, mesh, spec, 0, model, tasks.build(run, model), [])


def _image_params(parts: assembly.Parts, stored: str | None) -> tuple[Any, str]:
    """The image tower's parameters, and where they are from: its name, and a digest of them."""
    run = parts.run
    source = stored or run.init
    if source is None:
        raise config.InputError(
            "there is no tower to compute with: name a checkpoint of both towers with "
            "--checkpoint=DIR, or one of the image tower in the config's init"
        )
    abstract = assembly.stored_form(parts, assembly.abstract_params(parts))
    if stored is not None:
        meta = checkpoint.read_meta(stored)
        trained = config.Run.from_json(meta["config"], f"{stored}/meta.json")
        evaluate.check_same_function(trained, run)
        parts = parts._replace(run=run.model_copy(update={"init": stored, "init_rules": ()}))
    starting.check_init(parts.run)
    found, _ = starting.read_init(parts, abstract)
    fresh = [name for name in found.fresh if name.startswith("img/")]
    if fresh:
        raise config.InputError(
            f"init_rules leave {fresh[0]} as it is drawn, so that {source} is no whole image "
            "tower; features of it would mean nothing: let init_rules take it from the checkpoint, "
            "or leave the projection out with joint.projections='text'"
        )
    leaves = {k.removeprefix("img/"): x for k, x in found.leaves.items() if k[:4] == "img/"}
    tower = assembly.from_stored(parts, _nested(leaves), parts.model.img)
    return tower, f"{source} ({agreement.digest(leaves)})"


def _nested(leaves: dict[str, Any]) -> dict[str, Any]:
    """A tree of arrays from their paths."""
    tree: dict[str, Any] = {}
    for path, leaf in leaves.items():
        *above, name = path.split("/")
        node = tree
        for key in above:
            node = node.setdefault(key, {})
        node[name] = leaf
    return tree
