"""What weights are of, in the config's own words: sections that build the model for them."""

import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax

from big_vit_lite import config, models
from big_vit_lite.config import InputError
from big_vit_lite.models.sizes import (
    HYBRIDS,
    RESNETS,
    SIZES,
    ResNetSize,
    Size,
    maps_stride,
)

Shape = tuple[int, ...]


class Sections(NamedTuple):
    """The sections of a config that describe a model; a tower alone has only the first.

    `model.image_size` is the native size, `model.position_grid` the stored table's, and for a tower
    alone `model.classes` the head's outputs, none for no head.
    """

    model: config.Model
    text: config.Text | None = None
    joint: config.Joint | None = None
    decoder: config.Decoder | None = None
    reconstruction: config.Reconstruction | None = None

    @property
    def family(self) -> str:
        """vit (an image tower alone, ResNets too), mae (one with a decoder of pixels), clip (two
        towers) or coca."""
        if self.text is None:
            return "vit" if self.reconstruction is None else "mae"
        return "clip" if self.decoder is None else "coca"

    def build(self, platform: str | None = None, **model_fields: Any) -> nn.Module:
        """The Flax model.

        Args:
            platform: cpu, gpu or tpu, on which "auto" depends; None for the default backend.
            model_fields: fields of section `model` to be others, such as dtype or scan.

        Raises:
            InputError: fields that do not fit each other.
        """
        model = config.Model(**(self.model.model_dump() | model_fields))
        side = model.image_size
        if side is None or (self.text is not None and self.text.length is None):
            raise InputError(
                "sections of weights say the size of images and texts: set model.image_size, and "
                "text.length where there is a text tower."
            )
        shape = (*((side, side) if isinstance(side, int) else side), model.channels)
        if self.reconstruction is not None:
            return models.build_mae(model, self.reconstruction, shape, platform)
        if self.text is None:
            return models.build_model(model, shape, model.classes or 0, platform)
        rest = (self.text, self.joint, *(() if self.decoder is None else (self.decoder,)))
        build = models.build_clip if self.decoder is None else models.build_coca
        return build(model, *rest, shape, self.text.length, platform)

    def leaves(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes of all parameters by path, layers side by side."""
        model = self.build("cpu", scan=False)
        shapes = models.unstack_layers(models.abstract_params(model))
        flat = jax.tree_util.tree_leaves_with_path(shapes)
        return {"/".join(entry.key for entry in path): leaf for path, leaf in flat}


class Known:
    """What the user knows of weights that their file does not say, such as heads.

    Every name that a layout asks for is remembered: names that it never asked for are refused, and
    an error can say which there are.
    """

    def __init__(self, where: Any, values: dict[str, Any] | None = None):
        self.where, self.values, self.asked = where, dict(values or {}), set()

    def get(self, name: str, default: Any) -> Any:
        self.asked.add(name)
        return self.values.get(name, default)

    def need(self, name: str, meaning: str) -> Any:
        """Raises InputError where neither the file nor the user says it."""
        self.asked.add(name)
        if name not in self.values:
            raise InputError(
                f"{self.where} does not say {meaning}, and a wrong guess would cost accuracy in "
                f'silence: load it with known={{"{name}": ...}}.'
            )
        return self.values[name]

    def check(self) -> None:
        """Raises InputError for a name that was not asked for."""
        for name in self.values.keys() - self.asked:
            asked = ", ".join(sorted(self.asked)) or "nothing"
            raise InputError(
                f'{self.where}: known has "{name}", and this layout asks for {asked} only.'
            )


def image_section(
    size: Size, patch: int | tuple[int, int], image_size: Any, **fields: Any
) -> config.Model:
    """The section of a Vision Transformer, by its published name where it has one."""
    patch = tuple(patch) if isinstance(patch, list | tuple) else (patch, patch)
    name = next((name for name, known in SIZES.items() if known == size), None)
    side = f"{patch[0]}" if patch[0] == patch[1] else f"{patch[0]}x{patch[1]}"
    return config.Model(
        variant=f"{name or 'mu'}/{side}",
        image_size=_whole(image_size),
        **({} if name else _sizes(size)),
        **fields,
    )


def hybrid_section(
    size: Size,
    patch: int | tuple[int, int],
    stages: tuple[int, ...],
    stem_width: int,
    grid: tuple[int, int],
    **fields: Any,
) -> config.Model:
    """The section of a hybrid for images of `grid` patches, by its published name where it has one.

    Args:
        patch: in positions of the ResNet's maps.
    """
    patch = tuple(patch) if isinstance(patch, list | tuple) else (patch, patch)
    step = maps_stride(stages)
    tower = image_section(
        size, patch, [n * side * step for n, side in zip(grid, patch, strict=True)]
    )
    known = {(found, side): name for name, (found, side) in HYBRIDS.items()}
    name = known.get((tuple(stages), patch[0])) if patch[0] == patch[1] else None
    own = {} if name else {"stages": tuple(stages), "patch": patch}
    variant = (name or next(iter(HYBRIDS))).format(tower.variant.split("/")[0])
    if stem_width != 64:
        own["stem_width"] = stem_width
    found = tower.model_dump(exclude_defaults=True) | {"variant": variant} | own | fields
    return config.Model(**found)


def resnet_section(
    stages: tuple[int, ...], width: int, heads: int, image_size: int
) -> config.Model:
    """The section of one of CLIP's ResNets, by its published name where it has one."""
    size = ResNetSize(tuple(stages), width)
    name = next((name for name, known in RESNETS.items() if known == size), None)
    sizes = {} if name else {"stages": size.stages, "width": width}
    usual = heads == max(1, width * 32 // 64)
    return config.Model(
        variant=name or "RN50",
        image_size=image_size,
        **sizes,
        **({} if usual else {"heads": heads}),
        init="clip",
    )


def text_section(size: Size, **fields: Any) -> config.Text:
    """The section of a text tower, by its published name where it has one."""
    name = next((name for name, known in SIZES.items() if known == size), None)
    return config.Text(variant=name or "mu", **({} if name else _sizes(size)), **fields)


def _sizes(size: Size) -> dict[str, int]:
    return size._asdict()


def _whole(side: Any) -> int | tuple[int, int]:
    if isinstance(side, int):
        return side
    height, width = side
    return height if height == width else (height, width)


def square(patches: int, where: Any) -> tuple[int, int]:
    """The grid of a position table that is stored as one row after the other.

    Raises:
        InputError: it is no square.
    """
    side = math.isqrt(patches)
    if side * side != patches:
        raise InputError(
            f"{where} has positions for {patches} patches, which is no square, and does not say "
            'of which grid: load it with known={"grid": (rows, columns)}.'
        )
    return side, side


def count(shapes: dict[str, Shape], pattern: str) -> int:
    """How many blocks there are: `pattern` has {i} where their number stands.

    It is the number of names, not the highest, so that a missing one is told as such later.
    """
    before, after = pattern.split("{i}")
    numbers = {
        name[len(before) :].split(".")[0].split("/")[0]
        for name in shapes
        if name.startswith(before) and name.endswith(after)
    }
    return max((int(n) + 1 for n in numbers if n.isdecimal()), default=0)
