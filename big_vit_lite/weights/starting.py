"""Published weights as the start of a run: `config.init`, its rules, and what must agree."""

import functools
from collections.abc import Callable
from typing import Any

import jax

from big_vit_lite import checkpoint, config
from big_vit_lite.config import InputError
from big_vit_lite.weights.loading import Loaded, load

AGREE = (
    "activation", "norm_eps", "pre_norm", "patch_bias", "pool_norm", "class_position",
    "stem_norm_eps", "stem_standardize",
)  # fmt: skip
"""Fields of section `model` without which the same parameters compute something else."""


def start_from(
    run: config.Run, abstract_params: Any, resize: Callable
) -> tuple[checkpoint.Transferred, str]:
    """What the weights at `run.init` give to a model, and a line that says whose they are.

    Of masked autoencoders it is the encoder.

    Args:
        abstract_params: ShapeDtypeStructs with shardings, unrolled over depth.
        resize: as for checkpoint.transfer_params.

    Raises:
        InputError: the file cannot be read, does not fit after `run.init_rules`, or is of a model
            that computes otherwise.
    """
    loaded = _loaded(run.init).encoder()
    _check(run, loaded)
    flat = jax.tree_util.tree_leaves_with_path(loaded.params)
    arrays = {"/".join(entry.key for entry in path): x for path, x in flat}
    said = {"position_grid": loaded.sections.model.position_grid}
    found = checkpoint.transfer_arrays(
        arrays, abstract_params, run.init_rules, resize, str(loaded.path), said
    )
    _loaded.cache_clear()
    return found, f"{loaded.layout}, {_statistics(run, loaded)}"


def check_start(run: config.Run) -> None:
    """Raises InputError where the weights at `run.init` cannot be read, or compute otherwise."""
    _check(run, _loaded(run.init))


@functools.lru_cache(maxsize=1)
def _loaded(path: str) -> Loaded:
    """Between the check before compiling and the start after it, the file is read once."""
    return load(path)


def _check(run: config.Run, loaded: Loaded) -> None:
    theirs, ours = loaded.sections.model, run.model
    wrong = [
        f"model.{name} is {_show(getattr(ours, name))} and theirs {_show(getattr(theirs, name))}"
        for name in AGREE
        if getattr(ours, name) != getattr(theirs, name) and not _harmless(name, run)
    ]
    if (ours.layer_scale is None) != (theirs.layer_scale is None):
        wrong.append(f"model.layer_scale is {ours.layer_scale} and theirs {theirs.layer_scale}")
    if wrong and not theirs.variant.startswith("RN"):
        raise InputError(
            f"init: {loaded.path} was trained with another model: {'; '.join(wrong)}. Set these "
            "fields as theirs are: the same weights would compute something else."
        )


def _harmless(name: str, run: config.Run) -> bool:
    """A row of the position table for a class token means nothing without one."""
    return name == "class_position" and not run.model.has_class_token


def _show(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _statistics(run: config.Run, loaded: Loaded) -> str:
    """Whether pixels are normalised as the weights had them."""
    found = loaded.preprocessing
    if found is None:
        return "which do not say how pixels were normalised; "
    same = all(
        tuple(ours) in (theirs, theirs[:1]) and (len(ours) > 1 or len(set(theirs)) == 1)
        for ours, theirs in ((run.data.mean, found.mean), (run.data.std, found.std))
    )
    if same:
        return "pixels normalised as theirs; "
    return f"whose pixels had data.mean={found.mean} and data.std={found.std}, unlike this run's; "
