"""Likelihood of captions and captions written, against sums over a table of next tokens."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from two_tables import write_table

from big_vit_lite import config, data, evals, parallel

LENGTH, TOKENS = 6, 259
START, END, PAD = 257, 258, 256
TEXT = f"lower|tokenize('bytes')|truncate({LENGTH})|pad({LENGTH})"
CAPTIONS = [
    ["ab", "a"], ["abcabc"], ["b", "b", "ccc"], ["abc"], ["bc"], ["aa", "bb"], ["C"], ["ca"],
    ["cb"], ["cc", "A"], ["c", "b", "a", "aa", "bb", "cc"],
]  # fmt: skip
ALL = range(len(CAPTIONS))


class NextTokens:
    """params["next"] (images, 3): logits of a, b and c at every place; those of the end grow with
    each token that stands before it, by params["end"]."""

    def __init__(self, text=TEXT):
        self.text = data.text.parse(text)

    def logits(self, params, pixels, places):
        ends = params["end"] * places[:, None]
        spread = jnp.full((len(pixels), len(places), TOKENS), -4.0)
        letters = params["next"][pixels][:, None]
        spread = spread.at[..., 97:100].set(jnp.broadcast_to(letters, (*spread.shape[:2], 3)))
        return spread.at[..., END].set(jnp.broadcast_to(ends[None, :, 0], spread.shape[:2]))

    def image_tokens(self, params, batch):
        return batch["image"][:, 0, :1, :1].astype(jnp.int32)

    def caption_nll(self, params, image_tokens, text):
        places = jnp.arange(1.0, LENGTH)
        logits = self.logits(params, image_tokens[:, 0, 0], places)
        nll = -jnp.take_along_axis(jax.nn.log_softmax(logits), text[:, 1:, None], 2)[..., 0]
        counts = text[:, 1:] != PAD
        return {"caption_nll": (nll * counts).sum(1), "caption_tokens": counts.sum(1) * 1.0}

    def write(self, params, batch, beams):
        """The likeliest letter, `beams` times."""
        best = jnp.argmax(params["next"][batch["image"][:, 0, 0, 0].astype(jnp.int32)], axis=1)
        text = jnp.full((len(best), LENGTH), PAD, jnp.int32).at[:, 0].set(START)
        text = text.at[:, 1 : 1 + beams].set(97 + best[:, None]).at[:, 1 + beams].set(END)
        return text, best * -0.5


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    folder = tmp_path_factory.mktemp("captions")
    return write_table(folder / "data", [{"caption": c} for c in CAPTIONS])


class Batches:
    examples, class_names = 11, ()


def build(table, devices=1, task=None, **options):
    split = {"source": "table", "path": table, "transform": "decode"}
    run = config.Run(
        steps=1,
        data={"batch_size": 8, "train": split, "val": split, "skip_limit": 3},
        evals={"c": {"type": "captions", **options}},
    )
    mesh = parallel.make_mesh(devices=jax.devices()[:devices])
    return evals.build(run, task or NextTokens(), mesh, Batches, 1)[0]


def parameters(seed=0):
    rng = np.random.default_rng(seed)
    return {"next": jnp.array(rng.normal(size=(11, 3)), jnp.float32), "end": jnp.array([0.3])}


def tokens_of(caption):
    """Letters that are predicted, the end among them: at most LENGTH - 1."""
    return [*caption.lower().encode()][: LENGTH - 2] + [END]


def nll_of(params, image, caption):
    letters, end = np.asarray(params["next"][image], np.float64), float(params["end"][0])
    total = 0.0
    for place, token in enumerate(tokens_of(caption), 1):
        others = (TOKENS - 4) * np.exp(-4.0)
        norm = np.log(np.exp(letters).sum() + np.exp(end * place) + others)
        total += norm - (end * place if token == END else letters[token - 97])
    return total


def expected(params, images=ALL):
    pairs = [(i, caption) for i in images for caption in CAPTIONS[i]]
    sums = [nll_of(params, *pair) for pair in pairs]
    return sums, [len(tokens_of(caption)) for _, caption in pairs]


@pytest.mark.parametrize("devices", [1, 8])
def test_every_caption_counts_by_its_tokens(table, devices):
    params = parameters()
    metrics = evals.measure(build(table, devices), {"params": params, "ema": parameters(1)}, 1)
    sums, counts = expected(params)
    nll = sum(sums) / sum(counts)
    assert metrics["c/nll"] == pytest.approx(nll, rel=1e-6)
    assert metrics["c/perplexity"] == pytest.approx(np.exp(nll), rel=1e-6)
    averaged = expected(parameters(1))
    assert metrics["c/ema/nll"] == pytest.approx(sum(averaged[0]) / sum(averaged[1]), rel=1e-6)
    assert "c/exact" not in metrics
    # The mean of captions, of images, or of first captions alone, is another number.
    means = np.array(sums) / counts
    owner = np.repeat(np.arange(len(CAPTIONS)), [len(c) for c in CAPTIONS])
    by_image = [means[owner == i].mean() for i in range(len(CAPTIONS))]
    first = [np.flatnonzero(owner == i)[0] for i in range(len(CAPTIONS))]
    firsts = np.take(sums, first).sum() / np.take(counts, first).sum()
    for wrong in (means.mean(), np.mean(by_image), firsts):
        assert abs(wrong - nll) > 1e-5 * nll


@pytest.mark.parametrize(("devices", "beams"), [(8, 1), (1, 2)])
def test_a_file_has_what_was_written_beside_the_captions_of_the_data(
    table, tmp_path, devices, beams
):
    params = parameters()
    scheduled = build(table, devices, beams=beams, predictions=True)
    metrics = evals.measure(scheduled, {"params": params}, 5, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "c-5.jsonl").read_text().splitlines()]
    assert [line["index"] for line in lines] == list(range(11))
    best = np.argmax(params["next"], axis=1)
    for i, line in enumerate(lines):
        assert line["caption"] == beams * "abc"[best[i]]
        assert line["log_probability"] == pytest.approx(-0.5 * best[i])
        assert line["references"] == [caption.lower()[: LENGTH - 2] for caption in CAPTIONS[i]]
        assert line["exact"] == (line["caption"] in line["references"])
        wanted = [nll_of(params, i, c) / len(tokens_of(c)) for c in CAPTIONS[i]]
        assert line["nll"] == pytest.approx(wanted, rel=1e-5)
    assert lines[3]["name"].endswith("line 4 (003.png)")
    assert 0 < metrics["c/exact"] == np.mean([line["exact"] for line in lines]) < 1
    sums, counts = expected(params)
    assert metrics["c/nll"] == pytest.approx(sum(sums) / sum(counts), rel=1e-6)


def test_what_cannot_be_read_is_named_and_counts_nowhere(tmp_path):
    rows = [{"caption": c} for c in CAPTIONS]
    rows[4] = {"caption": []}
    path = write_table(tmp_path / "data", rows)
    (tmp_path / "data" / "009.png").write_bytes(b"no picture")
    params, said = parameters(), []
    metrics = evals.measure(build(path, 8), {"params": params}, 1, tmp_path / "out", said.append)
    left = [i for i in range(11) if i not in (4, 9)]
    sums, counts = expected(params, left)
    assert metrics["c/nll"] == pytest.approx(sum(sums) / sum(counts), rel=1e-6)
    assert metrics["c/bad_examples"] == 2 and len(said) == 2
    lines = (tmp_path / "out" / "c-1.jsonl").read_text().splitlines()
    assert [json.loads(line)["index"] for line in lines] == left


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "tokenize('bytes', end=False)|truncate(6)|pad(6)",
            "evals.c.predictions writes captions, and data.train.text adds no end token to know "
            "where they end: write tokenize(..., end=True), or set predictions=False.",
        ),
        (
            "tokenize('bytes', start=False)|truncate(6)|pad(6)",
            "evals.c.predictions writes captions, and data.train.text adds no start token to know "
            "where they start: write tokenize(..., start=True), or set predictions=False.",
        ),
        (
            "tokenize('bytes')|truncate(6)|pad(6, 258)",
            "evals.c.predictions writes captions, and token 258 of data.train.text both ends and "
            "pads them: give padding another, as in pad(64, 0), or set predictions=False.",
        ),
    ],
)
def test_texts_that_nobody_could_end(table, tmp_path, text, said):
    with pytest.raises(config.InputError) as caught:
        build(table, task=NextTokens(text), predictions=True)
    assert str(caught.value) == said
    scheduled = build(table, task=NextTokens(text))  # evaluates, but does not write
    with pytest.raises(config.InputError) as caught:
        evals.measure(scheduled, {"params": parameters()}, 1, tmp_path)
    assert str(caught.value) == said
