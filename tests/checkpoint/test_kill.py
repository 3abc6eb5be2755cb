"""A process killed at any moment of a save leaves its last finished checkpoint, to the bit."""

import subprocess
import sys
import textwrap

import pytest
from checkpoint.states import abstract, assert_same, make_small_state, spread

from big_vit_lite.checkpoint import Keeper, read_meta

# Kills itself, as `kill -9` does, when the saving thread gets to the moment given.
CHILD = """
    import os, shutil, signal, sys, time
    directory, moment, last = sys.argv[1], sys.argv[2], int(sys.argv[3])
    import jax
    jax.config.update("jax_num_cpu_devices", 8)
    from big_vit_lite.checkpoint import Keeper, arrays, manifest, meta
    from checkpoint.states import abstract, make_small_state, spread

    def die(*_, **__):
        os.kill(os.getpid(), signal.SIGKILL)

    def before(module, name, when=lambda *a: True):
        real = getattr(module, name)
        def patched(*args, **kwargs):
            if armed and when(*args):
                die()
            return real(*args, **kwargs)
        setattr(module, name, patched)

    armed = False
    if moment == "arrays":
        start = arrays.start_saving
        def start_and_die(*args):
            response = start(*args)
            if armed:
                die()
            return response
        arrays.start_saving = start_and_die
    elif moment == "meta":
        before(meta, "write")
    elif moment == "hashing":
        before(manifest, "_sha256", lambda path: path.name == "_METADATA")
    elif moment == "manifest":
        before(os, "replace", lambda source, target: str(target).endswith(manifest.NAME))
    elif moment == "revoke":
        before(manifest, "revoke")
    elif moment == "remove":
        before(shutil, "rmtree", lambda path, *_: path.name == str(last - 1))

    with Keeper(directory, keep=1) as keeper:
        if keeper.latest is not None:
            keeper.restore(abstract(spread(make_small_state(0), 4)))
        for step in range(last - 1, last + 1):
            armed = step == last
            keeper.save(step, spread(make_small_state(step), 4), {"config": "{}"})
            keeper.wait()
    raise SystemExit("was not killed")
"""


# Which of the two saves the next process finds: the second one counts once its manifest is there.
MOMENTS = {"arrays": 0, "meta": 0, "hashing": 0, "manifest": 0, "revoke": 1, "remove": 1}


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    path = tmp_path_factory.mktemp("child") / "child.py"
    path.write_text(textwrap.dedent(CHILD))
    return path


def run(script, directory, moment, last):
    return subprocess.run(
        [sys.executable, script, directory, moment, str(last)],
        env={"PYTHONPATH": ":".join(sys.path), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )


def test_killed_at_every_moment_of_a_save_one_after_the_other(script, tmp_path):
    """Each process goes on where the last one was killed, in the same directory."""
    last = 1
    for moment, survives in MOMENTS.items():
        last += 2
        done = run(script, tmp_path, moment, last)
        assert done.returncode == -9, f"{moment}: {done.stderr}"
        stands = last - 1 + survives
        assert read_meta(tmp_path)["step"] == stands, moment
        with Keeper(tmp_path) as keeper:
            read, _ = keeper.restore(abstract(spread(make_small_state(0), 8)))
            assert keeper.latest == stands, moment
        assert_same(read, make_small_state(stands))
        left = {path.name for path in tmp_path.glob("[!.]*")}
        assert left <= {str(last - 1), str(last)}, moment
        assert str(stands) in left
