"""A model's answers to images: compiled once, on all devices of this machine, batch after batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from big_vit_lite import models, parallel
from big_vit_lite.config import InputError, RunError
from big_vit_lite.evals.ranking import fetched
from big_vit_lite.predict import options
from big_vit_lite.predict.reading import Batch, Images, Pixels
from big_vit_lite.pretrained import Pretrained, load
from big_vit_lite.pretrained.images import normalized


def model_of(name: str, given: dict[str, Any]) -> Pretrained:
    """The model with what the options say of it.

    Raises:
        InputError: as `load`.
    """
    parallel.start()
    return load(name, **{key: given[key] for key in options.OF_LOAD if key in given})


class Compiled:
    """A function of images on all local devices, which share each batch.

    Args:
        function: of (parameters, normalised float32 images (b, h, w, c) or models.Patches, *more);
            gives a dict of arrays with b rows.
        batch_size: images of a batch, rounded up to a multiple of the devices.

    Attributes:
        size: images of a batch.
    """

    def __init__(
        self,
        model: Pretrained,
        function: Callable[..., dict[str, jax.Array]],
        batch_size: int,
        *more: Any,
    ):
        devices = jax.local_devices()
        said = model.preprocessing
        self._mesh = parallel.make_mesh(devices=devices)
        self._split = parallel.batch_sharding(self._mesh)
        whole = parallel.replicated(self._mesh)
        self._given = jax.device_put((model.params, *more), whole)
        self.size = -(-batch_size // len(devices)) * len(devices)

        def answer(pixels, params, *more):
            return function(params, normalized(pixels, said), *more)

        self._answer = jax.jit(answer, out_shardings=whole)

    def __call__(self, pixels: Pixels) -> Any:
        """The function's arrays, maybe still being computed."""
        with jax.set_mesh(self._mesh):
            return self._answer(jax.device_put(pixels, self._split), *self._given)


def blank(model: Pretrained, images: Images) -> Any:
    """One normalised image, for shapes alone; its sides are the model's own where the transform
    does not say them."""
    if model.sections.model.max_patches is not None:
        return jax.eval_shape(models.image_tower(model.model).example)
    side = images.output_size or model.sections.model.image_size
    side = (side, side) if isinstance(side, int) else tuple(side)
    return jax.ShapeDtypeStruct((1, *side, model.sections.model.channels), np.float32)


def batch_size(given: dict[str, Any], images: int) -> int:
    """As asked for, but no more than there are images."""
    return max(1, min(given.get("batch_size", options.BATCH), images))


def answers(
    compiled: Compiled, images: Images, start: int = 0
) -> Iterator[tuple[Batch, dict[str, np.ndarray]]]:
    """Batches without pixels, and what the function gives for the rows of each.

    The devices compute while threads read what comes next, and a result is fetched when the next
    ones are under way.

    Raises:
        InputError: as Images.batches.
        RunError: a result is NaN or infinite.
    """

    def made() -> Iterator[tuple[Batch, Any]]:
        for batch in images.batches(compiled.size, start):
            out = compiled(batch.pixels) if batch.rows else {}
            yield batch._replace(pixels=None), out

    for batch, out in fetched(made()):
        out = {name: np.asarray(x)[: len(batch.rows)] for name, x in out.items()}
        for x in out.values():
            good = np.isfinite(x).reshape(len(x), -1).all(axis=1)
            if not good.all():
                path = images.paths[batch.rows[int(np.argmin(good))]]
                raise RunError(
                    f"the model gives NaN or infinity for {path}: its weights or its precision are "
                    "at fault, not the image"
                )
        yield batch, out


def unreadable(
    images: Images, batch: Batch, say: Callable[[str], None], more: str = ""
) -> list[str]:
    """A line about each image of a batch that cannot be read, which are said.

    Args:
        more: said behind the refusal.

    Raises:
        InputError: there is one, and it is not to be left out.
    """
    lines = [f"{images.paths[i]}: {' '.join(why.split())}" for i, why in batch.faults]
    if lines and not images.skip:
        raise InputError(
            f"{images.paths[batch.faults[0][0]]} cannot be used: "
            f"{' '.join(batch.faults[0][1].split())}; repair it or take it away, or leave out all "
            f"such images with --skip_unreadable{more}"
        )
    for line in lines:
        say(f"left out {line}")
    return lines
