"""The small form of every config with two towers: a few steps on pairs of digits, no files."""

TEXT = "lower|tokenize('bytes')|truncate(32)|pad(32)"


def shrink(config):
    """The same run in small: narrow towers, bytes for tokens, images made on the spot."""
    with config.ignore_type():  # durations are numbers or texts
        _shrink(config)


def _shrink(config):
    for name in ("epochs", "examples", "init", "init_rules"):
        if name in config:
            del config[name]
    config.steps = 4
    size = dict(width=32, depth=1, heads=2, mlp_dim=64)
    resnet = config.model.variant.startswith("RN")
    config.model.update(dict(width=8, stages=(1, 1, 1, 1)) if resnet else dict(size, patch=4))
    config.text.update(size, vocabulary=259)
    config.model.remat = config.text.remat = "none"  # compiles soonest
    if config.text.get("pool", "end") == "end":
        config.text.end_id = 258
    if config.text.get("pad_id") is not None:
        config.text.pad_id = 256
    if config.joint.get("features"):
        config.joint.features = 32
    if "decoder" in config:
        config.decoder.update(depth=1, queries=4, pool_heads=2)
    config.data.batch_size = 16
    config.optim.warmup = 1
    side = "|resize(32)" if resnet else ""
    digits = dict(source="digit_pairs", path=None, transform=f"decode(channels=3){side}")
    digits |= dict(caption_key=None, image_key=None)
    config.data.train.update(digits, split="train", part="", examples=64, text=TEXT)
    config.data.val.update(digits, split="val", part="", examples=40)
    for name in [name for name, e in config.evals.items() if "data" in e]:
        del config.evals[name]
    for evaluation in config.evals.values():
        evaluation.every = 2
    config.checkpoint.every = 2
    config.report.every = 1
