"""Parameters of modules: looked at quickly where they are, deferred where all are drawn at once.

Looking at one takes Flax milliseconds, since it traces the initialiser for its shape. Drawing them
while a model is applied compiles the model as well, and a loop for the key of each.
"""

import contextlib
import hashlib
from collections import Counter
from collections.abc import Iterator
from contextvars import ContextVar
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from flax.errors import ScopeParamShapeError
from jaxtyping import Array, Float

Initializer = nn.initializers.Initializer


class DeferredParam(NamedTuple):
    """How a parameter is drawn: `init(key, shape)`, the key being fold_in(the model's, `fold`)."""

    init: Initializer
    shape: tuple[int, ...]
    fold: int


Deferred = dict[tuple[str, ...], DeferredParam]  # by the path of names
_deferred: ContextVar[tuple[Deferred, Counter] | None] = ContextVar("deferred", default=None)


@contextlib.contextmanager
def deferred_init() -> Iterator[Deferred]:
    """Parameters that a model lacks when it is applied in here are listed, and zeros for it."""
    deferred: Deferred = {}
    token = _deferred.set((deferred, Counter()))
    try:
        yield deferred
    finally:
        _deferred.reset(token)


def param(
    module: nn.Module, name: str, init: Initializer, shape: tuple[int, ...]
) -> Float[Array, "..."]:
    """`module.param(name, init, shape)`, which traces `init` for its shape each time that a model
    is applied: two milliseconds a parameter, as long as all else of an eager layer.

    Raises:
        flax.errors.ScopeParamShapeError: the value that is given has another shape.
    """
    if not module.has_variable("params", name):
        if _deferred.get() is None:
            return module.param(name, init, shape)
        return _defer(module, name, init, shape)
    value = module.get_variable("params", name)
    if np.shape(value) != tuple(shape):
        path = module.scope.path_text if module.scope is not None else ""
        raise ScopeParamShapeError(name, path, np.shape(value), tuple(shape))
    return value


def _defer(module: nn.Module, name: str, init: Initializer, shape: tuple[int, ...]) -> Array:
    deferred, counts = _deferred.get()
    counts[module.path] += 1
    fold = _fold(module.path, counts[module.path])
    deferred[(*module.path, name)] = DeferredParam(init, tuple(shape), fold)
    value = jnp.zeros(shape)
    module.put_variable("params", name, value)
    return value


def _fold(path: tuple[str, ...], count: int) -> int:
    """What Flax folds into the key of the `count`-th parameter of a module: part of every run's
    result, and so never to change."""
    digest = hashlib.sha1("".join(path).encode())
    digest.update(count.to_bytes((count.bit_length() + 7) // 8, "big"))
    return int.from_bytes(digest.digest()[:4], "big")
