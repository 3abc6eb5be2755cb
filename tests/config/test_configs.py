"""The shipped configs: valid at full and tiny size, documented, equal to their sources."""

import re
from pathlib import Path

import pytest

from big_vit_lite import checks, config
from big_vit_lite.config import source

CONFIGS = Path(__file__).parents[2] / "configs"
NAMES = sorted(file.stem for file in CONFIGS.glob("[!_]*.py"))
NO_PATHS = tuple(check for check in checks.STATIC if check is not checks.paths)


def load(name, arg="", overrides=(), with_checks=NO_PATHS):
    return config.load(f"{CONFIGS / name}.py:{arg}", overrides, with_checks)


@pytest.mark.parametrize("name", NAMES)
def test_docstring_says_command_result_and_source(name):
    _, doc = source.read_source(f"{CONFIGS / name}.py")
    assert f"python -m big_vit_lite.train --config configs/{name}.py" in doc
    for word in ("Command:", "Expected result:", "Measured:", "Source:", "tiny"):
        assert word in doc, word


@pytest.mark.parametrize("name", NAMES)
def test_full_size_is_valid(name):
    run = load(name)
    assert run.name == name
    assert run.data.val is not None and "val" in run.evals
    assert run.checkpoint.every is not None


@pytest.mark.parametrize("name", NAMES)
def test_tiny_needs_no_files_and_few_steps(name):
    run = load(name, "tiny", (), (*checks.STATIC, checks.devices(lambda run: 8)))
    assert run.steps == 4
    assert config.steps_of(run.checkpoint.every, run) == 2
    for _, split in config.splits(run):
        assert split.source in ("digits", "digit_pairs", "synthetic")
    full = load(name)
    assert (run.model.pool, run.model.positions) == (full.model.pool, full.model.positions)
    assert run.task == full.task and run.data.mean == full.data.mean


@pytest.mark.parametrize("name", ["vit_b16", "vit_s16", "cifar10"])
def test_missing_data_says_what_to_do(name):
    with pytest.raises(config.InputError) as caught:
        load(name, "path=/no/such/folder", (), checks.STATIC)
    (line,) = str(caught.value).splitlines()
    assert line.startswith('data.train.path = "/no/such/folder": is not there; put the data in')


def test_vit_b16_is_the_published_recipe():
    run = load("vit_b16")
    assert (run.model.variant, run.model.pool, run.model.pre_logits) == ("B/16", "cls", True)
    assert (run.epochs, run.data.batch_size, run.task.mixup) == (300, 4096, 0.5)
    assert (run.optim.lr, run.optim.weight_decay) == (1e-3, 0.1)
    assert (run.optim.b1, run.optim.b2, run.optim.clip_norm) == (0.9, 0.999, 1.0)
    assert (run.optim.warmup, run.optim.schedule, run.optim.mu_dtype) == (
        10_000,
        "cosine",
        "bfloat16",
    )
    transform = "decode|random_resized_crop(224)|flip|randaugment(2,15)"
    assert run.data.train.transform == transform
    assert run.data.val.transform == "decode|resize_small(256)|central_crop(224)"
    assert set(run.evals) == {"val", "minival"}
    light = load("vit_b16", "variant=Ti/16")
    assert light.task.mixup == 0 and light.data.train.transform.endswith("randaugment(2,0)")
    assert "randaugment" not in load("vit_b16", "aug=none").data.train.transform
    with pytest.raises(config.InputError, match='aug = "heavy": wants one of none, light1'):
        load("vit_b16", "aug=heavy")


def test_vit_s16_is_the_published_recipe():
    run = load("vit_s16")
    assert (run.model.variant, run.model.pool, run.model.positions) == ("S/16", "gap", "sincos2d")
    assert run.model.pre_logits is True
    assert (run.epochs, run.data.batch_size, run.task.mixup) == (90, 1024, 0.2)
    assert (run.optim.lr, run.optim.weight_decay, run.optim.warmup) == (1e-3, 0.1, 10_000)
    assert run.data.train.transform.endswith("|flip|randaugment(2,10)")
    assert run.data.train.part == "rest(1%, seed=0)"
    assert run.evals["minival"].data.part == "held_out(1%, seed=0)"


def test_clip_is_the_published_recipe():
    run = load("clip_b32")
    assert (run.epochs, run.data.batch_size) == (32, 32_768)
    o = run.optim
    assert (o.lr, o.b1, o.b2, o.eps, o.weight_decay) == (5e-4, 0.9, 0.98, 1e-6, 0.2)
    assert (o.warmup, o.schedule) == (2000, "cosine")
    for tower in (run.model, run.text):
        assert (tower.activation, tower.norm_eps, tower.init) == ("quick", 1e-5, "clip")
    assert (run.joint.features, run.joint.max_logit_scale) == (512, 100)
    assert run.joint.logit_scale == pytest.approx(1 / 0.07)
    assert load("clip_b16").model == run.model.model_copy(update={"variant": "B/16"})
    large = load("clip_b32", "variant=L/14@336,imagenet=there")
    assert (large.name, large.text.variant, large.joint.features) == ("clip_l14_336", "B", 768)
    assert "336" in large.data.train.transform and "336" in large.evals["imagenet"].data.transform
    assert large.evals["imagenet"].prompts == ("openai",)
    resnet = load("clip_b32", "variant=RN50x4")
    assert (resnet.model.variant, resnet.model.batch_norm, resnet.text.width) == (
        "RN50x4", "batch", 640
    )  # fmt: skip
    assert (resnet.optim.b2, resnet.optim.eps) == (0.999, 1e-8)
    with pytest.raises(config.InputError, match='variant = "B/8": wants B/32, B/16'):
        load("clip_b32", "variant=B/8")


def test_siglip_is_the_published_recipe():
    run = load("siglip_b16")
    assert (run.task.loss, run.joint.logit_scale, run.joint.logit_bias) == ("sigmoid", 10, -10)
    assert (run.text.causal, run.text.pool, run.text.vocabulary) == (False, "last", 32_000)
    assert run.data.train.text.startswith("canonicalize|") and "pad(64, 1)" in run.data.train.text
    assert (run.optim.lr, run.optim.b2, run.data.batch_size) == (1e-3, 0.95, 32_768)
    assert load("siglip_b16", "variant=So400m/14,side=384").model.drop_edge
    assert not load("siglip_b16", "variant=So400m/14").model.drop_edge
    lengths = {"variant=So400m/14": 16, "variant=So400m/14,side=384": 64, "length=20": 20}
    for arg, length in lengths.items():
        text = load("siglip_b16", arg).data.train.text
        assert text.endswith(f"truncate({length})|pad({length}, 1)")


def test_lit_locks_the_image_tower_and_takes_it_from_a_classifier():
    run = load("lit_b16", "init=runs/vit,path=pairs,features=made")
    assert run.optim.lr_rules == (("^img/", 0.0), (".*", 1.0))

    def becomes(name):
        rules = ((a, b) for a, b in run.init_rules if re.search(a, name))
        pattern, to = next(rules)
        return to if to == "skip" else re.sub(pattern, to, name)

    # A classifier's tower, with a head or without, and that of a pair.
    assert becomes("Transformer/x") == becomes("img/Transformer/x") == "img/Transformer/x"
    for name in ("head/bias", "pre_logits/bias", "img/head/kernel", "txt/pos_embedding", "t", "b"):
        assert becomes(name) == "skip", name
    train = run.data.train
    assert (train.source, train.path, train.transform) == ("arrayrecord", "made", "features(768)")
    assert (run.data.val.source, run.data.val.path) == ("tar", "pairs")
    assert load("lit_b16").data.train.transform == "decode|resize(224)"
    assert load("lit_b16").init is None


def test_coca_is_clip_with_a_decoder():
    run, clip = load("coca_b32"), load("clip_b32")
    assert (run.task.name, run.task.caption_weight, run.decoder.queries) == ("coca", 2, 256)
    assert (run.text.pool, run.text.pad_id, run.model.activation) == ("cls", 0, "erf")
    assert run.data.train.text.endswith("|truncate(76)|pad(76)")
    assert run.data.train.transform == clip.data.train.transform
    assert load("coca_b32", "variant=L/14").joint.features == 768


def test_clip_emoji_arguments():
    run = load("clip_emoji", "path=here,train=fit,val=tune,seed=2")
    assert (run.seed, run.data.train.split, run.data.val.split) == (2, "fit", "tune")
    assert "tokenize('here/pieces.json')" in run.data.train.text
    assert "tokenize('other.json')" in load("clip_emoji", "vocabulary=other.json").data.train.text
    assert run.data.val.transform == "decode|resize(48)" and run.text.pad_id == 0
    taught = load("clip_emoji", "seed=2,teacher=runs/first")
    assert (run.task.teacher, taught.task.teacher) == (None, "runs/first")
    assert taught.seed == 3 and taught.task.label_smoothing == run.task.label_smoothing


def test_clip_flickr_has_the_towers_of_clip_emoji_and_data_of_its_own():
    run, emoji = load("clip_flickr", "path=here"), load("clip_emoji")
    assert (run.model, run.optim, run.joint) == (emoji.model, emoji.optim, emoji.joint)
    assert run.data.train.caption_key == run.data.val.caption_key == "json.captions"
    assert (run.data.train.part, run.data.val.split) == ("", "val")
    tune = load("clip_flickr", "split=tune").data
    assert (tune.train.part, tune.val.part) == ("rest(10%, seed=0)", "held_out(10%, seed=0)")
    assert tune.val.split == "train"
    with pytest.raises(config.InputError, match='split = "test": wants one of val, tune'):
        load("clip_flickr", "split=test")


def test_quickstart_parts():
    assert load("quickstart", "split_seed=2").data.train.part == "rest(20%, seed=2)"
    assert load("quickstart", "split=writers").data.val.part == "[1415:]"
    tune = load("quickstart", "split=tune,split_seed=1")
    assert tune.data.train.part == "rest(20%, seed=1)|rest(15%, seed=2)"
    assert tune.data.val.part == "rest(20%, seed=1)|held_out(15%, seed=2)"
    with pytest.raises(config.InputError, match="wants one of random, writers, tune"):
        load("quickstart", "split=other")


def test_clip_quickstart_splits():
    run = load("clip_quickstart", "seed=3")
    assert run.seed == 3
    held = run.evals["unseen"].data
    assert [run.data.train.split, run.data.val.split, held.split] == ["train", "val", "unseen"]
    assert run.data.batch_size == 160  # each caption that trains once
    tune = load("clip_quickstart", "split=tune")
    splits = [tune.data.train.split, tune.data.val.split, tune.evals["unseen"].data.split]
    assert splits == ["tune_train", "tune", "tune_unseen"]
    assert tune.data.batch_size == 120
    for one in (run, tune):
        assert one.data.train.sampler == "balanced"
        assert one.data.train.examples == one.data.batch_size * one.steps
    with pytest.raises(config.InputError, match='split = "val": wants random or tune'):
        load("clip_quickstart", "split=val")


def test_cifar10_arguments():
    run = load("cifar10", "path=here,image_key=img,tune")
    assert (run.data.train.path, run.data.val.image_key) == ("here", "img")
    assert run.data.val.split == "train" and run.data.val.part == "held_out(10%, seed=0)"
    assert load("cifar10").data.val.split == "test"


def test_own_images_arguments():
    run = load("own_images", "source=parquet,path=here,train=a,val=b,image_key=img,label_key=kind")
    for split, name in ((run.data.train, "a"), (run.data.val, "b")):
        assert (split.source, split.path, split.split, split.part) == ("parquet", "here", name, "")
        assert (split.image_key, split.label_key) == ("img", "kind")
    run = load("own_images", "train=a,size=64,variant=Ti/8")
    assert run.data.train.split == run.data.val.split == "a"  # nothing else holds examples out
    assert (run.data.train.part, run.data.val.part) == (
        "rest(10%, seed=0)",
        "held_out(10%, seed=0)",
    )
    assert "exif=True)|random_resized_crop(64)" in run.data.train.transform
    assert run.data.val.transform.endswith("resize_small(73)|central_crop(64)")
    assert run.epochs == 100 and run.data.train.path == "photos"
    tiny = load("own_images", "path=here,tiny")
    assert (tiny.data.train.path, tiny.steps) == ("here", 4)
    assert load("own_images", "tiny").data.train.source == "synthetic"
