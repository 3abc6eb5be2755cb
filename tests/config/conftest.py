"""A small valid config, as a dict, a file and a Run."""

import pytest

from big_vit_lite import config

FILE = '''"""What this config is for."""

import ml_collections as mlc

from big_vit_lite.config import parse_arg


def get_config(arg=None):
    arg = parse_arg(arg, variant="mu/2", tiny=False, seed=0)
    digits = dict(source="digits", transform="decode(channels=1)")
    config = mlc.ConfigDict()
    config.steps = 4 if arg.tiny else 100
    config.seed = arg.seed
    config.model = dict(variant=arg.variant, channels=1)
    config.data = dict(batch_size=8, train=dict(digits, part="[:80%]"))
    config.data.val = dict(digits, part="[80%:]")
    config.evals = dict(val=dict(every="2 epochs"))
    return config
'''


@pytest.fixture
def values():
    """A valid config as nested dicts."""
    digits = {"source": "digits", "transform": "decode(channels=1)"}
    return {
        "steps": 100,
        "model": {"variant": "mu/2", "channels": 1},
        "data": {"batch_size": 8, "train": dict(digits), "val": dict(digits)},
        "evals": {"val": {"every": "2 epochs"}},
    }


@pytest.fixture
def file(tmp_path):
    """The same as a config file."""
    path = tmp_path / "small.py"
    path.write_text(FILE)
    return path


@pytest.fixture
def make_run(values):
    """Builds the run, top-level fields replaced."""
    return lambda **changes: config.Run(**{**values, **changes})
