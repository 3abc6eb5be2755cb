"""The floor of input_pipeline.py: decode, crop, resize and flip by OpenCV, as bare as can be.

Photographs lie in memory, boxes are drawn by the same code as in the package, each thread makes
whole batches, and nothing is checked, named, shuffled or put on a device.
"""

import sys
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import turns

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from big_vit_lite.data.transforms.crops import RandomResizedCrop  # noqa: E402

FLAGS = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION


def main() -> None:
    options = turns.read_options()
    cv2.setNumThreads(0)
    photographs = [np.frombuffer(data, np.uint8) for data in turns.jpegs(options.data)]
    size, box = (options.size, options.size), RandomResizedCrop(options.size).box

    def batch(number: int) -> np.ndarray:
        rng, order = np.random.default_rng(number), turns.order(len(photographs), number)
        images = np.empty((options.batch, *size, 3), np.uint8)
        for row, i in zip(range(options.batch), order, strict=False):
            pixels = cv2.imdecode(photographs[i], FLAGS)
            top, left, height, width = box(*pixels.shape[:2], rng)
            pixels = cv2.resize(pixels[top : top + height, left : left + width], size)
            images[row] = cv2.flip(pixels, 1) if rng.random() < 0.5 else pixels
        return images

    def make(turn: int, n: int):
        with ThreadPoolExecutor(options.threads) as pool:
            waiting = deque()
            for number in range(turn * n, turn * n + n):
                waiting.append(pool.submit(batch, number))
                if len(waiting) > options.threads:
                    yield waiting.popleft().result()
            for future in waiting:
                yield future.result()

    turns.serve(options, {"opencv": cv2.__version__, "numpy": np.__version__}, make, ahead=2)


if __name__ == "__main__":
    main()
