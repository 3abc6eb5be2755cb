"""Published weights as the start of a run: `config.init` and its rules."""

import functools
import re
from collections.abc import Callable
from typing import Any

import jax

from big_vit_lite import checkpoint, config
from big_vit_lite.weights.agreement import check_agreement, naming_fields
from big_vit_lite.weights.hub import locate
from big_vit_lite.weights.known import read_known
from big_vit_lite.weights.loading import Loaded, load


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
    loaded = _loaded(run.init, run.init_layout, run.init_known).encoder()
    _check(run, loaded)
    arrays, named = _named(loaded)
    found = checkpoint.transfer_arrays(arrays, abstract_params, run.init_rules, resize, *named)
    _loaded.cache_clear()
    return found, f"{loaded.layout}, {_statistics(run, loaded)}"


def check_start(run: config.Run) -> None:
    """Raises InputError where the weights at `run.init` cannot be read, or compute otherwise."""
    _check(run, _loaded(run.init, run.init_layout, run.init_known).encoder())


def check_start_fits(run: config.Run, abstract_params: Any, resize: Callable) -> None:
    """Raises what `start_from` does of names and shapes, with the fields of the config that differ;
    for before anything is compiled."""
    loaded = _loaded(run.init, run.init_layout, run.init_known).encoder()
    arrays, named = _named(loaded)
    with naming_fields(run, loaded.sections):
        checkpoint.check_arrays(arrays, abstract_params, run.init_rules, resize, *named)


def _named(loaded: Loaded) -> tuple[dict[str, Any], tuple[str, dict[str, Any]]]:
    """Arrays by path, and what else checkpoint.transfer_arrays wants to know of them."""
    arrays = {"/".join(entry.key for entry in path): x for path, x in _leaves(loaded.params)}
    return arrays, (str(loaded.path), {"position_grid": loaded.sections.model.position_grid})


@functools.lru_cache(maxsize=1)
def _loaded(name: str, layout: str | None, known: str) -> Loaded:
    """Between the check before compiling and the start after it, the file is read once."""
    try:
        told = read_known(known) if known else None
    except ValueError as error:
        raise config.InputError(f"init_known = {known!r}: {error}") from None
    try:
        return load(locate(name), layout, told)
    except config.InputError as error:
        raise config.InputError(_KNOWN.sub(r"set init_known='\1=\2'", str(error))) from None


_KNOWN = re.compile(r'load it with known={"(\w+)": ([^}]*)}')
"""How errors of `load` ask for what a file does not say."""


def _check(run: config.Run, loaded: Loaded) -> None:
    names = ("/".join(entry.key for entry in path) for path, _ in _leaves(loaded.params))
    check_agreement(run, loaded.path, loaded.sections.model, loaded.sections.text, list(names))


def _leaves(params: Any) -> list[tuple[Any, Any]]:
    return jax.tree_util.tree_leaves_with_path(params)


def _statistics(run: config.Run, loaded: Loaded) -> str:
    """Whether pixels are normalised as the weights had them."""
    found = loaded.preprocessing
    if found is None:
        return "which do not say how pixels were normalised; "
    return normalisation(run.data, found)


def normalisation(ours: Any, theirs: Any) -> str:
    """Whether pixels are normalised alike by two holders of `mean` and `std`, a number or one a
    channel; the end of a line."""
    pairs = ((ours.mean, theirs.mean), (ours.std, theirs.std))
    if all(_spread(a) == _spread(b) for a, b in pairs):
        return "pixels normalised as theirs; "
    return (
        f"whose pixels had data.mean={theirs.mean} and data.std={theirs.std}, unlike this run's; "
    )


def _spread(values: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(values) if len(set(values)) > 1 else tuple(values)[:1]
