"""What of a model is exported: pure functions of weights by path and arrays, with their shapes."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import export
from jaxtyping import Array, Float

from big_vit_lite import data, weights
from big_vit_lite.config import InputError
from big_vit_lite.pretrained import Pretrained
from big_vit_lite.tasks.images import normalize

NAMES = ("image_features", "text_features", "logits")
PIXELS = ("uint8", "float32")
"""Images as they come: pixels, normalised within the function, or what `preprocess` returns."""
PORTABLE = {"remat": "none", "scan": False, "attention": "auto"}
"""Fields of a section that change no number, as they are exported. "auto" is for the CPU: the
attention that it stands for there runs everywhere."""


class Input(NamedTuple):
    """An input or the output of an exported function; text in a shape stands for any size.

    Whole numbers are `below` a bound: 256, or the size of the vocabulary.
    """

    name: str
    shape: tuple[int | str, ...]
    dtype: str
    below: int | None = None

    def __str__(self) -> str:
        return f"{self.name} {self.dtype} ({', '.join(map(str, self.shape))})"


@dataclasses.dataclass(frozen=True)
class Function:
    """One function of a model.

    Attributes:
        apply: of weights by path and its inputs; pure.
        weights: the parameters that it needs, by path.
        inputs: in order.
        output: the one array that it returns.
    """

    name: str
    apply: Callable[..., Float[Array, "b ..."]]
    weights: dict[str, Array]
    inputs: tuple[Input, ...]
    output: Input


def functions(
    model: Pretrained, names: Sequence[str] | None, pixels: str, dtype: str
) -> list[Function]:
    """Functions of a model, which compute in `dtype` and return float32.

    Args:
        names: of NAMES; None: all that the model has.
        pixels: one of PIXELS.

    Raises:
        InputError: a name that is none, a function that the model has not, images of any shape, or
            pixels whose mean and standard deviation are not known.
    """
    has = available(model)
    names = list(has) if names is None else list(names)
    for name in names:
        if name not in NAMES:
            raise InputError(f"{name!r} is no function: {model.source} has {', '.join(has)}.")
        if name not in has:
            raise InputError(
                f"{model.source} has no {name.replace('_', ' ')}, but {', '.join(has)}."
            )
    if model.sections.model.max_patches is not None:
        raise InputError(
            f"{model.source} reads images of any shape (NaFlex), which exported functions do not: "
            "use encode_image of big_vit_lite.load, or take a model of one size."
        )
    if pixels == "uint8" and model.preprocessing is None:
        raise InputError(
            f"{model.source} does not say how pixels were normalised: give transform, mean and "
            "std, or export a function of images that are normalised already (float32)."
        )
    model = portable(model, dtype)
    flat = {path: x for path, x in _leaves(model.params)}
    return [_function(model, name, pixels, flat) for name in names]


def available(model: Pretrained) -> tuple[str, ...]:
    """The functions that a model has."""
    if model.sections.text is not None:
        return NAMES
    vector = ("image_features",) if model.sections.model.pool != "none" else ()
    return (*vector, *(("logits",) if model.classifies else ()))


def portable(model: Pretrained, dtype: str) -> Pretrained:
    """The same model in a form that compiles anywhere, computing in `dtype`."""
    made = weights.Sections(
        *(
            section
            and section.model_copy(
                update={
                    field: value
                    for field, value in (PORTABLE | {"dtype": dtype}).items()
                    if field in type(section).model_fields
                }
            )
            for section in model.sections
        )
    )
    return dataclasses.replace(model, model=made.build("cpu"), sections=made)


def _function(model: Pretrained, name: str, pixels: str, flat: dict[str, Array]) -> Function:
    images, output = _images(model, pixels), "logits" if name == "logits" else "features"
    mean, std = (model.preprocessing.mean, model.preprocessing.std) if pixels == "uint8" else (0, 1)

    def seen(x: Array) -> Array:
        return normalize(x, mean, std) if pixels == "uint8" else x

    if name == "text_features":
        inputs = (_tokens(model, "b"),)

        def apply(weights, tokens):
            return model.encode_text(tokens, _nested(weights))
    elif name == "image_features":
        inputs = (images,)

        def apply(weights, images):
            return model.encode_image(seen(images), _nested(weights))
    elif model.sections.text is None:
        inputs = (images,)

        def apply(weights, images):
            return model.logits(seen(images), params=_nested(weights))
    else:
        inputs = (images, _tokens(model, "c"))

        def apply(weights, images, tokens):
            return model.logits(seen(images), tokens, _nested(weights))

    specs = [jax.ShapeDtypeStruct(concrete(x), x.dtype) for x in inputs]
    apply, flat = _of_needed(apply, flat, specs)
    made = jax.eval_shape(apply, flat, *specs)
    rest = (inputs[-1].shape[0],) if len(inputs) > 1 else made.shape[1:]
    return Function(name, apply, flat, inputs, Input(output, ("b", *rest), made.dtype.name))


def _of_needed(apply, flat: dict[str, Array], specs: list) -> tuple[Callable, dict[str, Array]]:
    """The function of the weights that have a part in its result, and these weights."""
    # With symbols in shapes, jax.export would keep all.
    kept = set(export.export(jax.jit(apply))(flat, *specs).module_kept_var_idx)
    paths = sorted(flat)  # JAX's own order of a dict's leaves
    needed = {path: flat[path] for i, path in enumerate(paths) if i in kept}
    others = {path: flat[path] for path in paths if path not in needed}

    def of_needed(weights, *inputs):
        zeros = {path: jnp.zeros(x.shape, x.dtype) for path, x in others.items()}
        return apply(zeros | weights, *inputs)

    return of_needed, needed


def concrete(x: Input, batch: int = 1) -> tuple[int, ...]:
    """The shape with a number for what may be of any size."""
    return tuple(batch if isinstance(n, str) else n for n in x.shape)


def _images(model: Pretrained, pixels: str) -> Input:
    """Images of the size that the transform makes, where it says one, or else of the model's own:
    for other sizes its positions are resampled within the function."""
    section, said = model.sections.model, model.preprocessing
    side = (said and data.transforms.output_size(said.transform)) or section.image_size
    size = (side, side) if isinstance(side, int) else tuple(side)
    below = 256 if pixels == "uint8" else None
    return Input("images", ("b", *size, section.channels), pixels, below)


def _tokens(model: Pretrained, batch: str) -> Input:
    length = data.text.length(model.text) if model.text else model.sections.text.length
    return Input("tokens", (batch, length), "int32", model.sections.text.vocabulary)


def _leaves(params: Any) -> list[tuple[str, Array]]:
    flat = jax.tree_util.tree_leaves_with_path(params)
    return [("/".join(entry.key for entry in path), leaf) for path, leaf in flat]


def _nested(flat: dict[str, Array]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path, leaf in flat.items():
        *above, name = path.split("/")
        node = tree
        for key in above:
            node = node.setdefault(key, {})
        node[name] = leaf
    return tree
