"""Reading checkpoints, whole or in part; nothing here writes or removes anything.

So a checkpoint of a run that is still going can be evaluated beside it.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from big_vit_lite import storage
from big_vit_lite.checkpoint import arrays, manifest, meta, tree
from big_vit_lite.config import InputError
from big_vit_lite.parallel import by_first
from big_vit_lite.storage import Place

T = TypeVar("T")


def committed(directory: Place) -> list[int]:
    """Steps of the finished checkpoints in a checkpoints/ directory, ascending."""
    if not directory.is_dir():
        return []
    names = (path.name for path in directory.iterdir())
    steps = (int(name) for name in names if name.isdecimal() and name == str(int(name)))
    return sorted(step for step in steps if manifest.is_committed(directory / str(step)))


def latest(directory: Place) -> int | None:
    """The step of the latest finished checkpoint in a checkpoints/ directory, None without one.

    Its files are compared with the manifest by name and size, without being read: what is known at
    once should not come up only when the checkpoint is loaded.

    Raises:
        InputError: one is missing, left over or of another size, as `verify` says it.
    """
    steps = committed(directory)
    if not steps:
        return None
    _or_way_out(manifest.check_sizes, directory / str(steps[-1]))
    return steps[-1]


def find(path: str | Place) -> Place:
    """The directory of one step for a run's workdir, its checkpoints/, or a step's directory.

    The first two stand for their latest checkpoint.

    Raises:
        InputError: if there is no finished checkpoint, or it cannot be looked for.
    """
    try:
        return _find(storage.place(path))
    except InputError:
        raise
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: {error}") from None


def _find(path: Place) -> Place:
    if not path.is_dir():
        raise InputError(f"{path} does not exist; give a run's --workdir or one of its checkpoints")
    if manifest.is_committed(path):
        return path
    for directory in (path, path / "checkpoints"):
        if steps := committed(directory):
            return directory / str(steps[-1])
    raise InputError(
        f"{path} holds no finished checkpoint; give a run's --workdir, its checkpoints/ or one "
        f"step in it (a finished one holds {manifest.NAME})"
    )


def read_meta(path: str | Place) -> dict[str, Any]:
    """What was stored with a checkpoint: step, config, versions, metrics, examples seen, arrays.

    Args:
        path: as for `find`.

    Raises:
        InputError: as `find`; meta.json is damaged (saying which older checkpoint is sound) or of
            another format.
    """
    return _or_way_out(meta.read, find(path))


def load_params(
    path: str | Place, abstract_params: Any, which: str = "params"
) -> tuple[Any, dict[str, Any]]:
    """The parameters of a checkpoint alone; the optimiser's share is not read into memory.

    Args:
        path: as for `find`.
        abstract_params: ShapeDtypeStructs (with the shardings wanted), unrolled over depth.
        which: "params", or "ema" for their running average.

    Returns:
        (params, meta).

    Raises:
        InputError: if there is no checkpoint, it is damaged, or does not fit, saying how.
    """
    directory = find(path)
    verify(directory)
    stored = _or_way_out(meta.read, directory)
    held = tree.part(meta.arrays(stored), which)
    if not held:
        reason = " (its run kept none: optim.ema was not set)" if which == "ema" else ""
        raise InputError(f"checkpoint {directory} holds no {which}{reason}")
    wanted = tree.flatten(abstract_params)
    tree.check_fits(held, tree.listing(wanted), f"checkpoint {directory} ({which})")
    loaded = arrays.load(directory, {f"{which}/{name}": leaf for name, leaf in wanted.items()})
    return tree.unflatten(tree.part(loaded, which), abstract_params), stored


def load_state(directory: Place, abstract_state: Any) -> tuple[Any, dict[str, Any]]:
    """The whole state of one step's directory, in the abstract state's structure and shardings.

    Returns:
        (state, meta).

    Raises:
        InputError: if the checkpoint is damaged or does not fit, saying how.
    """
    verify(directory)
    stored = _or_way_out(meta.read, directory)
    wanted = tree.flatten(abstract_state)
    tree.check_fits(meta.arrays(stored), tree.listing(wanted), f"checkpoint {directory}")
    return tree.unflatten(arrays.load(directory, wanted), abstract_state), stored


def verify(directory: Place) -> None:
    """As `manifest.verify`, and says in the error which older checkpoint is sound.

    Of several processes, the first reads the files for all; all must call.
    """
    by_first("verify", lambda: _or_way_out(manifest.verify, directory))


def _or_way_out(read: Callable[[Place], T], directory: Place) -> T:
    """What `read` finds in a step's directory; damage is told of with what to do about it."""
    try:
        return read(directory)
    except manifest.Damage as error:
        raise InputError(f"{error}; {_way_out(directory)}") from None


def _way_out(damaged: Place) -> str:
    older = committed(damaged.parent) if damaged.name.isdecimal() else []
    for step in reversed([step for step in older if step < int(damaged.name)]):
        candidate = damaged.parent / str(step)
        try:
            manifest.verify(candidate)
        except InputError:
            continue
        return f"{candidate} is whole: remove {damaged} to go on from step {step}"
    return (
        "there is no older checkpoint to go on from: the run has to start anew, "
        "in another --workdir"
    )


def metrics_of(directory: Place) -> Mapping[str, float | None]:
    """The metrics stored with a checkpoint; none of them if its meta.json is damaged."""
    try:
        return meta.read(directory).get("metrics", {})
    except InputError:
        return {}
