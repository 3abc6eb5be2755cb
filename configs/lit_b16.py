"""LiT: a trained image tower stays as it is, and a text tower learns to describe it (Zhai 2022).

Command:

    python -m big_vit_lite.train --config configs/lit_b16.py:path=DIR,init=CHECKPOINT

CHECKPOINT is a trained ViT-B/16: the --workdir of a run of vit_b16.py, say. Its head is left out.
DIR holds train-*.tar and val-*.tar in WebDataset's layout, KEY.jpg and KEY.txt.

What the locked tower makes of the images can be computed once, and training then takes the time of
the text tower alone:

    python tools/precompute_features.py --config configs/lit_b16.py:path=DIR,init=CHECKPOINT \
        --out FEATURES
    python -m big_vit_lite.train --config \
        configs/lit_b16.py:path=DIR,init=CHECKPOINT,features=FEATURES

Arguments, after a colon and separated by commas:

    path=data/pairs      the folder
    init=                the image tower's checkpoint; without it the tower is drawn at random
    features=            folder of features computed before, to train on in place of images
    vocabulary=clip      the tokenizer
    imagenet=            a folder like vit_b16's: its val/ is classified without training on it
    tiny                 4 steps of much smaller towers on digits, without any files

Expected result: 72.1 % zero-shot top-1 on ImageNet with big_vision's published LiT-B16B (image
tower AugReg-B/16 trained on ImageNet-21k, pairs of CC12M and YFCC100M). Measured: not run here.

Source: https://arxiv.org/abs/2111.07991 and big_vision's lit_coco.py. The text tower there is BERT
base with its own vocabulary and weights; here it is one of the same size from scratch, with CLIP's
vocabulary. The tower ends where the class token leaves it, without a projection; the text tower's
output is as wide. Learning rate 1e-3, decay 1e-4 of the paper, which is 0.1 here, where it is
multiplied by the rate.
"""

import ml_collections as mlc

from big_vit_lite.config import beside, parse_arg


def get_config(arg=None):
    arg = parse_arg(
        arg,
        path="data/pairs",
        init="",
        features="",
        vocabulary="clip",
        imagenet="",
        tiny=False,
    )
    config = mlc.ConfigDict()
    config.name = "lit_b16"
    config.examples = 900_000_000
    if arg.init:
        config.init = arg.init
        # Into the image tower, of a pair's too; its head stays behind, and the text tower is new.
        config.init_rules = (("^(img/)?(head|pre_logits)/|^txt/|^[tb]$", "skip"),)
        config.init_rules += (("^(img/)?(.*)", r"img/\2"),)

    config.model = dict(variant="B/16", pool="cls", image_size=224)
    config.text = dict(variant="B", vocabulary=49408, causal=False, pool="map")
    config.joint = dict(projections="text", logit_scale=10.0)
    config.task = dict(name="contrastive")

    evaluated = "decode|resize(224)"
    files = dict(source="tar", path=arg.path)
    config.data = dict(
        batch_size=16_384,
        train=dict(
            files,
            split="train",
            transform=evaluated,
            text=f"tokenize({arg.vocabulary!r})|truncate(16)|pad(16)",
        ),
        val=dict(files, split="val", transform=evaluated),
        mean=(0.5,),
        std=(0.5,),
    )
    config.optim = dict(
        lr=1e-3,
        schedule="cosine",
        warmup="3%",
        weight_decay=0.1,
        lr_rules=(("^img/", 0.0), (".*", 1.0)),
        clip_norm=1.0,
        mu_dtype="bfloat16",
    )
    config.evals = dict(val=dict(type="retrieval", every=5000))
    if arg.imagenet:
        images = dict(source="folder", path=arg.imagenet, split="val", transform=evaluated)
        config.evals.imagenet = dict(
            type="zero_shot", data=images, prompts=("openai",), class_names="imagenet", every=5000
        )
    config.checkpoint = dict(every=1000)
    config.report = dict(every=50)
    if arg.tiny:
        beside(__file__, "_tiny_pairs.py").shrink(config)
        config.model.image_size = 16
    if arg.features:
        width = 32 if arg.tiny else 768
        config.data.train.update(
            source="arrayrecord", path=arg.features, split="train", transform=f"features({width})"
        )
    return config
