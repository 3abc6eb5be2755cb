"""What is asked of JAX, XLA and the C library: cache, determinism, compiler options, memory."""

import ctypes
import os
import sys
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
    flag, flags = "--xla_gpu_deterministic_ops=true", os.environ.get("XLA_FLAGS", "")
    if deterministic and flag not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {flag}".strip()
    import jax

    jax.config.update("jax_compilation_cache_dir", str(cache_directory()))
    # What compiles faster is hardly slower than reading it back.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)


def compiler_options(mesh) -> dict[str, str]:
    """Options for compiling programs with gradients for a mesh's devices.

    On CPU, XLA takes optimisation barriers out before it merges equal expressions for the last
    time, which undoes `jax.checkpoint`. Leaving that pass out makes remat work: temporaries of a
    ViT-B/16 step at batch 8 fall from 1,609 to 656 MiB.
    """
    if mesh.devices.flat[0].platform != "cpu":
        return {}
    return {"xla_disable_hlo_passes": "cse_barrier_expander"}


def quick_compiler_options(mesh) -> dict[str, int]:
    """Options for compiling programs that run once, in place of those for the fastest program.

    On CPU the loops of random numbers keep LLVM busy: initialisation compiles 1.3 (ViT-B/16) to 3
    times (ResNets) sooner at level 1, and runs as fast. Its results keep every bit, which those of
    level 0 do not. A level in XLA_FLAGS holds.
    """
    level = "xla_backend_optimization_level"
    if mesh.devices.flat[0].platform != "cpu" or level in os.environ.get("XLA_FLAGS", ""):
        return {}
    return {level: 1}


def return_freed_memory() -> None:
    """Gives memory that is free in the C library's heap back to the system, where glibc is used.

    Compiling a ViT-B/16 step leaves 200 to 350 MiB there that nothing needs again.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
