"""load: published weights, our checkpoints and the hub, and what the loaded model answers."""

import gzip
import json
import re
from pathlib import Path

import huggingface_hub
import jax
import jax.numpy as jnp
import numpy as np
import pairs
import pytest
from data import test_tokenizers
from pictures import photo
from PIL import Image
from weights import parity

import big_vit_lite as bvl
from big_vit_lite import checkpoint, config, data, models, tasks, weights
from big_vit_lite.config import InputError
from big_vit_lite.tasks.images import normalize

PAGE = Path(__file__).parent.parent / "docs" / "weights.md"
TEXTS = ["a photo of a cat", "a painting of a house by the sea"]
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
TRANSFORM = "decode|resize_small(16, 'bicubic', rule='torchvision')|central_crop(16)"


def random_params(sections):
    rng = np.random.default_rng(3)

    def draw(path, x):
        name = path[-1].key
        mean = 1.0 if name == "scale" else np.log(10) if name == "t" else 0.0
        std = 0.3 if name == "kernel" else 0.0 if name == "t" else 0.2
        return rng.normal(mean, std, x.shape).astype(np.float32)

    model = sections.build("cpu", scan=False)
    shapes = jax.eval_shape(lambda: models.init_params(model, jax.random.key(0)))
    return jax.tree.map_with_path(draw, shapes)


def published(folder, golden, layout, transform=TRANSFORM, **fields):
    """Weights of a golden's tiny model, with some other fields, as the hub has them."""
    sections = parity.loaded(golden).sections
    for name, changed in fields.items():
        section = getattr(sections, name).model_copy(update=changed)
        sections = sections._replace(**{name: section})
    said = transform and weights.Preprocessing(transform, *CLIP)
    weights.save(folder, random_params(sections), sections, layout, said)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Photographs, models as the hub has them, and a run of ours."""
    root = tmp_path_factory.mktemp("pretrained")
    for name, seed in (("cat", 1), ("dog", 2)):
        Image.fromarray(photo(24, 30, seed=seed)).save(root / f"{name}.jpg")
    clip = {"vocabulary": 49408, "length": 77, "end_id": None}
    path = published(root / "clip", "L11-clip", "transformers-clip", text=clip)
    merges = test_tokenizers.merges_file(test_tokenizers.GOLDENS["merges"])
    (path / "merges.txt").write_bytes(gzip.decompress(merges))
    published(root / "dino", "L13-dinov2", "transformers-dinov2")
    own_run(root / "runs" / "vit", ema=True)
    return root


@pytest.fixture(scope="module")
def clip(folder):
    return bvl.load(folder / "clip")


def own_run(workdir, ema=False, **fields):
    """A run's checkpoint, its parameters random; averaged ones are others."""
    run = config.Run(
        steps=4,
        model={"patch": 4, "pool": "gap", **pairs.SIZES},
        data={
            "batch_size": 4,
            "mean": CLIP[0],
            "std": CLIP[1],
            "train": {
                "source": "folder",
                "path": "photos",
                "transform": "decode|random_resized_crop(8)",
            },
            "val": {
                "source": "folder",
                "path": "photos",
                "transform": "decode|resize_small(10)|central_crop(8)",
            },
        },
        **fields,
    )
    spec = {
        "image": jax.ShapeDtypeStruct((4, 8, 8, 3), np.uint8),
        "label": jax.ShapeDtypeStruct((4,), np.int32),
    }
    task = tasks.build(run, tasks.build_model(run, spec, 3, "cpu"))
    state = {"params": pairs.random_params(task, 0)}
    state |= {"ema": pairs.random_params(task, 1)} if ema else {}
    said = {"config": run.to_json(), "class_names": ["cat", "dog", "owl"], "position_grid": [2, 2]}
    with checkpoint.Keeper(workdir / "checkpoints") as keeper:
        keeper.save(4, state, said)
    return task, state


def by_hand(path, transform, mean, std):
    pixels = data.transforms.parse(transform)(Path(path).read_bytes(), np.random.default_rng(0))
    return normalize(pixels[None], mean, std)


def assert_close(found, wanted, tolerance=1e-6):
    wanted = np.asarray(wanted)
    assert np.shape(found) == wanted.shape
    assert np.abs(np.asarray(found) - wanted).max() <= tolerance * np.abs(wanted).max()


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
    _, out = dino.model.apply({"params": dino.params}, images)
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


def test_a_vocabulary_that_is_another_one_is_told_of(tmp_path, folder):
    run = pairs.make_run()
    said = {"config": run.to_json(), "text": {"fingerprint": "0" * 64}, "position_grid": [2, 2]}
    with checkpoint.Keeper(tmp_path / "checkpoints") as keeper:
        keeper.save(4, {"params": pairs.random_params(pairs.make_task(run))}, said)
    with pytest.raises(InputError, match="trained with the vocabulary 000000000000, and .* reads"):
        bvl.load(tmp_path).tokenize("a")
    told = "makes ids below 259, and the text tower knows 99: give the vocabulary"
    path = published(
        tmp_path / "small", "L11-clip", "transformers-clip", text={"vocabulary": 99, "end_id": None}
    )
    length = bvl.load(path).sections.text.length
    chain = f"tokenize('bytes')|truncate({length})|pad({length})"
    with pytest.raises(InputError, match=told):
        bvl.load(path, text=chain).tokenize("a")
    with pytest.raises(InputError, match=f"makes 99 tokens, and the text tower reads {length}"):
        bvl.load(path, text="tokenize('bytes')|pad(99)")


def pieces(path):
    import sentencepiece

    with open(path, "wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(test_tokenizers.SENTENCES),
            model_writer=file,
            vocab_size=60,
            pad_id=0,
            eos_id=1,
            unk_id=2,
            bos_id=-1,
            hard_vocab_limit=False,
            minloglevel=2,
        )
    return sentencepiece.SentencePieceProcessor(model_file=str(path)).encode


def words(path):
    """A tokenizer.json as Gemma's: it would add a start token and no end."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    known = ["<pad>", "<eos>", "<bos>", "<unk>", *["a", "photo", "of", "the", "cat", "!"]]
    made = Tokenizer(models.WordLevel({w: i for i, w in enumerate(known)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", 2)]
    )
    made.save(str(path))
    return lambda text: made.encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize(
    ("vocabulary", "file", "make", "as_read", "pad"),
    [
        (32_000, "spiece.model", pieces, "the cat", 1),
        (256_000, "tokenizer.json", words, "the cat !", 0),
    ],
)
def test_siglip_takes_the_vocabulary_beside_it(vocabulary, file, make, as_read, pad, tmp_path):
    fields = {"vocabulary": vocabulary}
    path = published(tmp_path, "L12-siglip", "transformers-siglip", text=fields)
    with pytest.raises(InputError, match="there is no vocabulary beside it: load it with"):
        bvl.load(path).tokenize("The cat !")
    encode = make(path / file)
    pair = bvl.load(path)
    ids = [*encode(as_read), 1]
    length = pair.sections.text.length
    [tokens] = pair.tokenize("The cat !").tolist()
    assert tokens == ids + [pad] * (length - len(ids))
    (path / file).rename(tmp_path.parent / f"{tmp_path.name}-{file}")
    elsewhere = bvl.load(path, vocabulary=tmp_path.parent / f"{tmp_path.name}-{file}")
    assert elsewhere.tokenize("The cat !").tolist() == [tokens]


def test_what_the_source_does_not_say_is_asked_for(folder, tmp_path):
    path = published(tmp_path, "L11-clip", "transformers-clip", transform=None)
    pair = bvl.load(path)
    told = r"does not say how images were preprocessed: load it with transform= .*, mean= and std="
    with pytest.raises(InputError, match=told):
        pair.encode_image(folder / "cat.jpg")
    with pytest.raises(InputError, match=r"does not say how texts become tokens, .* vocabulary="):
        pair.encode_text("a cat")
    with pytest.raises(InputError, match="preprocessed: give mean= and std= as well"):
        bvl.load(path, transform=TRANSFORM)
    length = pair.sections.text.length
    chain = f"tokenize('bytes')|truncate({length})|pad({length})"
    given = bvl.load(path, transform=TRANSFORM, mean=CLIP[0], std=CLIP[1], text=chain)
    assert_close(
        given.preprocess(folder / "cat.jpg"), by_hand(folder / "cat.jpg", TRANSFORM, *CLIP)
    )
    with pytest.raises(InputError, match="mean= has 2 numbers, and the images 3 channels"):
        bvl.load(path, transform=TRANSFORM, mean=(0.5, 0.5), std=CLIP[1])


def test_wrong_images_and_texts_are_told_of(folder, clip, tmp_path):
    (tmp_path / "no.jpg").write_bytes(b"no image at all")
    for images, told in (
        (tmp_path / "no.jpg", "no.jpg cannot be used: the bytes are not an image"),
        ("missing.jpg", "missing.jpg cannot be used: No such file"),
        ([], "there is no image: give paths"),
        ([3], "image 0 cannot be used: int is no image; give paths"),
        (np.zeros((16, 16, 3), np.float32), r"floats is taken for .* \(16, 16, 3\)"),
        (np.zeros((16, 16, 3), np.int32), "image 0 cannot be used: pixels are uint8"),
    ):
        with pytest.raises(InputError, match=told):
            clip.encode_image(images)
    with pytest.raises(InputError, match="cannot be preprocessed within jit, vmap or grad: call"):
        jax.jit(clip.encode_image)(np.zeros((1, 16, 16, 3), np.uint8))
    with pytest.raises(InputError, match="texts are a string or a list of strings"):
        clip.tokenize([])
    with pytest.raises(InputError, match="has no classes, but a text tower: give logits"):
        clip.logits(folder / "cat.jpg")
    loose = bvl.load(folder / "dino", transform="decode|resize_small(16)")
    loose_images = [photo(24, 30), photo(24, 60)]
    with pytest.raises(InputError, match="makes images of several sizes .* one at a time"):
        loose.preprocess(loose_images)


def test_places_without_a_model_are_told_of(tmp_path):
    for source, told in (
        (
            "no such",
            'no such is not there: give a file or folder .* "openai/clip-vit-base-patch32"',
        ),
        (tmp_path, "holds no finished checkpoint; give a run's --workdir"),
    ):
        with pytest.raises(InputError, match=told):
            bvl.load(source)
    with pytest.raises(InputError, match="holds no published weights, for which layout= and"):
        bvl.load(tmp_path, layout="timm")


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
