"""Records what the source libraries compute with weights in their own files.

    python tools/record_weights                  # writes tests/weights/goldens/*.npz
    python tools/record_weights --check          # compares with what is there
    python tools/record_weights --only L11-clip

Needs torch, transformers, timm, open_clip_torch and torchvision, which are no requirements of this
package. Models are tiny, and random in every leaf. Every golden holds the files as the library
writes them (file/NAME), inputs and outputs (CASE/NAME), the libraries' versions, and the SHA-256 of
the script of this folder that made it; a test fails when they part.
"""

import argparse
import importlib.util
import pathlib
import sys

import numpy as np
from common import GOLDENS, open_torchvision, origin

TOLERANCE = 1e-5


def records() -> dict:
    """{name of a golden: the function that makes it}."""
    open_torchvision()
    import classifier_models
    import hybrid_models
    import mae_models
    import naflex_models
    import npz_models
    import open_clip_models
    import timm_models
    import transformers_models

    modules = (
        transformers_models, timm_models, open_clip_models, npz_models, mae_models, naflex_models,
        hybrid_models, classifier_models,
    )  # fmt: skip
    return {name: record for module in modules for name, record in module.RECORDS.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, default=GOLDENS, help="folder to write to")
    parser.add_argument("--only", nargs="+", help="names of goldens")
    parser.add_argument("--check", action="store_true", help="compare, and write nothing")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    made = records()
    if args.only:
        made = {name: made[name] for name in args.only}
    far = []
    for name, record in made.items():
        file, arrays = args.out / f"{name}.npz", record()
        if args.check:
            found = difference(file, arrays)
            far += [name] if found > TOLERANCE else []
            print(f"{name}: {found:.1e}")
        else:
            np.savez_compressed(file, **arrays, **origin(record.__module__))
            print(f"{file}: {file.stat().st_size} bytes")
    if far:
        sys.exit(f"more than {TOLERANCE} from what is recorded: {', '.join(far)}")


def difference(file: pathlib.Path, arrays: dict) -> float:
    """The largest difference of any output from the recorded one, relative to its maximum."""
    with np.load(file) as stored:
        old = {name: stored[name] for name in stored if not name.startswith("origin/")}
    if old.keys() != arrays.keys():
        sys.exit(f"{file} holds other names: {sorted(old.keys() ^ arrays.keys())[:5]}")
    floats = [name for name, x in arrays.items() if x.dtype == np.float32]
    return max(np.abs(old[k] - arrays[k]).max() / np.abs(arrays[k]).max() for k in floats)


if __name__ == "__main__":
    if importlib.util.find_spec("torch") is None:
        sys.exit("recording needs torch, transformers, timm and open_clip_torch")
    main()
