"""load: what runs of ours answer."""

import jax
import numpy as np
import pairs
import pytest
from pictures import photo
from pretrained_models import CLIP, assert_close, by_hand, folder_of_models, own_run

import big_vit_lite as bvl
from big_vit_lite import checkpoint, config, weights
from big_vit_lite.pretrained import checkpoints


@pytest.fixture
def folder():
    return folder_of_models()


def test_our_classifier_has_its_averages_transform_and_names(folder, tmp_path):
    task, state = own_run(tmp_path / "raw", task={"loss": "sigmoid"})
    raw, averaged = bvl.load(tmp_path / "raw"), bvl.load(folder / "runs" / "vit")
    images = by_hand(folder / "cat.jpg", "decode|resize_small(10)|central_crop(8)", *CLIP)
    assert_close(raw.preprocess(folder / "cat.jpg"), images)
    for found, params in ((raw, state["params"]), (averaged, pairs.random_params(task, 1))):
        wanted, _ = task.model.apply({"params": params}, images)
        assert_close(found.logits(folder / "cat.jpg"), wanted, 3e-6)
    assert raw.class_names == ("cat", "dog", "owl")
    # A sigmoid loss asks of each class alone: its probabilities do not add up to 1.
    found = dict(raw.classify(images)[0])
    chances = jax.nn.sigmoid(task.model.apply({"params": state["params"]}, images)[0])[0]
    assert_close([found[name] for name in raw.class_names], chances)
    assert abs(sum(p for _, p in averaged.classify(images)[0]) - 1) < 1e-5


def test_a_run_of_square_images_is_written_as_others_publish(tmp_path):
    # timm's names and the epsilon that all its models have.
    own_run(tmp_path / "run")
    vit = bvl.load(tmp_path / "run")
    assert vit.sections.model.image_size == 8
    # The run shrinks by area, which timm has not.
    said = weights.Preprocessing("decode|resize_small(10, 'bilinear')|central_crop(8)", *CLIP)
    weights.save(tmp_path / "out", vit.params, vit.sections, "timm", said)
    again = bvl.load(tmp_path / "out")
    images = vit.preprocess(photo(24, 30))
    assert_close(again.logits(images), vit.logits(images), 1e-6)
    assert checkpoints.sections_of(*sized(tmp_path / "run", (8, 12))).model.image_size == (8, 12)


def sized(workdir, size):
    """A run's config with another size of images, its meta and path."""
    path = checkpoint.find(workdir)
    meta = checkpoint.read_meta(path)
    run = config.Run.from_json(meta["config"], "meta.json")
    model = run.model.model_copy(update={"image_size": size})
    return run.model_copy(update={"model": model}), meta, path


@pytest.mark.parametrize("name", ["contrastive", "coca"])
def test_our_pairs_have_their_text(name, tmp_path):
    text = {"vocabulary": 259}
    fields = {}
    if name == "coca":
        text |= {"pool": "cls", "causal": True, "pad_id": 256}
        fields = {"decoder": {"depth": 1, "queries": 4, "pool_heads": 2}, "model": {"pool": "gap"}}
    run = pairs.make_run(text=text, task={"name": name}, **fields)
    task = pairs.make_task(run)
    params = pairs.random_params(task)
    said = {
        "config": run.to_json(),
        "text": {"fingerprint": "bytes"},
        "position_grid": [2, 2],
    }
    with checkpoint.Keeper(tmp_path / "checkpoints") as keeper:
        keeper.save(4, {"params": params}, said)
    pair = bvl.load(tmp_path)
    images = np.stack([photo(8, 8, seed=i) for i in range(3)])
    captions = ["A cat", "two"]
    rng = np.random.default_rng(0)
    tokens = np.stack([task.text(caption, rng) for caption in captions])
    np.testing.assert_array_equal(pair.tokenize(captions), tokens)
    image = jax.jit(task.encode_image)(params, {"image": images})
    text = jax.jit(task.encode_text)(params, tokens)
    assert_close(pair.encode_image(images), image, 3e-6)
    assert_close(pair.encode_text(captions), text, 3e-6)
    scale = np.exp(params["t"][0])
    bias = params["b"][0] if "b" in params else 0.0
    assert_close(pair.logits(images, captions), scale * image @ text.T + bias, 1e-5)
