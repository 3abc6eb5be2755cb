"""Every test sees 8 CPU devices, so that meshes and shardings are exercised wherever it runs."""

import os
import tempfile

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Tests compile much and run little: leaving LLVM's optimisations out halves their time. It changes
# machine code only, not the program whose memory and collectives tests look at.
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=0"
# Commands that tests start find what others compiled, and the user's own cache stays as it is.
os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="big_vit_lite-xla-")

import gcs_emulator
import jax
import pytest

jax.config.update("jax_num_cpu_devices", 8)


@pytest.fixture(scope="session")
def store():
    """gs://bucket, held in memory; one for all tests, as clients remember where they found it."""
    with pytest.MonkeyPatch.context() as patch:
        held, address = gcs_emulator.serve()
        for name, value in gcs_emulator.environment(address).items():
            patch.setenv(name, value)
        yield held
