"""Small CLIP-like towers from scratch on a few hundred photographs with several captions each.

Command:

    python tools/train_tokenizer.py --config configs/clip_flickr.py:path=DIR --kind pieces \\
        --least 2 --out DIR/pieces.json
    python -m big_vit_lite.train --config configs/clip_flickr.py:path=DIR

DIR holds train-*.tar and val-*.tar in WebDataset's layout: for each example KEY.jpg (or .png,
.webp) and KEY.json, an object whose field `captions` is a list of texts:

    1383840121.jpg  1383840121.json     {"captions": ["A brown dog on a blue sheet .", ...]}

In each epoch a photograph has one of its captions, drawn at random, loses a tenth of its words, and
some others are cut; evaluation reads all of them, whole. The first command makes tokens of words
and pieces that the training captions have twice (extra tokenizers).

Arguments, after a colon and separated by commas:

    path=data/flickr     the folder
    vocabulary=          the tokenizer; DIR/pieces.json unless given
    split=val            val: evaluated on val; tune: a tenth of train is held out and evaluated, to
                         choose settings without a look at val
    seed=0               initial weights, order of the data, augmentation
    tiny                 4 steps of smaller towers on pairs of digits, without any files

Expected result: with 700 photographs that train and 100 held out, a fifth of these finds one of its
captions among the first five of 500 (chance: a twentieth).
Measured: image to text R@1 8.0 %, R@5 21.3 %, R@10 33.3 %, text to image 6.4, 22.0 and 32.7 %,
means of seeds 0, 1, 2 (results/clip_flickr), 268 s of processor time each. Nothing was tuned.

Source: towers and optimiser of configs/clip_emoji.py; the loss is that of CLIP (Radford 2021).
"""

from big_vit_lite.config import InputError, beside, parse_arg

SIDE = 64  # pixels
TOKENS = 28  # tokens of a caption, start and end included


def get_config(arg=None):
    arg = parse_arg(arg, path="data/flickr", vocabulary="", split="val", seed=0, tiny=False)
    if arg.split not in ("val", "tune"):
        raise InputError(f'config argument split = "{arg.split}": wants one of val, tune')
    vocabulary = arg.vocabulary or f"{arg.path}/pieces.json"
    config = beside(__file__, "clip_emoji.py").get_config(f"path={arg.path},seed={arg.seed}")
    config.name = "clip_flickr"
    config.epochs = 90

    tokens = f"tokenize({vocabulary!r})|truncate({TOKENS})|pad({TOKENS})"
    crop = f"random_resized_crop({SIDE}, (0.4, 1))"
    config.data.train.update(
        caption_key="json.captions",
        transform=f"decode|{crop}|flip|color_jitter(0.2, 0.2, 0.2)",
        text=f"lower|drop_words(0.1)|cut_words(0.15)|{tokens}",
    )
    config.data.val.update(caption_key="json.captions", transform=f"decode|resize({SIDE})")
    if arg.split == "tune":
        config.data.train.part = "rest(10%, seed=0)"
        config.data.val.update(split="train", part="held_out(10%, seed=0)")
    config.evals.val.every = "30 epochs"
    config.checkpoint.every = "30 epochs"
    if arg.tiny:
        beside(__file__, "_tiny_pairs.py").shrink(config)
    return config
