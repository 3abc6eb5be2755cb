"""A server: answers the inputs in each FOLDER/inputs.npz with jax and NumPy, nothing else there."""

import sys

ABSENT = (
    "cv2 flax grain matplotlib ml_collections optax orbax PIL pyarrow pydantic safetensors sklearn "
    "big_vit_lite.config big_vit_lite.data big_vit_lite.models big_vit_lite.parallel "
    "big_vit_lite.weights big_vit_lite.pretrained"
)
for name in ABSENT.split():
    sys.modules[name] = None  # an import of it fails

import numpy as np  # noqa: E402

from big_vit_lite import serving  # noqa: E402

for folder in sys.argv[1:]:
    served, answers = serving.load(folder), {}
    with np.load(f"{folder}-inputs.npz") as inputs:
        for key in {key.rsplit("/", 1)[0] for key in inputs}:
            name = key.split("/")[0]
            given = [inputs[f"{key}/{i}"] for i in range(2) if f"{key}/{i}" in inputs]
            answers[key] = served[name](*given)
    np.savez(f"{folder}-answers.npz", **answers)
