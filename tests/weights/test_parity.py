"""Every layout: files as their source writes them, outputs equal, the nearest wrong model not."""

import pytest
from weights import parity

NAMES = sorted(path.stem for path in parity.GOLDENS.glob("*.npz"))


@pytest.mark.parametrize("name", NAMES)
def test_equal(name):
    arrays, loaded = parity.golden(name), parity.loaded(name)
    for case in parity.cases(arrays):
        found = parity.errors(loaded.sections, loaded.params, arrays, case)
        print(name, case, {k: f"{v:.1e}" for k, v in found.items()})
        assert max(found.values()) < parity.SAME, (case, found)
