"""Learning-rate schedules as plain functions of the step.

All warm up linearly: step s (0-based) of a warm-up over w steps has rate lr * (s + 1) / w, so that
the first step already moves and step w - 1 is the first at the full rate.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

Schedule = Callable[[jax.Array], jax.Array]


def cosine(progress: jax.Array, end: float) -> jax.Array:
    """1 at progress 0, `end` at 1, half a cosine between (Loshchilov 2017, no restarts)."""
    return end + (1.0 - end) * 0.5 * (1.0 + jnp.cos(jnp.pi * progress))


def linear(progress: jax.Array, end: float) -> jax.Array:
    """1 at progress 0, `end` at 1."""
    return 1.0 + (end - 1.0) * progress


def make_schedule(
    kind: str,
    lr: float,
    total: int,
    *,
    warmup: int = 0,
    cooldown: int = 0,
    timescale: int = 10_000,
    end_lr: float = 0.0,
    begin: int = 0,
) -> Schedule:
    """The learning rate as a function of the 0-based step.

    Args:
        kind: cosine or linear (from `lr` after warm-up to `end_lr * lr` at `total`), rsqrt
            (`lr / sqrt(1 + (step - warmup) / timescale)`, Zhai 2022) or constant.
        total: steps of the whole run.
        cooldown: last steps, in which the rate falls linearly to `end_lr` times what it was.
        end_lr: fraction of `lr` at the end.
        begin: first step; before it the rate is 0.
    """

    length = total - begin

    def shape(step: jax.Array) -> jax.Array:
        after = jnp.maximum(step - warmup, 0.0)
        if kind in ("cosine", "linear"):
            progress = jnp.clip(after / max(length - warmup, 1), 0.0, 1.0)
            return (cosine if kind == "cosine" else linear)(progress, end_lr)
        if kind == "rsqrt":
            return jax.lax.rsqrt(1.0 + after / timescale)
        if kind == "constant":
            return jnp.ones_like(after)
        raise ValueError(f"schedule {kind!r} is not one of cosine, linear, rsqrt, constant.")

    def schedule(step: jax.Array) -> jax.Array:
        step = jnp.asarray(step, jnp.float32) - begin
        rate = lr * shape(step)
        if warmup:
            rate *= jnp.minimum(1.0, (step + 1.0) / warmup)
        if cooldown:
            left = jnp.clip((length - step) / cooldown, 0.0, 1.0)
            rate *= end_lr + (1.0 - end_lr) * left
        return jnp.where(step < 0, 0.0, rate) if begin else rate

    return schedule
