"""What is set once, before JAX's backend starts: compilation cache and determinism."""

import os
from pathlib import Path


def cache_directory() -> Path:
    """Where compiled programs are kept: $JAX_COMPILATION_CACHE_DIR or ~/.cache/big_vit_lite."""
    given = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    home = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser()
    return Path(given) if given else home / "big_vit_lite" / "xla"


def start(deterministic: bool = False) -> None:
    """Turns the persistent compilation cache on, and deterministic GPU kernels if asked.

    Call it before the first computation. A cache directory that cannot be written is no error: JAX
    then compiles anew.
    """
    if deterministic:
        flags = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = f"{flags} --xla_gpu_deterministic_ops=true".strip()
    import jax

    jax.config.update("jax_compilation_cache_dir", str(cache_directory()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
