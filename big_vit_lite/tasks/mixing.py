"""Mixing of examples on the device, inside the step."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def mixup(
    images: Float[Array, "b h w c"],
    targets: Float[Array, "b classes"],
    alpha: float,
    key: jax.Array,
) -> tuple[Float[Array, "b h w c"], Float[Array, "b classes"]]:
    """x = λ x_i + (1-λ) x_j and likewise the targets, λ ~ Beta(alpha, alpha) (Zhang 2018).

    One λ a batch; the partner is the next example of the global batch, so the result does not
    depend on the mesh. λ is taken as max(λ, 1-λ): the pairs are ordered, hence the distribution of
    mixed examples is the same, and an example always keeps the larger share.
    """
    if alpha <= 0:
        return images, targets
    share = jax.random.beta(key, alpha, alpha)
    share = jnp.maximum(share, 1.0 - share)

    def mix(x):
        return share * x + (1.0 - share) * jnp.roll(x, 1, axis=0)

    return mix(images), mix(targets)
