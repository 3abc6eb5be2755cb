"""Records what transformers and timm say about images, for the data tests to compare with.

    python tools/record_data_goldens.py            # writes tests/data/goldens/patchify.npz

Needs torch, transformers and timm, which are no requirements of this package. Every file holds the
versions it was made with.
"""

import argparse
import pathlib
from importlib.metadata import version

import numpy as np

GOLDENS = pathlib.Path(__file__).parent.parent / "tests" / "data" / "goldens"
SIDES = (1, 7, 15, 16, 17, 100, 224, 333, 640, 1000, 1001, 4032, 20_000)
BUDGETS = (1, 2, 49, 64, 196, 256, 576, 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, default=GOLDENS, help="folder to write to")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        out / "patchify.npz",
        **{"fitted": record_fitted(), "naflex": record_naflex()},
        **{f"origin/{name}": version(name) for name in ("transformers", "timm")},
    )


def record_fitted() -> np.ndarray:
    """Rows (height, width, patch, budget, and SigLIP 2's height and width)."""
    from transformers.models.siglip2.image_processing_pil_siglip2 import (
        get_image_size_for_max_num_patches,
    )

    rows = [
        (height, width, patch, budget)
        for height in SIDES
        for width in SIDES
        for patch in (14, 16)
        for budget in BUDGETS
    ]
    return np.array([row + get_image_size_for_max_num_patches(*row) for row in rows], np.int32)


def record_naflex() -> np.ndarray:
    """Rows (height, width, patch height and width, budget, and timm's height and width)."""
    from timm.data.naflex_transforms import get_image_size_for_seq

    rng = np.random.default_rng(0)
    rows = []
    for height, width in rng.integers(20, 2000, (200, 2)).tolist():
        patch, budget = tuple(rng.integers(4, 33, 2).tolist()), int(rng.integers(16, 1025))
        _, size = get_image_size_for_seq((height, width), patch, budget)
        rows.append((height, width, *patch, budget, *size))
    return np.array(rows, np.int32)


if __name__ == "__main__":
    main()
