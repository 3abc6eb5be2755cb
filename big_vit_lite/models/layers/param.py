"""Parameters of modules, without the milliseconds that looking at one takes in Flax."""

import flax.linen as nn
import numpy as np
from flax.errors import ScopeParamShapeError
from jaxtyping import Array, Float

Initializer = nn.initializers.Initializer


def param(
    module: nn.Module, name: str, init: Initializer, shape: tuple[int, ...]
) -> Float[Array, "..."]:
    """`module.param(name, init, shape)`, which traces `init` for its shape each time that a model
    is applied: two milliseconds a parameter, as long as all else of an eager layer.

    Raises:
        flax.errors.ScopeParamShapeError: the value that is given has another shape.
    """
    if not module.has_variable("params", name):
        return module.param(name, init, shape)
    value = module.get_variable("params", name)
    if np.shape(value) != tuple(shape):
        path = module.scope.path_text if module.scope is not None else ""
        raise ScopeParamShapeError(name, path, np.shape(value), tuple(shape))
    return value
