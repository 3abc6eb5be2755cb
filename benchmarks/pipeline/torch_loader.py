"""A torch DataLoader with Pillow, as torchvision's ImageNet recipe does it, written out.

Variants: uint8 (images stay bytes, height x width x channels: the cheapest to hand over) and float
(ToTensor and Normalize in the workers, as most scripts do). Photographs lie in memory; workers are
kept from turn to turn, and each computes on one thread.
"""

import io
import itertools
import math
import random

import numpy as np
import PIL
import torch
import turns
from PIL import Image
from torch.utils.data import DataLoader, Dataset, Sampler

MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])


def crop_box(width: int, height: int) -> tuple[int, int, int, int]:
    """torchvision's RandomResizedCrop.get_params: left, top, right, bottom."""
    low, high = math.log(turns.RATIO[0]), math.log(turns.RATIO[1])
    for _ in range(10):
        area = width * height * random.uniform(*turns.SCALE)
        ratio = math.exp(random.uniform(low, high))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = random.randint(0, width - w), random.randint(0, height - h)
            return left, top, left + w, top + h
    return 0, 0, width, height


class Photographs(Dataset):
    def __init__(self, data: list[bytes], size: int, floats: bool):
        self._data, self._size, self._floats = data, (size, size), floats

    def __getitem__(self, i: int) -> torch.Tensor:
        image = Image.open(io.BytesIO(self._data[i])).convert("RGB")
        image = image.crop(crop_box(*image.size)).resize(self._size, Image.Resampling.BILINEAR)
        if random.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        pixels = torch.from_numpy(np.array(image))
        if not self._floats:
            return pixels
        scaled = pixels.permute(2, 0, 1).contiguous().to(torch.float32).div(255)
        return scaled.sub_(MEAN[:, None, None]).div_(STD[:, None, None])


class Turn(Sampler):
    """As many photographs as the turn asks for."""

    def __init__(self, photographs: int):
        self.photographs, self.count = photographs, 0

    def __len__(self) -> int:
        return self.count

    def __iter__(self):
        return itertools.islice(turns.order(self.photographs, self.count), self.count)


def main() -> None:
    options = turns.read_options()
    torch.set_num_threads(1)
    data = turns.jpegs(options.data)
    sampler = Turn(len(data))
    loader = DataLoader(
        Photographs(data, options.size, options.variant == "float"),
        batch_size=options.batch,
        sampler=sampler,
        num_workers=options.threads,
        persistent_workers=True,
        worker_init_fn=lambda _: torch.set_num_threads(1),
    )

    def make(turn: int, n: int):
        sampler.count = n * options.batch
        return iter(loader)

    versions = {"torch": torch.__version__, "pillow": PIL.__version__}
    turns.serve(options, versions, make, ahead=2 * options.threads)


if __name__ == "__main__":
    main()
