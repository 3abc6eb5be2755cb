"""A small ViT on CIFAR-10, from scratch.

Command:

    python -m big_vit_lite.train --config configs/cifar10.py:path=DIR

DIR holds train-*.parquet and test-*.parquet as dataset hubs ship them, such as the folder
plain_text of huggingface.co/datasets/uoft-cs/cifar10 with its columns img and label
(:path=DIR,image_key=img). Without path, data/cifar10 is looked at.

Arguments, after a colon and separated by commas:

    path=data/cifar10    the folder
    image_key=image      the column that holds the images
    tune                 trains on nine tenths of each class's training images and evaluates on the
                         other tenth, to choose settings without looking at the test set
    tiny                 4 steps of a much smaller model on synthetic images, without any files

Expected result: 80 % top-1 in 20 minutes on two CPU cores, where it sees 730 images/s.
Measured: 80.4 %, averaged weights 80.5 %, seed 0, on JPEG copies of the images (results/cifar10).

Source: A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009; the recipe is
this project's own. Mean and standard deviation are those of the training images.
"""

import ml_collections as mlc

from big_vit_lite.config import parse_arg


def get_config(arg=None):
    arg = parse_arg(arg, path="data/cifar10", image_key="image", tune=False, tiny=False)
    config = mlc.ConfigDict()
    config.name = "cifar10"
    config.epochs = 16

    # 5x5 overlapping patches: 0.4 of the tokens of 4x4 patches side by side, and each sees more.
    config.model = dict(
        variant="mu/8",
        width=128,
        depth=6,
        heads=4,
        mlp_dim=512,
        patch_stride=6,
        pool="gap",
        position_std=0.3,
    )
    files = dict(source="parquet", path=arg.path, image_key=arg.image_key)
    config.data = dict(
        batch_size=128,
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616),
        train=dict(files, split="train", transform="decode|pad_crop(4)|flip"),
        val=dict(files, split="test", transform="decode"),
    )
    if arg.tune:
        config.data.train.part = "rest(10%, seed=0)"
        config.data.val.update(split="train", part="held_out(10%, seed=0)")
    config.optim = dict(
        name="muon",
        lr=4e-3,
        schedule="cosine",
        warmup="5%",
        weight_decay=0.05,
        momentum=0.95,
        clip_norm=1.0,
        ema=0.999,
    )

    config.evals = dict(val=dict(every="2 epochs"))
    config.checkpoint = dict(every="1 epochs")
    config.report = dict(every=50)

    if arg.tiny:
        del config.epochs
        config.steps = 4
        config.model.update(width=32, depth=2, heads=2, mlp_dim=64)
        config.data.batch_size = 16
        noise = dict(source="synthetic", examples=64, classes=10, image_size=(32, 32))
        config.data.train = dict(noise, transform=config.data.train.transform)
        config.data.val = dict(noise, transform=config.data.val.transform)
        config.evals.val.every = "2 steps"
        config.checkpoint.every = "2 steps"
        config.report.every = 1
    return config
