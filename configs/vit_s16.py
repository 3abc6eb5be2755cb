"""ViT-S/16 on ImageNet-1k in 90 epochs: "Better plain ViT baselines" (Beyer 2022).

Command:

    python -m big_vit_lite.train --config configs/vit_s16.py:path=DIR

DIR holds train/CLASS/*.JPEG and val/CLASS/*.JPEG, one folder for each of the 1,000 classes. The
images are at https://image-net.org (ILSVRC 2012, free for research after registration) and at
huggingface.co/datasets/ILSVRC/imagenet-1k. Without path, data/imagenet is looked at.

Arguments, after a colon and separated by commas:

    path=data/imagenet   the folder
    variant=S/16         any size and patch
    tiny                 4 steps of a much smaller model on synthetic images, without any files

For the longer schedules of the paper, add --config.epochs=150 or --config.epochs=300.

Expected result: 76.5 % top-1 on the validation images; 6 to 7 hours on a TPU v3-8 for the
original. Measured: not run here.

Source: https://arxiv.org/abs/2205.01580 and big_vision's configs/vit_s16_i1k.py. Its weight decay
of 1e-4 is not multiplied by the learning rate there; here it is, so 0.1 is the same. Its "minival"
is the last 1 % of a shuffled training set; here it is 1 % of each class, drawn with a seed.
"""

import ml_collections as mlc

from big_vit_lite.config import parse_arg


def get_config(arg=None):
    arg = parse_arg(arg, variant="S/16", path="data/imagenet", tiny=False)
    config = mlc.ConfigDict()
    config.name = f"vit_{arg.variant.lower().replace('/', '')}"
    config.epochs = 90

    config.model = dict(variant=arg.variant, pool="gap", positions="sincos2d", pre_logits=True)
    config.task = dict(loss="softmax", mixup=0.2)

    size = 64 if arg.tiny else 224
    evaluated = f"decode|resize_small({size * 8 // 7})|central_crop({size})"
    files = dict(source="folder", path=arg.path)
    config.data = dict(
        batch_size=1024,
        train=dict(
            files,
            split="train",
            part="rest(1%, seed=0)",
            transform=f"decode|random_resized_crop({size})|flip|randaugment(2,10)",
        ),
        val=dict(files, split="val", transform=evaluated),
    )
    config.optim = dict(
        lr=1e-3,
        schedule="cosine",
        warmup=10_000,
        weight_decay=0.1,
        clip_norm=1.0,
        mu_dtype="bfloat16",
    )
    minival = dict(files, split="train", part="held_out(1%, seed=0)", transform=evaluated)
    config.evals = dict(val=dict(every=2500), minival=dict(data=minival, every=2500))
    config.checkpoint = dict(every=1000)
    config.report = dict(every=50)
    if arg.tiny:
        shrink(config)
    return config


def shrink(config):
    """The same run in small: a few steps, a narrow model, images of noise."""
    del config.epochs
    config.steps = 4
    config.model.update(width=32, depth=2, heads=2, mlp_dim=64)
    config.data.batch_size = 16
    config.optim.warmup = 1
    for split in (config.data.train, config.data.val, config.evals.minival.data):
        split.update(source="synthetic", path=None, split=None, examples=200, image_size=(80, 72))
    for evaluation in config.evals.values():
        evaluation.every = 2
    config.checkpoint.every = 2
    config.report.every = 1
