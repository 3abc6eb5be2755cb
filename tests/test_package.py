"""What the package promises: its import contracts, its cost to import, no TensorFlow."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CHILDREN = ("children_user", "children_system")
"""Processor times in os.times(), which other processes on the machine change little."""


def run_python(code: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, **options
    )


def test_imports_go_one_way():
    lint = Path(sys.executable).parent / "lint-imports"
    done = subprocess.run([lint], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def test_import_costs_little_beyond_jax():
    code = "import time, jax; t = time.process_time(); import {}; print(time.process_time() - t)"
    # Processor time, best of three: about our imports, not about a cold disk or a busy machine.
    for module, limit in (("big_vit_lite", 0.1), ("big_vit_lite.train", 1.5)):
        seconds = min(float(run_python(code.format(module), cwd=ROOT).stdout) for _ in range(3))
        assert seconds < limit, f"import {module} took {seconds:.2f} s beyond jax"


def test_help_answers_quickly():
    command = [sys.executable, "-m", "big_vit_lite.train", "--help"]
    seconds = []
    for _ in range(3):
        before = os.times()
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
        after = os.times()
        user, system = (getattr(after, x) - getattr(before, x) for x in CHILDREN)
        seconds.append(user + system)
        assert done.returncode == 0 and "optim.lr" in done.stdout
    assert min(seconds) < 4


@pytest.fixture
def fake_tensorflow(tmp_path):
    """A tensorflow that can be imported, so that an import of it by anybody would succeed."""
    (tmp_path / "tensorflow").mkdir()
    (tmp_path / "tensorflow" / "__init__.py").write_text("__version__ = '2.99'\n")
    return tmp_path


def test_training_never_imports_tensorflow_though_it_is_installed(fake_tensorflow, tmp_path):
    code = f"""
import sys; sys.path.insert(0, {str(fake_tensorflow)!r})
from big_vit_lite.train import main
line = ["--config", "configs/quickstart.py:tiny", "--workdir", {str(tmp_path / "run")!r}]
status = main([*line, "--config.steps=2", "--config.model.depth=1"])
import importlib.util
assert importlib.util.find_spec("tensorflow") is not None
heavy = ("tensorflow", "torch", "transformers")
print(status, [m for m in sys.modules if m.split(".")[0] in heavy or m == "flax.training"])
"""
    done = run_python(code, cwd=ROOT)
    assert done.stdout.strip().splitlines()[-1] == "0 []", done.stdout[-2000:] + done.stderr[-2000:]


def test_public_names_load():
    import big_vit_lite

    for name in big_vit_lite.__all__:
        assert getattr(big_vit_lite, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = big_vit_lite.nonsense


def twice(folder, *more: str) -> list[tuple[float, set[str]]]:
    """Seconds to the first step by the clock, and the programs kept then, of two starts."""
    # The defaults are what is tested, not what conftest.py sets to compile fast.
    ours = ("JAX_COMPILATION_CACHE_DIR", "XLA_FLAGS")
    environment = {k: v for k, v in os.environ.items() if k not in ours}
    environment["XDG_CACHE_HOME"] = str(folder)
    command = [sys.executable, "-m", "big_vit_lite.train", "--config", "configs/quickstart.py"]
    found = []
    for name in ("first", "second"):
        done = subprocess.run(
            [*command, *more, "--config.steps=1", "--workdir", str(folder / name)],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        line = next(line for line in done.stderr.splitlines() if "step 1 done" in line)
        kept = {path.name for path in (folder / "big_vit_lite" / "xla").glob("*-cache")}
        found.append((float(line.split("[")[1].split("s]")[0]), kept))
    return found


def test_second_start_finds_compiled_programs(tmp_path):
    tiny = ("--config.model.depth=1", "--config.model.width=32", "--config.model.mlp_dim=64")
    first, second = (
        {name for name in kept if name.startswith("jit_step")} for _, kept in twice(tmp_path, *tiny)
    )
    assert len(first) == 1 and second == first


@pytest.mark.slow  # the clock: on a machine that does nothing else, 28 s and then 10 s
def test_second_start_is_at_its_first_step_soon(tmp_path):
    first, second = (seconds for seconds, _ in twice(tmp_path))
    assert second < 6 and second < first
