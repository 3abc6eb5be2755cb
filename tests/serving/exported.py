"""Tiny models, every leaf random, to export; and what the tests compare."""

import functools

import numpy as np
from weights import parity

from big_vit_lite import weights
from big_vit_lite.pretrained import Pretrained
from big_vit_lite.tasks.images import normalize

CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
SAME, DIFFERENT = 1e-6, 1e-5
"""Largest difference relative to the largest value; the nearest wrong model is beyond DIFFERENT."""


@functools.cache
def model(golden: str) -> Pretrained:
    """A golden's model with its own parameters, as `load` would return it."""
    loaded = parity.loaded(golden)
    return Pretrained(
        model=loaded.sections.build("cpu", scan=False),
        params=loaded.params,
        sections=loaded.sections,
        preprocessing=weights.Preprocessing(
            f"decode|resize({loaded.sections.model.image_size})", *CLIP
        ),
        text=None,
        class_names=None,
        loss="softmax",
        source=golden,
    )


def inputs(about, name: str, batch: int, seed: int = 0) -> list[np.ndarray]:
    """Random ones of a function of serving.json; of two, one more text than images."""
    rng = np.random.default_rng(seed)
    return [
        rng.integers(x["below"], size=(batch + i, *x["shape"][1:])).astype(x["dtype"])
        for i, x in enumerate(about["functions"][name]["inputs"])
    ]


def answers(model: Pretrained, name: str, given: list[np.ndarray], mean=None) -> np.ndarray:
    """What the model itself makes of the inputs, normalised outside, by another mean if any."""
    mean, std = mean or model.preprocessing.mean, model.preprocessing.std
    given = [normalize(x, mean, std) if x.dtype == np.uint8 else x for x in given]
    functions = {"image_features": model.encode_image, "text_features": model.encode_text}
    return np.asarray(functions.get(name, model.logits)(*given))


def off(mean):
    """The nearest wrong normalisation: one channel's mean is off by half a grey level."""
    return (mean[0] + 0.5 / 255, *mean[1:])


def difference(found, wanted) -> float:
    """Largest, relative to the largest value."""
    assert found.shape == wanted.shape and found.dtype == wanted.dtype == np.float32
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())
