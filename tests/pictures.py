"""Images and draws that several tests use."""

import cv2
import numpy as np


def photo(height=40, width=56, channels=3, seed=0):
    """A smooth image with some noise, uint8."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (5, 6, channels), dtype=np.uint8)
    image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    noise = rng.integers(-9, 10, (height, width, channels))
    return np.clip(image.reshape(height, width, channels) + noise, 0, 255).astype(np.uint8)


class Fixed:
    """A generator whose draws are all `value`."""

    def __init__(self, value):
        self.value = value

    def random(self):
        return self.value
