"""Blocks over the stages of a pipeline: GPipe (Huang 2019) by shard_map and ppermute.

Each device of the mesh axis `stage` holds an equal run of the blocks. The batch is cut into parts;
at every tick each stage computes its blocks for one part and hands the tokens to the next stage.
With S stages and M parts it takes M + S - 1 ticks, in S - 1 of which a stage has nothing to do:
the bubble is (S - 1) / (M + S - 1) of the time. The gradient is JAX's own and takes the same way
back. Over all other mesh axes XLA goes on to partition by itself.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Key

from big_vit_lite.config import InputError
from big_vit_lite.models.layers.noise import PartKey
from big_vit_lite.parallel import BATCH, axis_size

Tokens = Float[Array, "b n d"]


def in_stages(model: nn.Module, parts: int) -> nn.Module:
    """The same model, scanned and with batches cut into `parts` when the mesh has stages.

    Raises:
        InputError: it has no Transformer blocks.
    """
    for names in (("img", "txt"), ("encoder", "decoder")):
        if hasattr(model, names[0]):
            return model.clone(**{name: in_stages(getattr(model, name), parts) for name in names})
    if not hasattr(model, "block"):
        raise InputError(
            f"mesh.stage splits Transformer blocks, and {type(model).__name__} has none: leave "
            "mesh.stage 1."
        )
    return model.clone(scan=True, block=dataclasses.replace(model.block, microbatches=parts))


def bubble(stages: int, parts: int) -> float:
    """Share of the time in which a stage stands idle."""
    return (stages - 1) / (parts + stages - 1)


def pipeline(
    block: Callable[[Any, Tokens, tuple, Array | None], Tokens],
    params: Any,
    x: Tokens,
    keys: Key[Array, "depth"] | None,
    rates: Float[Array, "depth"] | None,
    mask: Array | None,
    parts: int,
    tokens: int | None = None,
) -> Tokens:
    """The output of all blocks, one after the other, as a scan over depth would give it.

    Args:
        block: (parameters of one layer, tokens, (key, rate) of noise, mask) -> tokens.
        params: of all layers, with a leading axis of depth that divides by the stages.
        keys, rates: a layer's noise each, as the whole batch would draw it. None for none.
        mask: (b, ...) or (1, ...), or None.
        parts: into which the batch is cut; fewer where it does not divide, which is slower only.
        tokens: how many of x are real, None for all.
    """
    stages = axis_size("stage")
    ways = axis_size("data") * axis_size("fsdp")
    parts = math.gcd(len(x) // ways, parts) if len(x) % ways == 0 else 1
    impl = None if keys is None else jax.random.key_impl(keys)
    layers = (params, None if keys is None else jax.random.key_data(keys), rates)
    masks = None if mask is None else jnp.broadcast_to(mask, (len(x), *mask.shape[1:]))

    def cut(y: Array) -> Array:
        """Rows j, j + parts, ... as part j: no row moves between devices."""
        y = jnp.moveaxis(y.reshape(-1, parts, *y.shape[1:]), 1, 0)
        return jax.lax.with_sharding_constraint(y, P(None, BATCH)) if len(x) % ways == 0 else y

    def run(layers, batch):
        stage = jax.lax.axis_index("stage")
        x_parts, mask_parts = batch

        def tick(x: Tokens, t: Array) -> tuple[Tokens, Tokens]:
            part = jnp.clip(t - stage, 0, parts - 1)  # before and after, what comes out is unused
            x = jnp.where(stage == 0, x_parts[part], x)
            mask = None if mask_parts is None else mask_parts[part]

            def layer(x: Tokens, own: tuple) -> tuple[Tokens, None]:
                weights, key, rate = own
                if key is not None:
                    key = PartKey(jax.random.wrap_key_data(key, impl=impl), part, parts, tokens)
                return block(weights, x, (key, rate), mask), None

            x, _ = jax.lax.scan(layer, x, layers)
            onward = [(i, i + 1) for i in range(stages - 1)]
            return jax.lax.ppermute(x, "stage", onward), x

        first = jax.lax.pcast(jnp.zeros_like(x_parts[0]), ("stage",), to="varying")
        _, seen = jax.lax.scan(tick, first, jnp.arange(parts + stages - 1))
        return seen[None, stages - 1 :]

    batch = jax.tree.map(cut, (x, masks))
    spec = jax.shard_map(
        run, in_specs=(P("stage"), P()), out_specs=P("stage"), axis_names={"stage"}
    )
    done = spec(layers, batch)[-1]  # what the last stage has
    return jnp.moveaxis(done, 0, 1).reshape(x.shape)
