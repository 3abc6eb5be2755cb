"""Every test sees 8 CPU devices, so that meshes and shardings are exercised wherever it runs."""

import atexit
import gc
import importlib.metadata
import os
import shutil
import tempfile
from pathlib import Path

import pytest

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Tests compile much and run little: leaving LLVM's optimisations out halves their time, one module
# for each program and, where jaxlib can do without, no MLIR for each fusion halve it again. All
# three change machine code only, not the program whose memory and collectives tests look at.
FLAGS = ["--xla_backend_optimization_level=0", "--xla_cpu_parallel_codegen_split_count=1"]
if importlib.metadata.version("jaxlib").startswith("0.10."):  # later ones end at a flag they lack
    FLAGS.append("--xla_cpu_use_fusion_emitters=false")
if "PYTEST_XDIST_WORKER" not in os.environ:  # workers have these from the process that starts them
    os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *FLAGS])
    # Tests and the commands they start find what others compiled; the user's cache stays as it is.
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="big_vit_lite-xla-")
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)

TESTS = Path(__file__).parent


def pytest_configure(config):
    worker = hasattr(config, "workerinput")
    given = {name: config.getoption(name, None) for name in ("dist", "tx", "collectonly")}
    if given["tx"] and given["dist"] != "no" and not given["collectonly"]:
        return  # it starts workers and runs no test: they need not wait until it has loaded JAX
    import jax

    jax.config.update("jax_num_cpu_devices", 8)
    # What is traced stays in JAX's caches: collections that look at all of it again and again are
    # a tenth of a worker's time.
    gc.set_threshold(100_000, 20, 20)
    if worker:  # JAX would take two seconds to clear them; what is registered later still runs
        atexit.register(os._exit, 0)


# Workers take whole files: the longest go first, so that none is left for the end.
LONGEST = (
    "test_train.py",
    "test_configs.py",
    "test_docs.py",
    "parallel/test_training.py",
    "parallel/test_equal.py",
    "test_package.py",
    "robustness/test_two_processes.py",
    "test_train_pairs.py",
    "tasks/test_contrastive.py",
    "weights/test_parity.py",
    "test_multihost.py",
    "robustness/test_kill.py",
    "models/test_clip.py",
    "colabs/test_quickstart.py",
    "colabs/test_clip.py",
    "robustness/test_store.py",
    "losses/test_contrastive.py",
    "tools/test_precompute_features.py",
)


def pytest_collection_modifyitems(items):
    ranks = {TESTS / name: rank for rank, name in enumerate(LONGEST)}
    items.sort(key=lambda item: ranks.get(item.path, len(ranks)))


@pytest.fixture(scope="session", autouse=True)
def undrawn():
    """Runs within a test draw no curve, which takes half a second each; commands that a test starts
    do, and whoever asks for `drawn`."""
    from big_vit_lite import report

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "curve", lambda workdir: None)
        yield


@pytest.fixture(scope="module")
def drawn(undrawn):
    from big_vit_lite import report
    from big_vit_lite.report import figures

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "curve", figures.curve)
        yield


@pytest.fixture(scope="session")
def store():
    """gs://bucket, held in memory; one for all tests, as clients remember where they found it."""
    import gcs_emulator

    with pytest.MonkeyPatch.context() as patch:
        held, address = gcs_emulator.serve()
        for name, value in gcs_emulator.environment(address).items():
            patch.setenv(name, value)
        yield held
