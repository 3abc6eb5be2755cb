"""Steps whose loss or gradient is not finite: loss scaling for float16, and updates left out.

Small gradients vanish in float16, whose least number is 6e-8. Multiplying the loss by a scale lifts
them, and dividing the gradients by it afterwards is exact, as the scale is a power of two. The
largest scale that does not overflow is found by trial (Micikevicius 2018, section 3.2).
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

FIRST_SCALE = 2.0**15
GROWTH_STEPS = 2000
"""Good steps in a row after which the scale is tried at twice its size."""
MAX_SCALE = 2.0**100
"""Gradients that are all zero never overflow: twice of it for ever would be infinite."""


def first_scale() -> dict[str, Array]:
    """The state of loss scaling before any step."""
    return {"scale": jnp.float32(FIRST_SCALE), "good_steps": jnp.int32(0)}


def next_scale(state: dict[str, Array], finite: Bool[Array, ""]) -> dict[str, Array]:
    """Half the scale, at least 1, after an overflow; twice the scale after 2000 steps without."""
    good_steps = jnp.where(finite, state["good_steps"] + 1, 0)
    grows = good_steps == GROWTH_STEPS
    grown = jnp.where(grows, jnp.minimum(state["scale"] * 2, MAX_SCALE), state["scale"])
    shrunk = jnp.maximum(state["scale"] / 2, 1.0)
    return {
        "scale": jnp.where(finite, grown, shrunk),
        "good_steps": jnp.where(grows, 0, good_steps),
    }


def is_overflow(
    scale: Float[Array, ""], loss: Float[Array, ""], grad_norm: Float[Array, ""]
) -> Bool[Array, ""]:
    """Whether a smaller scale would help: the loss itself is finite, and there is one."""
    return jnp.isfinite(loss) & ~jnp.isfinite(grad_norm) & (scale > 1)


def update_where(finite: Bool[Array, ""], new: dict[str, Any], old: dict[str, Any]):
    """The state `new`, or `old` with nothing but its step counted."""
    kept = jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, {key: old[key] for key in new})
    return kept | {"step": new["step"]}
