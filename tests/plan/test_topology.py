"""Names of TPU slices, as people write them."""

import pytest

from big_vit_lite import config
from big_vit_lite.plan import topology
from big_vit_lite.plan.topology import Topology, parse


@pytest.mark.parametrize(
    ("text", "name", "chips", "devices"),
    [
        ("v5e:4x4", "v5e:4x4", 16, 16),
        ("v5e-16", "v5e:4x4", 16, 16),
        ("v5litepod-16", "v5e:4x4", 16, 16),
        ("V5E-256", "v5e:16x16", 256, 256),
        ("v5e-1", "v5e:1x1", 1, 1),
        ("v6e-256", "v6e:16x16", 256, 256),
        ("v6e-8", "v6e:2x4", 8, 8),
        # From here on the number counts cores, two a chip.
        ("v4-8", "v4:2x2x1", 4, 4),
        ("v4-32", "v4:2x2x4", 16, 16),
        ("v5p-128", "v5p:4x4x4", 64, 64),
        ("v3-8", "v3:2x2", 4, 8),
        ("v3-32", "v3:4x4", 16, 32),
        ("v2-8", "v2:2x2", 4, 8),
        ("v7x-8", "tpu7x:2x2x1", 4, 8),
        ("2xv5e-16", "2xv5e:4x4", 32, 32),
        ("4xv4:2x2x4", "4xv4:2x2x4", 64, 64),
    ],
)
def test_names(text, name, chips, devices):
    found = parse(text)
    assert (str(found), found.chips, found.devices) == (name, chips, devices)
    assert parse(str(found)) == found


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("v5e-17", "counts chips; the nearest are v5e-16 (v5e:4x4) and v5e-32 (v5e:4x8)"),
        ("v4-33", "counts cores, two a chip; the nearest are v4-32 (v4:2x2x4) and v4-64"),
        ("v5e:3x5", "no slice of v5e; the nearest are v5e-8 (v5e:2x4) and v5e-16 (v5e:4x4)"),
        ("v5e-100000", "the nearest is v5e-256 (v5e:16x16)"),
        ("2xv5e-17", "2xv5e-16 (2xv5e:4x4)"),
        ("v9-8", "of no known generation; known are v2, v3, v4, v5e, v5p, v6e, tpu7x"),
        ("2xv3-8", "v3 slices do not train together"),
        ("v5e16", "did you mean v5e-16"),
        ("gpu", "such as v5e:4x4, v5e-16, v4-32"),
    ],
)
def test_what_is_no_slice_is_told_the_nearest(text, said):
    with pytest.raises(ValueError) as error:
        parse(text)
    assert said in str(error.value)


def test_missing_libtpu_is_one_sentence_with_the_command(monkeypatch):
    monkeypatch.setattr(topology.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(config.InputError, match=r"needs libtpu.*pip install 'jax\[tpu\]==\d"):
        topology.devices(Topology("v5e", (4, 4)))
