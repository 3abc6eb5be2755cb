"""This package's side of contrastive.py: one loss, its gradients to towers, scale and bias."""

import turns

options = turns.read_options()

import jax  # noqa: E402  (after the choice of cores)
import jax.numpy as jnp  # noqa: E402

from big_vit_lite import config, parallel  # noqa: E402
from big_vit_lite.losses import contrastive as losses  # noqa: E402
from big_vit_lite.parallel.runtime import compiler_options, return_freed_memory  # noqa: E402

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", options.devices)


def encode(x, tower):
    x = x @ tower
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


def loss(params, batch):
    features = (encode(batch[name], params[f"{name}_tower"]) for name in ("image", "text"))
    how = {"form": options.form, "chunk": options.chunk}
    if options.loss == "softmax":
        return losses.softmax_contrastive(*features, params["scale"], **how)
    return losses.sigmoid_contrastive(*features, params["scale"], params["bias"], **how)


def main() -> None:
    mesh = parallel.make_mesh(config.Mesh())
    given = turns.inputs(options)
    batch = {name: given.pop(name) for name in ("image", "text")}
    params = given | {"scale": jnp.float32(turns.SCALE[options.loss])}
    if options.loss == "sigmoid":
        params["bias"] = jnp.float32(turns.BIAS)
    with jax.set_mesh(mesh):
        batch = jax.device_put(batch, parallel.batch_sharding(mesh))
        params = jax.device_put(params, parallel.replicated(mesh))
        lowered = jax.jit(jax.value_and_grad(loss)).lower(params, batch)
        compiled = lowered.compile(compiler_options(mesh))
    return_freed_memory()

    def step() -> float:
        return float(jax.block_until_ready(compiled(params, batch))[0])

    facts = {
        "versions": {"jax": jax.__version__},
        "plan_mib": compiled.memory_analysis().temp_size_in_bytes / 2**20,
    }
    turns.serve(options, facts, step)


if __name__ == "__main__":
    main()
