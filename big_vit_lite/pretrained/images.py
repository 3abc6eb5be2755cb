"""From files, Pillow's images and pixels to what a model looks at."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float32, UInt8

from big_vit_lite import data, models, weights
from big_vit_lite.config import InputError
from big_vit_lite.data import files
from big_vit_lite.data.chance import NoChance
from big_vit_lite.data.transforms.decode import Decode, rgb
from big_vit_lite.tasks.images import normalize

KINDS = "paths, Pillow images, uint8 arrays (h, w, c), or a list of them"


def is_preprocessed(images: Any) -> bool:
    """Whether it is an array of floats, or Patches, which go to the model as they are.

    Raises:
        InputError: one that is no batch.
    """
    if isinstance(images, models.Patches):
        return True
    dtype = getattr(images, "dtype", None)
    if dtype is None or not jax.numpy.issubdtype(dtype, jax.numpy.floating):
        return False
    if images.ndim != 4:
        raise InputError(
            f"an array of floats is taken for preprocessed images (b, h, w, c), and this one is "
            f"{tuple(images.shape)}: give {KINDS}, or what preprocess(images) returned."
        )
    return True


class Reader:
    """From an image to the pixels that a model looks at, before they are normalised.

    Args:
        preprocessing: its transform is taken; mean and std are for `normalize`.
        channels: of the model.

    An image has one answer: a transform that draws at random raises InputError with the first one.
    """

    def __init__(self, preprocessing: weights.Preprocessing, channels: int):
        self.transform = data.transforms.parse(preprocessing.transform)
        self._decode = Decode(channels)
        self._rng: Any = NoChance(
            f"transform= {preprocessing.transform!r} draws at random, and an image has one answer: "
            "take out what is random."
        )

    def file(self, content: bytes) -> UInt8[np.ndarray, "h w c"]:
        """Of a file's bytes.

        Raises:
            ValueError: it cannot be decoded or transformed.
        """
        ops = self.transform.ops
        image = content if ops and isinstance(ops[0], Decode) else self._decode(content, self._rng)
        return self.transform(image, self._rng)

    def opened(self, image: Any) -> UInt8[np.ndarray, "h w c"]:
        """Of a Pillow image or pixels.

        Raises:
            ValueError: it is something else, or cannot be transformed.
        """
        return self.transform(self._decode(_pixels(image), self._rng), self._rng)


def preprocess(
    images: Any, preprocessing: weights.Preprocessing, channels: int
) -> Float32[Array, "b h w c"] | models.Patches:
    """Images by the transform, scaled to [0, 1] and normalised; see Pretrained.preprocess."""
    if isinstance(images, jax.core.Tracer):
        raise InputError(
            "images cannot be preprocessed within jit, vmap or grad: call preprocess(images) before"
            " and give the floats it returns."
        )
    reader, made = Reader(preprocessing, channels), []
    for i, image in enumerate(_listed(images)):
        name = f"image {i}"
        try:
            if isinstance(image, str | Path):
                name = str(image)
                made.append(reader.file(files.read(files.normal(name))))
            else:
                made.append(reader.opened(image))
        except InputError:
            raise
        except (OSError, ValueError) as error:
            raise InputError(f"{name} cannot be used: {files.why(error)}.") from None
    shapes = {tuple(map(np.shape, jax.tree.leaves(image))) for image in made}
    if len(shapes) > 1:
        raise InputError(
            f"{preprocessing.transform!r} makes images of several sizes "
            f"({sorted(shape[0] for shape in shapes)}): give one at a time, or a transform= that "
            "ends in one size."
        )
    return normalized(jax.tree.map(lambda *each: np.stack(each), *made), preprocessing)


def normalized(made: Any, preprocessing: weights.Preprocessing) -> Array | models.Patches:
    """Images as a transform made them, one behind the other, as the model looks at them.

    Args:
        made: uint8 (b, h, w, c), or what the transform patchify makes: patches uint8 (b, n, p),
            positions (b, n, 2) and patch_mask (b, n). Filling is zeros after normalising, too.
    """
    mean, std = preprocessing.mean, preprocessing.std
    if not isinstance(made, dict):
        return normalize(made, mean, std)
    mask, flat = made["patch_mask"], made["patches"]
    pixels = flat.reshape(*flat.shape[:2], -1, len(mean))
    pixels = normalize(pixels, mean, std).reshape(flat.shape)
    pixels = jax.numpy.where(mask[:, :, None], pixels, 0)
    return models.Patches(pixels, made["positions"], mask)


def _listed(images: Any) -> Sequence[Any]:
    """One image or several as several.

    Raises:
        InputError: none.
    """
    if isinstance(images, str | Path) or hasattr(images, "convert"):
        return [images]
    if hasattr(images, "ndim") and images.ndim in (2, 3):
        return [images]
    if not hasattr(images, "__len__"):
        raise InputError(f"{type(images).__name__} is no image: give {KINDS}.")
    if not len(images):
        raise InputError(f"there is no image: give {KINDS}.")
    return images


def _pixels(image: Any) -> np.ndarray:
    """uint8 (h, w, c).

    Raises:
        ValueError: it is something else.
    """
    if hasattr(image, "convert"):
        image = image if image.mode in ("L", "RGB") else rgb(image)
    elif not hasattr(image, "dtype"):
        raise ValueError(f"{type(image).__name__} is no image; give {KINDS}")
    pixels = np.asarray(image)
    return pixels[..., None] if pixels.ndim == 2 else pixels
