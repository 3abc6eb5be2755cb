"""CLIP from scratch on image-text pairs: "Learning transferable visual models" (Radford 2021).

Command:

    python -m big_vit_lite.train --config configs/clip_b32.py:path=DIR

DIR holds train-*.tar and val-*.tar in WebDataset's layout: KEY.jpg and KEY.txt, as img2dataset
writes them for LAION, DataComp, CC12M and the like. docs/own_data.md reads tables and Parquet, too.
The vocabulary comes with the package open_clip_torch (pip install --no-deps open_clip_torch), or is
named: vocabulary=DIR/bpe_simple_vocab_16e6.txt.gz.

Arguments, after a colon and separated by commas:

    path=data/pairs      the folder
    variant=B/32         B/32, B/16, L/14 or L/14@336, or a ResNet: RN50, RN101, RN50x4, RN50x16,
                         RN50x64
    vocabulary=clip      the tokenizer
    caption=             where the caption is, if not in KEY.txt: json.caption, say
    imagenet=            a folder like vit_b16's: its val/ is classified without training on it
    tiny                 4 steps of much smaller towers on digits, without any files

Expected result: 62.9 % zero-shot top-1 on ImageNet after 32 epochs of LAION-400M (open_clip's B/32;
its B/16 67.1, its L/14 72.8; OpenAI's own B/32 63.2 on data that is not public). Measured: not run
here.

Source: https://arxiv.org/abs/2103.00020, tables 18 to 20, and open_clip's recipe for LAION-400M:
the batch of 32,768, the warm-up of 2,000 steps, crops of 90 to 100 % of the image. The GELU is
OpenAI's, x*sigmoid(1.702x); open_clip's later models have the exact one. Weight decay leaves out
biases, norms, positions, the class token and the scale.
"""

import ml_collections as mlc

from big_vit_lite.config import InputError, beside, parse_arg

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
# (text tower, features of the space, image side, learning rate)
VARIANTS = {
    "B/32": (dict(variant="M"), 512, 224, 5e-4),
    "B/16": (dict(variant="M"), 512, 224, 5e-4),
    "L/14": (dict(variant="B"), 768, 224, 4e-4),
    "L/14@336": (dict(variant="B"), 768, 336, 2e-5),
    "RN50": (dict(variant="M"), 1024, 224, 5e-4),
    "RN101": (dict(variant="M"), 512, 224, 5e-4),
    "RN50x4": (dict(variant="M", width=640, heads=10, mlp_dim=2560), 640, 288, 5e-4),
    "RN50x16": (dict(variant="B"), 768, 384, 4e-4),
    "RN50x64": (dict(variant="M", width=1024, heads=16, mlp_dim=4096), 1024, 448, 3.6e-4),
}
PROMPTS = ("openai",)


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
    text, features, side, lr = VARIANTS[arg.variant]
    size, _, _ = arg.variant.partition("@")
    resnet = size.startswith("RN")
    config = mlc.ConfigDict()
    config.name = f"clip_{arg.variant.lower().replace('/', '').replace('@', '_')}"
    config.epochs = 32

    config.model = dict(variant=size, batch_norm="batch")
    if not resnet:
        config.model = dict(
            variant=size,
            pool="cls",
            pre_norm=True,
            patch_bias=False,
            activation="quick",
            norm_eps=1e-5,
            init="clip",
        )
    config.text = dict(text, vocabulary=49408, activation="quick", norm_eps=1e-5, init="clip")
    config.joint = dict(features=features, max_logit_scale=100.0)
    config.task = dict(name="contrastive")

    resized = f"resize_small({side}, 'bicubic', rule='torchvision')"
    crop = f"random_resized_crop({side}, (0.9, 1), method='bicubic', rule='torchvision')"
    evaluated = f"decode|{resized}|central_crop({side}, rule='torchvision')"
    files = dict(source="tar", path=arg.path, caption_key=arg.caption or None)
    config.data = dict(
        batch_size=32_768,
        train=dict(
            files,
            split="train",
            transform=f"decode|{crop}",
            text=f"tokenize({arg.vocabulary!r})|truncate(77)|pad(77)",
        ),
        val=dict(files, split="val", transform=evaluated),
        mean=MEAN,
        std=STD,
    )
    config.optim = dict(
        lr=lr,
        schedule="cosine",
        warmup=2000,
        weight_decay=0.2,
        decay_rules=(("(kernel|Embed_0/embedding)$", 1.0), (".*", 0.0)),
        b1=0.9,
        b2=0.999 if resnet else 0.98,
        eps=1e-8 if resnet else 1e-6,
    )
    config.evals = dict(val=dict(type="retrieval", every="1 epochs"))
    if arg.imagenet:
        images = dict(source="folder", path=arg.imagenet, split="val", transform=evaluated)
        config.evals.imagenet = dict(
            type="zero_shot",
            data=images,
            prompts=PROMPTS,
            class_names="imagenet",
            every="1 epochs",
        )
    config.checkpoint = dict(every=1000)
    config.report = dict(every=50)
    if arg.tiny:
        beside(__file__, "_tiny_pairs.py").shrink(config)
    return config
