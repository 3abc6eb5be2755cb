"""CoCa against open_clip's with every leaf random; captions against every possible text.

Recorded by tools/record_clip_goldens.py.
"""

import functools
import itertools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import recorded

from big_vit_lite import config, models
from big_vit_lite.config import InputError
from big_vit_lite.weights import Sections

GOLDENS = pathlib.Path(__file__).parent / "goldens"
SIDE, LENGTH, DEPTH = 12, 9, 2
IMAGE = {"variant": "mu/4", "width": 16, "depth": DEPTH, "heads": 2, "mlp_dim": 64,
         "pre_norm": True, "patch_bias": False, "activation": "erf", "norm_eps": 1e-5}  # fmt: skip
TEXT = {"variant": "mu", "width": 24, "depth": DEPTH, "heads": 3, "mlp_dim": 96, "vocabulary": 40,
        "pool": "cls", "pad_id": 0, "activation": "erf", "norm_eps": 1e-5}  # fmt: skip


def build(image=None, text=None, length=LENGTH, **decoder) -> models.Coca:
    return models.build_coca(
        config.Model(**(IMAGE | (image or {}))),
        config.Text(**(TEXT | (text or {}))),
        config.Joint(features=24),
        config.Decoder(**({"queries": 5, "pool_heads": 4} | decoder)),
        (SIDE, SIDE, 3),
        length,
        "cpu",
    )


@functools.cache
def golden() -> dict[str, np.ndarray]:
    with np.load(GOLDENS / "coca.npz") as file:
        return dict(file)


def parameters() -> dict:
    sections = Sections(
        config.Model(**IMAGE),
        config.Text(**TEXT),
        config.Joint(features=24),
        config.Decoder(queries=5, pool_heads=4),
    )
    return recorded.tree(golden(), "open-clip-coca", sections)


@functools.cache
def compiled(model):
    @jax.jit
    def run(params, images, tokens):
        embeddings, out = model.apply({"params": params}, images, tokens)
        return embeddings.image, embeddings.text, out.get("caption/logits")

    return run


NEEDED = {"image": ("images",), "text": ("tokens",)}


def errors(model, params, case: str, only: str | None = None) -> dict[str, float]:
    """Of the features of images and texts and of the logits, or of one of them."""
    inputs = NEEDED.get(only, ("images", "tokens"))
    given = [golden()[name] if name in inputs else None for name in ("images", "tokens")]
    found = {}
    for name, ours in zip(
        ("image", "text", "logits"), compiled(model)(params, *given), strict=True
    ):
        if only not in (None, name):
            continue
        reference = golden()[f"{case}/{name}"]
        assert ours.shape == reference.shape
        found[name] = float(np.abs(ours - reference).max() / np.abs(reference).max())
    return found


@pytest.mark.parametrize(("case", "shift"), [("shifted", 1), ("exact", 0)])
def test_equal_to_open_clip(case, shift):
    found = errors(build(pad_shift=shift), parameters(), case)
    assert max(found.values()) < 1e-5, found


def keys_swapped(params):
    for name in ("encoderblock_0", "encoderblock_1"):
        attention = params["decoder"]["Decoder_0"][name]["MultiHeadDotProductAttention_0"]
        attention["query"], attention["key"] = attention["key"], attention["query"]


def norms_swapped(params):
    """The norm of what is looked at in place of the norm of what looks."""
    block = params["decoder"]["Decoder_0"]["encoderblock_0"]
    block["LayerNorm_0"], block["LayerNorm_context"] = (
        block["LayerNorm_context"],
        block["LayerNorm_0"],
    )


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"pad_shift": 0}, "text"),
        ({"text": {"pad_id": None}}, "text"),
        ({"text": {"activation": "tanh"}}, "logits"),
        ({"image": {"activation": "quick"}}, "image"),
        (keys_swapped, "logits"),
        (norms_swapped, "logits"),
    ],
    ids=lambda x: getattr(x, "__name__", str(x)),
)
def test_the_nearest_wrong_variant_fails(change, name):
    params, fields = parameters(), {"pad_shift": 1}
    if callable(change):
        change(params)
    else:
        fields |= change
    found = errors(build(**fields), params, "shifted", only=name)
    assert found[name] > 1e-4, found


@pytest.mark.parametrize(
    ("variant", "text", "features", "parameters"),
    [("B/32", "M", 512, 253_560_065), ("L/14", "B", 768, 638_450_177)],
)
def test_counts_of_coca(variant, text, features, parameters):
    model = models.build_coca(
        config.Model(variant=variant, pre_norm=True, patch_bias=False),
        config.Text(variant=text, pool="cls", pad_id=0),
        config.Joint(features=features),
        config.Decoder(),
        (224, 224, 3),
        76,
        "tpu",
    )
    shapes = models.abstract_params(model)
    assert sum(int(np.prod(x.shape)) for x in jax.tree.leaves(shapes)) == parameters


def test_scanned_and_unrolled_agree():
    model = build(image={"scan": True}, text={"scan": True}, pad_shift=1)
    found = errors(model, models.stack_layers(parameters()), "shifted")
    assert max(found.values()) < 1e-5, found
    shapes = models.abstract_params(model)
    unrolled = models.abstract_params(build())
    assert jax.tree.structure(shapes) == jax.tree.structure(models.stack_layers(unrolled))
    assert jax.tree.structure(unrolled) == jax.tree.structure(parameters())
    assert model.scan and not build().scan


LENGTH_OF_CAPTIONS, START, END = 4, 1, 2
FEW = {"vocabulary": 6}


@functools.cache
def few() -> tuple:
    """A model of 6 tokens with random leaves, large enough that captions differ."""
    model = build(text=FEW, length=LENGTH_OF_CAPTIONS)
    shapes = models.abstract_params(model)
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: rng.standard_normal(x.shape).astype(np.float32), shapes)
    params["img"]["embedding"]["kernel"] *= 10
    for i in range(DEPTH):  # what is seen weighs more than what was written
        block = params["decoder"]["Decoder_0"][f"encoderblock_{i}"]
        block["MultiHeadDotProductAttention_0"]["out"]["kernel"] *= 3
    return model, params, golden()["images"]


@jax.jit
def caption_logits(params, images, texts):
    """Of texts (images, n, length), whole: (images * n, length, vocabulary)."""
    model, n = few()[0], texts.shape[1]
    _, out = model.apply({"params": params}, images, method="encode_image")
    tokens = jnp.repeat(out["image_tokens"], n, axis=0)
    flat = texts.reshape(-1, texts.shape[-1])
    return model.apply({"params": params}, tokens, flat, method="caption_logits")


def log_probabilities(texts: np.ndarray) -> np.ndarray:
    """Of whole texts (images, n, length), without what follows the end; computed at once.

    The last place only ever holds the end: its choice costs nothing but the end's own share.
    """
    _, params, images = few()
    steps = jax.nn.log_softmax(caption_logits(params, images, texts))
    flat = texts.reshape(-1, texts.shape[-1])
    found = np.take_along_axis(np.asarray(steps)[:, :-1], flat[:, 1:, None], axis=2)[..., 0]
    return (found * (flat[:, 1:] != 0)).sum(axis=1).reshape(texts.shape[:2])


def every_text() -> np.ndarray:
    """All texts that end, padded."""
    texts = []
    for inner in range(LENGTH_OF_CAPTIONS - 1):
        for words in itertools.product((1, 3, 4, 5), repeat=inner):
            texts.append([START, *words, END] + [0] * (LENGTH_OF_CAPTIONS - 2 - inner))
    return np.array(texts, np.int32)


def captions(beams: int):
    model, params, images = few()
    fields = {"length": LENGTH_OF_CAPTIONS, "start": START, "end": END}
    texts, scores = models.caption(model, params, images, beams=beams, **fields)
    return np.asarray(texts), np.asarray(scores)


def test_as_many_beams_as_texts_find_the_best_text():
    everything = every_text()
    assert len(everything) == 21
    texts, scores = captions(beams=24)
    images = few()[2]
    found = log_probabilities(np.broadcast_to(everything, (len(images), *everything.shape)))
    means = found / (everything[:, 1:] != 0).sum(axis=1)
    np.testing.assert_array_equal(texts, everything[means.argmax(axis=1)])
    np.testing.assert_allclose(
        scores, found[np.arange(len(images)), means.argmax(axis=1)], rtol=1e-4
    )
    assert len(np.unique(texts, axis=0)) > 1  # images differ
    assert not np.array_equal(texts, captions(beams=1)[0])  # and greedy falls short


def test_one_beam_takes_the_likeliest_token_each_time():
    texts, scores = captions(beams=1)
    np.testing.assert_allclose(log_probabilities(texts[:, None])[:, 0], scores, rtol=1e-4)
    for text in texts:
        ended = list(text).index(END)
        assert text[0] == START and not text[ended + 1 :].any()
    # Any other token in any one place before the end is less likely there.
    for at in range(1, LENGTH_OF_CAPTIONS - 1):
        for other in range(1, 6):
            changed = texts.copy()
            changed[:, at] = other
            changed[:, at + 1 :] = 0
            kept = texts.copy()
            kept[:, at + 1 :] = 0
            written = texts[:, at] != 0
            less = (
                log_probabilities(changed[:, None])[:, 0]
                <= log_probabilities(kept[:, None])[:, 0] + 1e-5
            )
            assert less[written].all()


def beams_by_hand(width: int) -> tuple[np.ndarray, np.ndarray]:
    """The best of a search that keeps the `width` likeliest texts of each length and ended ones."""
    images = few()[2]
    kept = [[([START], 0.0)] for _ in images]
    for at in range(1, LENGTH_OF_CAPTIONS):
        padded = np.zeros((len(images), max(map(len, kept)), LENGTH_OF_CAPTIONS), np.int32)
        for i, texts in enumerate(kept):
            for j, (text, _) in enumerate(texts):
                padded[i, j, : len(text)] = text
        logits = caption_logits(few()[1], images, padded)
        likely = np.asarray(jax.nn.log_softmax(logits)).reshape(*padded.shape, -1)
        last = at == LENGTH_OF_CAPTIONS - 1
        for i, texts in enumerate(kept):
            longer = []
            for j, (text, score) in enumerate(texts):
                if text[-1] == END:
                    longer.append((text, score))
                    continue
                for token in (END,) if last else range(1, 6):
                    longer.append(([*text, token], score + likely[i, j, at - 1, token]))
            kept[i] = sorted(longer, key=lambda found: -found[1])[:width]
    best = [max(texts, key=lambda found: found[1] / (len(found[0]) - 1)) for texts in kept]
    written = np.zeros((len(images), LENGTH_OF_CAPTIONS), np.int32)
    for row, (text, _) in zip(written, best, strict=True):
        row[: len(text)] = text
    return written, np.array([score for _, score in best])


@pytest.mark.parametrize("beams", [2, 3])
def test_beams_are_those_of_a_search_by_hand(beams):
    texts, scores = captions(beams=beams)
    wanted, their_scores = beams_by_hand(beams)
    np.testing.assert_array_equal(texts, wanted)
    np.testing.assert_allclose(scores, their_scores, rtol=1e-4)


def test_captions_read_nothing_that_is_not_written_yet():
    _, params, images = few()
    short = np.array([[[START, 3, 0, 0]]] * len(images), np.int32)
    long = np.array([[[START, 3, 4, 5]]] * len(images), np.int32)
    one, two = (caption_logits(params, images, x) for x in (short, long))
    np.testing.assert_allclose(one[:, :2], two[:, :2], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"text": {"pool": "end"}}, "text.causal=True and text.pool='cls'"),
        ({"pool_heads": 5}, "decoder.pool.width 24 does not divide by decoder.pool.heads 5"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_said(fields, text):
    with pytest.raises(InputError, match=text):
        build(**fields)
