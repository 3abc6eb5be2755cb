"""Training states with every kind of leaf, for the tests of checkpoints."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P


def make_state(seed: int = 0, depth: int = 2, width: int = 16) -> dict:
    """A state as training makes it: clip, masked adamw, an average, counters, a key, bfloat16."""
    import optax

    rng = np.random.default_rng(seed)

    def draw(*shape):
        return jnp.asarray(rng.standard_normal(shape), jnp.float32)

    blocks = {
        f"encoderblock_{i}": {"Dense_0": {"kernel": draw(width, 4 * width), "bias": draw(width)}}
        for i in range(depth)
    }
    params = {"Transformer": blocks, "head": {"kernel": draw(width, 8), "bias": draw(8)}}
    decayed = jax.tree.map(lambda x: x.ndim > 1, params)
    chain = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.scale_by_adam(mu_dtype=jnp.bfloat16),
        optax.add_decayed_weights(0.1, decayed),
        optax.masked(optax.trace(0.9), decayed),
        optax.scale_by_learning_rate(optax.linear_schedule(1e-3, 0.0, 10)),
    )
    opt_state = chain.init(params)
    _, opt_state = chain.update(jax.tree.map(lambda x: 0.3 * x, params), opt_state, params)
    return {
        "step": jnp.int32(seed),
        "params": params,
        "opt_state": opt_state,
        "ema": jax.tree.map(lambda x: 0.999 * x, params),
        "rng": jnp.array([seed, 7], jnp.uint32),
        "teacher": None,
        "empty": (jnp.zeros((0, 3)), {}),
    }


def make_small_state(step: int) -> dict:
    """A state that is made in no time, for processes that are about to be killed."""
    rng = np.random.default_rng(step)
    return {
        "step": np.int32(step),
        "params": {f"w{i}": rng.standard_normal((64, 64), np.float32) for i in range(3)},
        "opt_state": ({"mu": rng.standard_normal(8).astype(jnp.bfloat16)}, ()),
    }


def spread(state, devices: int):
    """The state over a mesh of the first devices, split along every first axis that divides."""
    mesh = jax.make_mesh((devices,), ("fsdp",), axis_types=(AxisType.Auto,),
                         devices=jax.devices()[:devices])  # fmt: skip

    def place(x):
        split = x.ndim and x.shape[0] and x.shape[0] % devices == 0
        return jax.device_put(x, NamedSharding(mesh, P("fsdp") if split else P()))

    return jax.tree.map(place, state)


def abstract(state):
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )


def assert_same(a, b) -> None:
    """Same structure, dtypes, shapes, and bits."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for (path, x), y in zip(
        jax.tree_util.tree_flatten_with_path(a)[0], jax.tree.leaves(b), strict=True
    ):
        assert (x.dtype, x.shape) == (y.dtype, y.shape), path
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes(), path


def biggest_file(directory: Path) -> Path:
    return max((p for p in directory.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
