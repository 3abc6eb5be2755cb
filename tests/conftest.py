"""Every test sees 8 CPU devices, so that meshes and shardings are exercised wherever it runs."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax

jax.config.update("jax_num_cpu_devices", 8)
