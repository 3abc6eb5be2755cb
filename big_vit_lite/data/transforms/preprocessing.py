"""Transforms with which published weights were evaluated, bit for bit, and those of their training.

Evaluation:

| weights | transform at 224 | mean and std |
|---|---|---|
| CLIP of OpenAI, open_clip, MetaCLIP, DFN | shortest(224) | CLIP's |
| AugReg ViTs in timm, at 224 | shortest(224, 0.9) | 0.5 |
| AugReg ViTs in timm, at 384 | shortest(384) | 0.5 |
| DeiT, MAE, DINOv2 | shortest(224, 0.875) | ImageNet's |
| SigLIP, SigLIP 2, PE (bilinear) | squash(224) | 0.5 |
| CLIPA | squash(224, "bilinear") | ImageNet's |
| big_vision's ViTs | decode, resize_small(256), central_crop(224) | 0.5 |
| big_vision's SigLIP | decode, resize(224, antialias=False) | 0.5 |

Crops for training; what augments comes after:

    AugReg decode|random_resized_crop(224)|flip
    CLIP   decode|random_resized_crop(224, (0.9, 1), method='bicubic', rule='torchvision')
    DeiT   decode|random_resized_crop(224, method='bicubic', rule='torchvision')|flip
    MAE    decode|random_resized_crop(224, (0.2, 1), method='bicubic', rule='torchvision')|flip

Order: here images become RGB first, as in transformers and timm. OpenAI's CLIP and open_clip resize
first, which is the same for RGB and grey images. Of palette images they then take the nearest pixel
instead of filtering, and of images with alpha they weight colours by it; convert such images as you
want them before, if that matters. transformers' centre crop follows the rule "tensorflow", one
pixel off where the margin is odd.
"""

import math


def shortest(size: int, crop_pct: float = 1.0, method: str = "bicubic") -> str:
    """The shorter side to `size` / `crop_pct`, cut off to whole pixels, and the middle of that."""
    enlarged = math.floor(size / crop_pct)
    return (
        f"decode|resize_small({enlarged}, {method!r}, rule='torchvision')"
        f"|central_crop({size}, rule='torchvision')"
    )


def squash(size: int, method: str = "bicubic") -> str:
    """The whole image to `size`, whatever its aspect ratio."""
    return f"decode|resize({size}, {method!r})"
