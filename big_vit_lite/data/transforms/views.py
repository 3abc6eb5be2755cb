"""Several views of one image, as self-supervised learning takes them (multi-crop, Caron 2020)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from big_vit_lite.config import InputError
from big_vit_lite.data.grammar import WholeFault
from big_vit_lite.data.transforms.op import Several, Size, Specs, require_count, shown

if TYPE_CHECKING:
    from big_vit_lite.data.transforms.parse import Transform

RESERVED = ("features", "index", "label", "mask", "text")
"""Keys of a batch that hold other things."""

MOST_VIEWS = 256  # of one name


@dataclass(frozen=True)
class View:
    """One view: its key, how many of it (None: one, without an axis for the count), and how."""

    name: str
    count: int | None
    transform: Transform


@dataclass(frozen=True, init=False)
class Views(Several):
    """Views of one image, each with draws of its own: views(first='...', local=(8, '...')).

    Each is the text of a transform, or a pair (count, text). Batches get a key for each, which
    holds an image (H, W, C) or, with a count, images (count, H, W, C).

    DINOv2's augmentation (Oquab et al. 2023), with 8 local views of 98 pixels for patches of 14:

        decode|views(
          first='random_resized_crop(224, scale=(0.32, 1.0), method="bicubic",
            rule="torchvision")|flip|color_jitter(0.4, 0.4, 0.2, 0.1, p=0.8)
            |grayscale(p=0.2)|gaussian_blur(p=1.0)',
          second='random_resized_crop(224, scale=(0.32, 1.0), method="bicubic",
            rule="torchvision")|flip|color_jitter(0.4, 0.4, 0.2, 0.1, p=0.8)
            |grayscale(p=0.2)|gaussian_blur(p=0.1)|solarize(128, p=0.2)',
          local=(8, 'random_resized_crop(98, scale=(0.05, 0.32), method="bicubic",
            rule="torchvision")|flip|color_jitter(0.4, 0.4, 0.2, 0.1, p=0.8)
            |grayscale(p=0.2)|gaussian_blur(p=0.5)'))

    That is what the paper says. The released code blurs with one minus the probability, and its
    weights were trained so: gaussian_blur(p=0.0) for the first view, gaussian_blur(p=0.9) for the
    second.
    """

    views: tuple[View, ...]
    usage: ClassVar[str] = (
        "views(first='random_resized_crop(224)|flip', local=(8, 'random_resized_crop(96)|flip'))"
    )

    def __init__(self, **views: str | tuple[int, str]) -> None:
        if not views:
            raise ValueError("name at least one view")
        made, faults = [], []
        for name, value in views.items():
            try:
                made.append(_view(name, value))
            except WholeFault as error:
                faults.append(str(error))
        if faults:
            raise WholeFault("; ".join(faults))
        object.__setattr__(self, "views", tuple(made))

    def __call__(self, image: Any, rng: np.random.Generator) -> dict[str, np.ndarray]:
        return {view.name: _look(view, image, rng) for view in self.views}

    def specs(self, size: Size | None, channels: int | None) -> Specs:
        specs = {}
        for view in self.views:
            shape, dtype = view.transform.specs(size, channels)["image"]
            specs[view.name] = (shape if view.count is None else (view.count, *shape)), dtype
        return specs


def _view(name: str, value: Any) -> View:
    from big_vit_lite.data.transforms.parse import GRAMMAR, check, parse

    if name in RESERVED:
        raise ValueError(f"no view is called {name}, which batches hold already")
    count, text = value if isinstance(value, tuple | list) and len(value) == 2 else (None, value)
    if not isinstance(text, str):
        raise ValueError(f"{name} is a text or a pair (count, text), not {shown(value)}")
    if count is not None:
        require_count(count, f"the count of {name}", 1, MOST_VIEWS)
    if faults := check(text):
        raise WholeFault("; ".join(f"view {name}: {fault}" for fault in faults))
    transform = parse(text)
    if transform.several:
        last = GRAMMAR.name_of(transform.several)
        raise WholeFault(f"view {name}: {last} cannot stand in a view, which is one image")
    return View(name, count, transform)


def _look(view: View, image: Any, rng: np.random.Generator) -> np.ndarray:
    images = [view.transform(image, rng) for _ in range(view.count or 1)]
    if not isinstance(images[0], np.ndarray):
        raise InputError("views: the image is stored as bytes; begin the transform with decode")
    if view.count is None:
        return images[0]
    for other in images:
        if other.shape != images[0].shape:
            raise InputError(
                f"views: {view.name} holds images of different shapes, {images[0].shape} and "
                f"{other.shape}; end it with an operation that fixes the size, such as to_size(96)"
            )
    return np.stack(images)
