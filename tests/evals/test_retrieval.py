"""Retrieval against brute force in f64: several captions, ties, bad images, devices, files."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from two_tables import TwoTables, tables, write_table

from big_vit_lite import config, evals, parallel
from big_vit_lite.evals import retrieval

IMAGES = 41
CAPTIONS = [1 + (7 * i) % 5 for i in range(IMAGES)]
FIRST = np.cumsum([0, *CAPTIONS])


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """41 pictures with one to five captions each; caption j is row j of the text table."""
    rows = [{"caption": [str(j) for j in range(FIRST[i], FIRST[i + 1])]} for i in range(IMAGES)]
    return write_table(tmp_path_factory.mktemp("retrieval"), rows)


def build(table, devices=1, batch_size=16, blocks=(), **fields):
    split = {"source": "table", "path": table, "transform": "decode", **fields}
    run = config.Run(
        steps=1,
        data={"batch_size": batch_size, "train": split, "val": split, "skip_limit": 3},
        evals={"found": {"type": "retrieval"}},
    )
    mesh = parallel.make_mesh(devices=jax.devices()[:devices])
    scheduled = evals.build(run, TwoTables(), mesh, Batches, 1)[0]
    made = retrieval.Evaluation(scheduled.evaluation._features, *blocks)
    return scheduled._replace(evaluation=made)


class Batches:
    examples, class_names = 41, ()


def expected(params, images=range(IMAGES), captions=CAPTIONS):
    """Ranks both ways by sorting every row of all scores."""
    image, text = (np.asarray(params[k], np.float64) for k in ("image", "text"))
    image, text = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (image, text))
    owner = np.repeat(np.arange(len(captions)), captions)
    kept = np.isin(owner, images)
    owner, text = np.searchsorted(images, owner[kept]), text[: len(owner)][kept]
    scores = image[list(images)] @ text.T
    to_text = []
    for i, row in enumerate(scores):
        own = owner == i
        to_text.append(1 + (row[~own] >= row[own].max() - 1e-6).sum())
    to_image = [
        1 + (np.delete(scores[:, j], i) >= scores[i, j] - 1e-6).sum() for j, i in enumerate(owner)
    ]
    return np.array(to_text), np.array(to_image)


def numbers(to_text, to_image, prefix="found"):
    wanted = {}
    for way, rank in (("image_to_text", to_text), ("text_to_image", to_image)):
        wanted |= {f"{prefix}/{way}/r{k}": (rank <= k).mean() for k in (1, 5, 10)}
        wanted[f"{prefix}/{way}/median_rank"] = np.median(rank)
        wanted[f"{prefix}/{way}/mean_rank"] = rank.mean()
    return wanted


def correlated(seed=0):
    """Tables in which an image is near its captions, more or less."""
    params = tables(IMAGES, FIRST[-1], seed=seed)
    owner = np.repeat(np.arange(IMAGES), CAPTIONS)
    return params | {"text": 0.7 * params["image"][owner] + params["text"]}


@pytest.mark.parametrize(
    ("devices", "blocks"), [(1, ()), (1, (13, 9)), (8, (13, 9)), (8, (1000, 1))]
)
def test_ranks_are_those_of_sorted_scores(table, devices, blocks):
    params = correlated()
    metrics = evals.measure(build(table, devices, blocks=blocks), {"params": params}, 1)
    ranks = expected(params)
    assert metrics == pytest.approx(numbers(*ranks), rel=1e-12)
    # Only the first caption of each image, or one rank for all captions of an image, is another.
    assert 0.2 < metrics["found/image_to_text/r1"] < 0.9
    assert abs(np.median(ranks[1]) - np.mean(ranks[1])) > 0.1
    assert (ranks[0] == ranks[1][FIRST[:-1]]).mean() < 0.9


def test_equal_scores_count_as_before(table):
    constant = {k: jnp.ones_like(x) for k, x in correlated().items()}
    metrics = evals.measure(build(table, 8), {"params": constant}, 1)
    assert metrics["found/image_to_text/r10"] == metrics["found/text_to_image/r10"] == 0
    assert metrics["found/text_to_image/median_rank"] == IMAGES
    wanted = np.mean(FIRST[-1] - np.array(CAPTIONS) + 1)
    assert metrics["found/image_to_text/mean_rank"] == pytest.approx(wanted)


def test_an_image_that_is_there_twice_is_a_mistake_and_a_caption_that_is_twice_at_it_is_none(
    tmp_path,
):
    rows = [{"caption": ["0", "0"]}, {"caption": ["1"]}, {"caption": ["2"]}]
    scheduled = build(write_table(tmp_path / "data", rows), batch_size=2)
    params = {"image": jnp.eye(3), "text": jnp.eye(3)}
    assert evals.measure(scheduled, {"params": params}, 1)["found/image_to_text/r1"] == 1
    params["image"] = params["image"].at[2].set(params["image"][1])
    metrics = evals.measure(scheduled, {"params": params}, 1)
    # Image 1 finds its caption, image 2 not; captions 1 and 2 cannot tell the two apart.
    assert metrics["found/image_to_text/r1"] == pytest.approx(2 / 3)
    assert metrics["found/text_to_image/r1"] == pytest.approx(2 / 4)
    assert "found/image_to_text/r5" not in metrics


def test_images_without_a_caption_or_that_cannot_be_read_are_named_and_count_nowhere(tmp_path):
    rows = [{"caption": [str(j) for j in range(FIRST[i], FIRST[i + 1])]} for i in range(IMAGES)]
    rows[4]["caption"] = []
    rows[7]["caption"] = [str(FIRST[7]), "10000"]
    path = write_table(tmp_path / "data", rows)
    (tmp_path / "data" / "005.png").write_bytes(b"no picture")
    params, said = correlated(), []
    scheduled = build(path, 8)
    metrics = evals.measure(scheduled, {"params": params, "ema": params}, 3, say=said.append)
    left = [i for i in range(IMAGES) if i not in (4, 5, 7)]
    wanted = numbers(*expected(params, left))
    for prefix in ("found", "found/ema"):
        assert metrics[f"{prefix}/bad_examples"] == 3
        for key, value in wanted.items():
            assert metrics[key.replace("found", prefix)] == pytest.approx(value, rel=1e-12), key
    assert len(said) == 3
    assert "line 5 (004.png): column 'caption' holds no caption" in said[0]
    assert "005.png" in said[1]
    assert "007.png" in said[2] and "3 tokens, more than pad(2) takes" in said[2]


def test_features_of_nan_find_nothing(table):
    params = correlated()
    ranks = expected(params)
    images, captions = len(ranks[0]), len(ranks[1])
    params["image"] = params["image"].at[0].set(jnp.nan)
    metrics = evals.measure(build(table), {"params": params}, 1)
    # The image itself has all captions of others before it, and stands before all other images.
    to_text, to_image = (r.copy() for r in ranks)
    to_text[0] = captions - CAPTIONS[0] + 1
    to_image[: CAPTIONS[0]] = images
    scores = expected(tables_without_image_0(params))[1]
    to_image[CAPTIONS[0] :] = scores[CAPTIONS[0] :] + 1
    assert metrics == pytest.approx(numbers(to_text, to_image), rel=1e-12)


def tables_without_image_0(params):
    """Image 0 opposite to everything, so that nobody finds it."""
    text = params["text"] / jnp.linalg.norm(params["text"], axis=1, keepdims=True)
    far = jnp.concatenate([params["text"], jnp.full((len(text), 1), 1e-3)], 1)
    image = jnp.concatenate([params["image"], jnp.zeros((IMAGES, 1))], 1)
    return {"image": image.at[0].set(0).at[0, -1].set(-1e3), "text": far}


def test_a_file_has_the_ranks_of_each_image(table, tmp_path):
    params = {"params": correlated(), "ema": correlated(1)}
    evals.measure(build(table, 8, part="[3:30]"), params, 7, tmp_path)
    for kind, file in (("params", "found-7.jsonl"), ("ema", "found-ema-7.jsonl")):
        lines = [json.loads(line) for line in (tmp_path / file).read_text().splitlines()]
        to_text, to_image = expected(params[kind], range(3, 30))
        assert [line["index"] for line in lines] == list(range(3, 30))
        assert [line["image_to_text"] for line in lines] == to_text.tolist()
        assert sum((line["text_to_image"] for line in lines), []) == to_image.tolist()
        assert [len(line["text_to_image"]) for line in lines] == CAPTIONS[3:30]
    assert lines[0]["name"].endswith("line 4 (003.png)")


def test_worker_processes_hand_over_all_captions(table):
    split = {"source": "table", "path": table, "transform": "decode"}
    from big_vit_lite import data

    section = config.Data(batch_size=16, train=split, workers=1, threads=1)
    task = TwoTables()
    with data.eval_stream(section.train, 16, None, section, text=task.text).iterate() as batches:
        found = [c for batch in batches for c in batch["captions"]]
    assert [c.index for c in found] == list(range(IMAGES))
    assert [len(c.tokens) for c in found] == CAPTIONS
    assert np.concatenate([c.tokens for c in found])[:, 0].tolist() == list(range(FIRST[-1]))
