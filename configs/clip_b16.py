"""CLIP with a ViT-B/16 from scratch (Radford 2021): clip_b32.py with patches of half the side.

Command:

    python -m big_vit_lite.train --config configs/clip_b16.py:path=DIR

Arguments: those of configs/clip_b32.py, which says what DIR holds; tiny among them.

Expected result: 67.1 % zero-shot top-1 on ImageNet after 32 epochs of LAION-400M (open_clip;
OpenAI's own 68.3 on data that is not public). Measured: not run here.

Source: https://arxiv.org/abs/2103.00020; open_clip's run took 61 hours on 176 A100.
"""

from big_vit_lite.config import beside


def get_config(arg=None):
    return beside(__file__, "clip_b32.py").get_config(f"variant=B/16,{arg or ''}")
