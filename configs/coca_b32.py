"""CoCa from scratch: image and text in one space, and captions written from the image (Yu 2022).

Command:

    python -m big_vit_lite.train --config configs/coca_b32.py:path=DIR

DIR holds train-*.tar and val-*.tar in WebDataset's layout, KEY.jpg and KEY.txt.

Arguments, after a colon and separated by commas:

    path=data/pairs      the folder
    variant=B/32         B/32 or L/14
    vocabulary=clip      the tokenizer
    caption=             where the caption is, if not in KEY.txt: json.caption, say
    imagenet=            a folder like vit_b16's: its val/ is classified without training on it
    tiny                 4 steps of much smaller towers on digits, without any files

Expected result: captions, and zero-shot figures near CLIP's of the same size and data; the
published model of this shape is open_clip's coca_ViT-B-32 (LAION-2B, 13 billion pairs seen, 90k).
Measured: not run here.

Source: https://arxiv.org/abs/2205.01917, with the shape that open_clip trained: 76 tokens, of which
the class token is another one behind them, 256 queries, a decoder as deep as the text tower; losses
weighted 1 to 2.
"""

import ml_collections as mlc

from big_vit_lite.config import InputError, beside, parse_arg

# (text tower, features of the space, learning rate)
VARIANTS = {"B/32": (dict(variant="M"), 512, 1e-3), "L/14": (dict(variant="B"), 768, 1e-3)}


def get_config(arg=None):
    arg = parse_arg(
        arg,
        variant="B/32",
        path="data/pairs",
        vocabulary="clip",
        caption="",
        imagenet="",
        tiny=False,
    )
    if arg.variant not in VARIANTS:
        raise InputError(f'config argument variant = "{arg.variant}": wants {", ".join(VARIANTS)}')
    clip = beside(__file__, "clip_b32.py")
    shared = f"path={arg.path},caption={arg.caption},imagenet={arg.imagenet}"
    config = mlc.ConfigDict(
        clip.get_config(f"variant={arg.variant},vocabulary={arg.vocabulary},{shared}")
    )
    config.name = f"coca_{arg.variant.lower().replace('/', '')}"
    text, features, lr = VARIANTS[arg.variant]
    config.model.update(activation="erf")
    config.text = dict(
        text, vocabulary=49408, pool="cls", pad_id=0, activation="erf", norm_eps=1e-5, init="clip"
    )
    config.joint.features = features
    config.decoder = dict(queries=256, pool_heads=8)
    config.task = dict(name="coca")
    config.data.train.text = f"tokenize({arg.vocabulary!r})|truncate(76)|pad(76)"
    config.evals.captions = dict(type="captions", every="1 epochs")
    config.optim.update(lr=lr, warmup=10_000, clip_norm=1.0)
    if arg.tiny:
        beside(__file__, "_tiny_pairs.py").shrink(config)
    return config
