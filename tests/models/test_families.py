"""What SigLIP, CLIP and DINOv2 with registers have and ViT has not, against transformers' towers.

Recorded by tools/record_goldens.py with one layer and every leaf random.
"""

import pathlib

import jax
import numpy as np
import pytest
import recorded

from big_vit_lite import config, models
from big_vit_lite.weights import Sections

GOLDENS = pathlib.Path(__file__).parent / "goldens" / "families.npz"
HEADS, SIDE = 2, 12
SHAPE = {"variant": "mu/4", "width": 16, "depth": 1, "heads": HEADS}

FIELDS = {
    "siglip": {"mlp_dim": 24, "pool": "map", "activation": "tanh", "norm_eps": 1e-6},
    "clip": {
        "mlp_dim": 24,
        "activation": "quick",
        "norm_eps": 1e-5,
        "pre_norm": True,
        "patch_bias": False,
    },
    "dinov2": {
        "mlp_dim": 32,
        "activation": "erf",
        "norm_eps": 1e-6,
        "layer_scale": 1.0,
        "registers": 3,
        "position_resample": "cubic",
    },
}


LAYOUTS = {
    "siglip": "transformers-siglip",
    "clip": "transformers-clip",
    "dinov2": "transformers-dinov2-with-registers",
}


def error(family: str, **changes) -> float:
    with np.load(GOLDENS) as file:
        golden = {name.removeprefix(f"{family}/"): file[name] for name in file}
    own = Sections(config.Model(**(SHAPE | FIELDS[family])))
    tree = recorded.tree(golden, LAYOUTS[family], own, prefix="")
    section = config.Model(**(SHAPE | FIELDS[family] | changes))
    model = models.build_model(section, (SIDE, SIDE, 3), 0, "cpu")
    _, out = jax.jit(model.apply)({"params": tree}, golden["images"])
    ours = out["encoded"] if family == "dinov2" else out["pooled"]
    reference = golden["output"]
    assert ours.shape == reference.shape
    return float(np.abs(ours - reference).max() / np.abs(reference).max())


@pytest.mark.parametrize("family", ["siglip", "clip", "dinov2"])
def test_equal_to_the_recorded_tower(family):
    assert error(family) < 1e-5


@pytest.mark.parametrize(
    ("family", "change"),
    [
        ("siglip", {"activation": "erf"}),
        ("clip", {"activation": "erf"}),
        ("clip", {"pre_norm": False}),
        ("dinov2", {"layer_scale": None}),
        ("dinov2", {"position_resample": "cubic_torch"}),
    ],
    ids=str,
)
def test_the_nearest_wrong_tower_fails(family, change):
    assert error(family, **change) > 1e-4
