"""A small ViT on your own labelled images, from scratch: docs/own_data.md goes through it.

Command:

    python -m big_vit_lite.train --config configs/own_images.py:path=DIR

DIR holds one folder of images a class, such as DIR/cat/1.jpg. Other sources are named by arguments,
after a colon and separated by commas:

    path=photos       the folder or the files
    source=folder     folder, table, tar, parquet, arrayrecord or tfds
    train=            the split that trains, where there are several: a sub-folder, or SPLIT-* files
    val=              the split that is evaluated; none: a tenth of each class, which does not train
    image_key=        the column or file ending of the image, where it is not the usual one
    label_key=        the same for the label
    size=224          side of the images the model sees, in pixels
    variant=Ti/16     any size and patch; the patch must divide the size
    tiny              4 steps of a much smaller model, to see that everything works; without path on
                      synthetic images

Expected result: depends on the data. From scratch a ViT wants some thousand images a class; where
there are fewer, train longer (--config.epochs=300), not larger. Measured: not run here.

Source: this project's own recipe. Augmentation is that of DeiT III (https://arxiv.org/abs/2204.07118)
with Inception crops; mixing and label smoothing are DeiT's, milder for the shorter schedule.
Orientation tags, which phones write, are followed.
"""

import ml_collections as mlc

from big_vit_lite.config import parse_arg


def get_config(arg=None):
    arg = parse_arg(
        arg,
        path=None,
        source="folder",
        train=None,
        val=None,
        image_key=None,
        label_key=None,
        size=224,
        variant="Ti/16",
        tiny=False,
    )
    config = mlc.ConfigDict()
    config.name = "own_images"
    config.epochs = 100

    config.model = dict(variant=arg.variant, pool="gap", positions="sincos2d", stochastic_depth=0.1)
    config.task = dict(label_smoothing=0.1, mixup=0.2, cutmix=1.0)

    size = arg.size
    files = dict(source=arg.source, path=arg.path or "photos")
    for key in ("image_key", "label_key"):
        if value := getattr(arg, key):
            files[key] = value
    if arg.tiny and not arg.path:
        files = dict(source="synthetic", examples=200, image_size=(size + 16, size + 8))
    train, val = dict(files), dict(files)
    if arg.train:
        train["split"] = val["split"] = arg.train
    if arg.val:
        val["split"] = arg.val
    else:
        train["part"], val["part"] = "rest(10%, seed=0)", "held_out(10%, seed=0)"
    crop = f"decode(exif=True)|random_resized_crop({size})|flip"
    config.data = dict(
        batch_size=128,
        train=dict(train, transform=f"{crop}|three_augment|color_jitter(0.3, 0.3, 0.3)"),
        val=dict(
            val,
            transform=f"decode(exif=True)|resize_small({size * 8 // 7})|central_crop({size})",
        ),
    )
    config.optim = dict(lr=5e-4, schedule="cosine", warmup="5%", weight_decay=0.05, clip_norm=1.0)

    config.evals = dict(val=dict(every="5 epochs"))
    config.checkpoint = dict(every="5 epochs", keep_best="val/top1")
    config.report = dict(every=50)

    if arg.tiny:
        del config.epochs
        config.steps = 4
        config.model.update(width=32, depth=2, heads=2, mlp_dim=64)
        config.data.batch_size = 16
        config.evals.val.every = "2 steps"
        config.checkpoint.every = "2 steps"
        config.report.every = 1
    return config
