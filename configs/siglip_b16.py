"""SigLIP from scratch: every pair of a batch is a yes or a no (Zhai 2023).

Command:

    python -m big_vit_lite.train --config configs/siglip_b16.py:path=DIR,vocabulary=FILE.model

DIR holds train-*.tar and val-*.tar in WebDataset's layout, KEY.jpg and KEY.txt. FILE.model is a
SentencePiece vocabulary of 32,000 pieces trained on C4's English part (T5's is of that kind).

Arguments, after a colon and separated by commas:

    path=data/pairs      the folder
    variant=B/16         B/16, L/16 or So400m/14
    side=224             image side in pixels
    length=              tokens of a text: 64 unless given; 16 for So400m/14 at 224, as published
    vocabulary=data/c4_en_32k.model    the tokenizer
    caption=             where the caption is, if not in KEY.txt: json.caption, say
    imagenet=            a folder like vit_b16's: its val/ is classified without training on it
    tiny                 4 steps of much smaller towers on digits, without any files

Expected result: 76.0 % zero-shot top-1 on ImageNet for B/16, 80.5 % for L/16 at 256 pixels, 82.0 %
for So400m/14, all on WebLI, which is not public. Measured: not run here.

Source: https://arxiv.org/abs/2303.15343. Batch 32,768, tokens of lower-cased text without
punctuation, pooled at the last position; scale 10 and bias -10 at the start, where nearly all pairs
are told apart; b2 of 0.95, which keeps large batches calm. The optimiser was Adafactor as Zhai 2022
changed it, whose update is Adam's; bfloat16 moments come near its memory. Learning rate and decay
are those of big_vision's configs for image-text pairs.
"""

import ml_collections as mlc

from big_vit_lite.config import InputError, beside, parse_arg

TEXT = {
    "B/16": dict(variant="B"),
    "L/16": dict(variant="L"),
    "So400m/14": dict(variant="So400m"),
}


def get_config(arg=None):
    arg = parse_arg(
        arg,
        variant="B/16",
        side=224,
        length=0,
        path="data/pairs",
        vocabulary="data/c4_en_32k.model",
        caption="",
        imagenet="",
        tiny=False,
    )
    if arg.variant not in TEXT:
        raise InputError(f'config argument variant = "{arg.variant}": wants {", ".join(TEXT)}')
    short = (arg.variant, arg.side) == ("So400m/14", 224)
    length = arg.length or (16 if short else 64)
    config = mlc.ConfigDict()
    config.name = f"siglip_{arg.variant.lower().replace('/', '')}"
    config.examples = 9_000_000_000

    config.model = dict(variant=arg.variant, pool="map", drop_edge=arg.side % 14 > 0)
    config.text = dict(TEXT[arg.variant], vocabulary=32_000, causal=False, pool="last")
    config.joint = dict(
        projections="text", projection_bias=True, logit_scale=10.0, logit_bias=-10.0
    )
    config.task = dict(name="contrastive", loss="sigmoid")

    evaluated = f"decode|resize({arg.side}, antialias=False)"
    files = dict(source="tar", path=arg.path, caption_key=arg.caption or None)
    config.data = dict(
        batch_size=32_768,
        train=dict(
            files,
            split="train",
            transform=evaluated,
            text=f"canonicalize|tokenize({arg.vocabulary!r})|truncate({length})|pad({length}, 1)",
        ),
        val=dict(files, split="val", transform=evaluated),
        mean=(0.5,),
        std=(0.5,),
    )
    config.optim = dict(
        lr=1e-3,
        schedule="rsqrt",
        warmup=20_000,
        cooldown="10%",
        weight_decay=0.1,
        b2=0.95,
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
    return config
