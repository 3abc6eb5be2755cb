"""What travels with the arrays: meta.json, written beside them and covered by the manifest."""

import datetime
import importlib.metadata
import json
import math
import platform
from collections.abc import Mapping
from typing import Any

import jax

from big_vit_lite.checkpoint.manifest import Damage
from big_vit_lite.checkpoint.tree import Listing
from big_vit_lite.config import InputError
from big_vit_lite.storage import Place

NAME = "meta.json"
LIBRARIES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


def write(
    directory: Place,
    step: int,
    metrics: Mapping[str, float] | None,
    arrays: Listing,
    given: Mapping[str, Any],
) -> None:
    """Writes meta.json: step, time, versions, device, metrics, every array's dtype and shape, and
    what the caller gives (config text, seed, examples seen, wall seconds).

    Metrics that are no finite number are kept as null.
    """
    own = {
        "format": 1,
        "step": step,
        "saved_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": versions(),
        "device": {"kind": jax.devices()[0].device_kind, "count": jax.device_count()},
        "metrics": {
            key: float(value) if math.isfinite(value) else None
            for key, value in (metrics or {}).items()
        },
    }
    clash = given.keys() & {*own, "arrays"}
    if clash:
        raise ValueError(f"meta may not set {', '.join(sorted(clash))}: the checkpoint does")
    content = {**own, **given, "arrays": arrays}
    (directory / NAME).write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")


def read(directory: Place) -> dict[str, Any]:
    """The content of a checkpoint's meta.json.

    Raises:
        Damage: it is not there or is not JSON.
        InputError: it is of another format.
    """
    try:
        content = json.loads((directory / NAME).read_bytes())
    except FileNotFoundError:
        raise Damage(f"checkpoint {directory} is damaged: it has no {NAME}") from None
    except ValueError:
        raise Damage(f"checkpoint {directory} is damaged: {NAME} cannot be read") from None
    if not isinstance(content, dict) or content.get("format") != 1:
        raise InputError(
            f"checkpoint {directory} is of another format than 1, which is what this version reads"
        )
    return content


def arrays(content: Mapping[str, Any]) -> Listing:
    """The arrays that a checkpoint holds, from its meta."""
    return {k: (dtype, tuple(shape)) for k, (dtype, shape) in content["arrays"].items()}


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that a run's numbers depend on."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
