"""load: what published weights answer, as their models by hand do."""

import json
import re
from pathlib import Path

import huggingface_hub
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from pretrained_models import (
    CLIP,
    TEXTS,
    assert_close,
    by_hand,
    clip_model,
    folder_of_models,
    published,
)

import big_vit_lite as bvl
from big_vit_lite import data, weights
from big_vit_lite.config import InputError

PAGE = Path(__file__).parent.parent / "docs" / "weights.md"


@pytest.fixture
def folder():
    return folder_of_models()


@pytest.fixture
def clip():
    return clip_model()


def test_a_published_pair_answers_as_its_model_by_hand(folder, clip):
    loaded = weights.load(folder / "clip")
    images = by_hand(folder / "cat.jpg", loaded.preprocessing.transform, *CLIP)
    text = data.text.parse(
        f"tokenize({str(folder / 'clip' / 'merges.txt')!r})|truncate(77)|pad(77, 0)"
    )
    tokens = np.stack([text(caption, np.random.default_rng(0)) for caption in TEXTS])
    model = loaded.sections.build("cpu", scan=False)
    wanted, _ = jax.jit(model.apply)({"params": loaded.params}, images, tokens)

    assert clip.tokenize(TEXTS).dtype == np.int32
    np.testing.assert_array_equal(clip.tokenize(TEXTS), tokens)
    assert tokens.max() == 49407 and len(set(tokens[0])) > 3
    assert_close(clip.preprocess(folder / "cat.jpg"), images)
    assert_close(clip.encode_image(str(folder / "cat.jpg")), wanted.image)
    assert_close(clip.encode_text(TEXTS), wanted.text)
    assert_close(clip.encode_text(tokens), wanted.text)
    assert_close(clip.logits(folder / "cat.jpg", TEXTS), wanted.logits(), 3e-6)
    assert_close(jnp.linalg.norm(clip.encode_text(TEXTS), axis=-1), np.ones(2))
    # Other photographs and captions give other features, by far more than the tolerance.
    assert np.abs(clip.encode_image(folder / "dog.jpg") - wanted.image).max() > 1e-2
    assert np.abs(wanted.text[0] - wanted.text[1]).max() > 1e-2


def test_images_come_in_any_form(folder, clip):
    files = [folder / "cat.jpg", folder / "dog.jpg"]
    opened = [Image.open(file) for file in files]
    wanted = clip.preprocess(files)
    assert wanted.shape == (2, 16, 16, 3) and wanted.dtype == jnp.float32
    np.testing.assert_array_equal(clip.preprocess(opened), wanted)
    pixels = np.stack([np.asarray(image) for image in opened])
    np.testing.assert_array_equal(clip.preprocess(pixels), wanted)
    np.testing.assert_array_equal(clip.preprocess(pixels[0]), wanted[:1])
    grey = opened[0].convert("L")
    np.testing.assert_array_equal(clip.preprocess(grey), clip.preprocess(grey.convert("RGB")))
    np.testing.assert_array_equal(clip.encode_image(wanted), clip.encode_image(pixels))


def test_it_works_under_jit_vmap_and_grad(folder, clip):
    images = clip.preprocess([folder / "cat.jpg", folder / "dog.jpg"])
    tokens = clip.tokenize(TEXTS)
    wanted = jax.jit(clip.apply)(clip.params, images, tokens)
    features = clip.encode_image(images), clip.encode_text(tokens)
    for x, y in zip((wanted.image, wanted.text), features, strict=True):
        assert_close(x, y, 3e-6)
    assert_close(jax.jit(clip.encode_image)(images), wanted.image, 3e-6)
    assert_close(jax.vmap(clip.encode_image)(images[:, None])[:, 0], wanted.image, 3e-6)
    assert_close(jax.vmap(clip.encode_text)(tokens[:, None])[:, 0], wanted.text, 3e-6)

    def score(params, images):
        return clip.logits(images, tokens, params)[0, 1]

    by_scale, by_image = jax.jit(jax.grad(score, argnums=(0, 1)))(clip.params, images)
    # d/dt of exp(t) * cosine is the logit itself; no gradient reaches an image of another row.
    assert_close(by_scale["t"], [score(clip.params, images)], 1e-5)
    assert np.abs(by_image[0]).max() > 1e-4 and not by_image[1].any()


def test_blocks_by_name_cost_nothing_when_off(folder, clip):
    images = clip.preprocess(folder / "cat.jpg")
    _, wanted = jax.jit(lambda p, x: clip.model.apply({"params": p}, x, capture=("blocks",)))(
        clip.params, images
    )
    found, features = jax.jit(clip.apply, static_argnames="capture")(
        clip.params, images, capture=("blocks",)
    )
    assert sorted(features) == [f"img/block{i:02d}" for i in range(clip.model.img.depth)]
    for name, x in features.items():
        assert_close(x, wanted[name], 3e-6)
    assert found.text is None
    off = jax.eval_shape(clip.apply, clip.params, images)
    assert [x.shape for x in jax.tree.leaves(off)] == [(1, off.image.shape[1]), ()]


def test_a_tower_alone_gives_unit_features(folder):
    dino = bvl.load(folder / "dino")
    images = dino.preprocess(folder / "cat.jpg")
    _, out = jax.jit(dino.model.apply)({"params": dino.params}, images)
    wanted = out["pooled"] / np.linalg.norm(out["pooled"], axis=-1, keepdims=True)
    assert_close(dino.encode_image(images), wanted, 3e-6)
    with pytest.raises(InputError, match="is an image tower alone and reads no texts: load a pair"):
        dino.encode_text("a cat")
    with pytest.raises(InputError, match="has no head for classes: take encode_image"):
        dino.classify(images)


def test_a_published_classifier_names_its_classes(folder, tmp_path):
    path = published(tmp_path, "L09-vit", "transformers-vit")
    bare = bvl.load(path)
    classes = bare.sections.model.classes
    assert classes and bare.class_names is None
    about = json.loads((path / "config.json").read_text())
    about["id2label"] = {str(i): f"kind {i}" for i in range(classes)}
    (path / "config.json").write_text(json.dumps(about))
    vit = bvl.load(path)
    chances = jax.nn.softmax(vit.logits(folder / "cat.jpg"))[0]
    [found] = vit.classify(folder / "cat.jpg", top=2)
    best = np.argsort(-chances)[:2]
    assert [name for name, _ in found] == [f"kind {i}" for i in best]
    assert_close([p for _, p in found], chances[best])
    assert bare.classify(folder / "cat.jpg", top=1)[0][0][0] == best[0]


def test_class_names_are_given(folder, tmp_path):
    path = published(tmp_path, "L09-vit", "transformers-vit", model={"classes": 3})
    (tmp_path / "names.txt").write_text("one\ncat\ncat\n")  # as crane in ImageNet's
    for given, wanted in (
        (tmp_path / "names.txt", ("one", "cat", "cat")),
        ("a, b,c", ("a", "b", "c")),
        (["x", "y", "z"], ("x", "y", "z")),
    ):
        vit = bvl.load(path, class_names=given)
        assert vit.class_names == wanted
    best = int(np.argmax(vit.logits(folder / "cat.jpg")[0]))
    assert vit.classify(folder / "cat.jpg", top=1)[0][0][0] == "xyz"[best]
    for name, given, told in (
        (path, "imagenet", r"class_names= has 1,000 names, and the head of .* has 3 classes: give"),
        (
            path,
            "imagnet",
            r"class_names: 'imagnet' is neither a published set \(did you mean 'image",
        ),
        (path, [1, 2, 3], "class_names= has what is no text"),
        (folder / "dino", ["x"], "has no head for classes, which class_names= would name: leave"),
        (folder / "clip", "imagenet", "has no head for classes, which class_names= would name"),
    ):
        with pytest.raises(InputError, match=told):
            bvl.load(name, class_names=given)
    large = published(tmp_path / "large", "L09-vit", "transformers-vit", model={"classes": 1000})
    assert bvl.load(large, class_names="imagenet").class_names[:2] == ("tench", "goldfish")


def test_several_classes_an_image_are_asked_for_alone(folder, tmp_path):
    path = published(tmp_path, "L09-vit", "transformers-vit", model={"classes": 3})
    assert bvl.load(path).loss == "softmax"
    about = json.loads((path / "config.json").read_text())
    about["problem_type"] = "multi_label_classification"
    (path / "config.json").write_text(json.dumps(about))
    vit = bvl.load(path)
    found = vit.chances(folder / "cat.jpg")
    assert_close(found, 1 / (1 + np.exp(-vit.logits(folder / "cat.jpg"))))
    assert abs(float(found.sum()) - 1) > 1e-2


@pytest.fixture
def hub_of(monkeypatch, folder):
    """The hub's download, which returns a folder here; what it was asked for is kept."""
    asked = []

    def download(repository, revision=None, allow_patterns=None):
        asked.append((repository, revision, allow_patterns))
        name = {"openai": "clip", "facebook": "dino"}[repository.split("/")[0]]
        return str(folder / name)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    return asked


def test_the_page_runs(hub_of, folder, monkeypatch):
    monkeypatch.chdir(folder)
    section = PAGE.read_text().split("## Models in one line")[1].split("\n## ")[0]
    blocks = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    assert len(blocks) == 4
    made = []
    for block in blocks:
        made.append({})
        exec(compile(block, str(PAGE), "exec"), made[-1])
    zero_shot, alike, classes, pure = made
    assert_close(zero_shot["probabilities"].sum(-1), [1.0])
    assert -1 < float(alike["similarity"]) < 0.99999
    assert {classes["name"], *(name for name, _ in classes["others"])} == {"cat", "dog", "owl"}
    assert np.abs(pure["gradients"]["t"]) > 1e-4 and pure["features"]["img/block00"].ndim == 3
    assert len(blocks[0].strip().splitlines()) <= 9  # those of the listing for transformers
