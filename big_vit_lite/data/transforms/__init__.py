"""Image transforms, written as text a person can read: "decode|pad_crop(4)|flip"."""

from big_vit_lite.data.transforms.parse import Transform, check, output_size, parse

__all__ = ["Transform", "check", "output_size", "parse"]
