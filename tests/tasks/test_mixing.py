"""Mixing on the device: formulas, areas, distributions, and the same on every mesh."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small import make_run, make_task, random_batch

from big_vit_lite import config, parallel
from big_vit_lite.data import order
from big_vit_lite.tasks import mixing

KEY = jax.random.key(3)
MODES = {
    "mixup": {"mixup": 0.3},
    "cutmix": {"cutmix": 1.0},
    "either": {"mixup": 0.8, "cutmix": 1.0, "cutmix_share": 0.5},
}


def batch(n=8, size=(4, 4)):
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.normal(size=(n, *size, 3)), jnp.float32)
    return images, jax.nn.one_hot(jnp.arange(n), n)


def goldens():
    path = pathlib.Path(__file__).parents[1] / "data/goldens/augmentations.npz"
    with np.load(path) as file:
        return {k.removeprefix("mix/"): file[k] for k in file if k.startswith("mix/")}


# mixup


def test_images_and_targets_share_one_weight_with_the_neighbour():
    images, targets = batch()
    mixed, soft = mixing.mixup(images, targets, 0.5, KEY)
    share = float(soft[0, 0])
    assert 0.5 <= share < 1.0
    np.testing.assert_allclose(
        mixed[3], share * images[3] + (1 - share) * images[2], rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(soft.sum(-1), 1.0, rtol=1e-6)
    np.testing.assert_allclose(soft[3, 2], 1 - share, rtol=1e-5)
    apart, soft = mixing.mixup(images, targets, 0.5, KEY, distance=3)
    np.testing.assert_allclose(
        apart[1], share * images[1] + (1 - share) * images[6], rtol=1e-5, atol=1e-6
    )


def test_zero_leaves_the_batch_alone():
    images, targets = batch()
    mixed, soft = mixing.mix(images, targets, config.Task(), KEY)
    assert mixed is images and soft is targets


def test_weights_follow_the_folded_beta_distribution():
    keys = jax.random.split(jax.random.key(0), 4000)
    images, targets = batch(2)
    step = jax.vmap(lambda k: mixing.mixup(images, targets, 0.4, k)[1][0, 0])
    shares = step(keys)
    # E max(l, 1-l) for Beta(a, a) by numerical integration on the exact density.
    grid = (np.arange(200_000) + 0.5) / 200_000
    density = (grid * (1 - grid)) ** (0.4 - 1)
    wanted = np.sum(np.maximum(grid, 1 - grid) * density) / density.sum()
    np.testing.assert_allclose(shares.mean(), wanted, atol=0.01)


# CutMix


@pytest.mark.parametrize(
    ("share", "centre", "rows", "columns"),
    [
        (0.75, (4, 6), (2, 6), (3, 9)),  # half of each side, 4x6, about the centre
        (0.75, (0, 11), (0, 2), (8, 12)),  # cut off above and on the right
        (0.0, (4, 6), (0, 8), (0, 12)),  # everything
        (1.0, (4, 6), (0, 0), (0, 0)),  # nothing
        (0.61, (4, 6), (2, 6), (3, 10)),  # sides of 4.996 and 7.49: 4 and 7, cut to whole pixels
        (0.59, (3, 5), (1, 6), (2, 9)),  # 5 and 7: of odd sides the longer half is below and right
    ],
)
def test_known_boxes(share, centre, rows, columns):
    keep, area = mixing.box((8, 12), jnp.float32(share), *map(jnp.int32, centre))
    wanted = np.ones((8, 12))
    wanted[slice(*rows), slice(*columns)] = 0
    np.testing.assert_array_equal(keep, wanted)
    np.testing.assert_allclose(area, wanted.mean(), rtol=1e-6)


@pytest.mark.parametrize("name", ["cutmix", "mixup"])
def test_equal_to_timms_on_recorded_draws(name):
    golden = goldens()
    images, labels = jnp.asarray(golden["images"]), golden["labels"]
    targets = jax.nn.one_hot(labels, 5) * 0.9 + 0.1 / 5
    size = images.shape[1:3]
    for case, (share, centre) in enumerate(zip(golden["shares"], golden["centres"], strict=True)):
        share = jnp.float32(share)
        weights = (share, share) if name == "mixup" else mixing.box(size, share, *centre)
        mixed, soft = mixing.blend(images, targets, *weights)
        np.testing.assert_allclose(mixed, golden[name][case], rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(soft, golden[f"{name}/targets"][case], rtol=1e-5, atol=1e-7)


def test_targets_are_blended_by_the_pixels_that_are_left():
    images, targets = batch(4, (9, 13))
    own = jnp.broadcast_to(jnp.arange(4.0)[:, None, None, None], images.shape)
    clipped = 0
    for seed in range(30):
        key = jax.random.key(seed)
        mixed, soft = mixing.cutmix(own, targets, 1.0, key)
        for i in range(4):
            kept = float(
                (mixed[i, ..., 0] == i).mean()
            )  # each pixel is wholly one's or the other's
            np.testing.assert_allclose(soft[i, i], kept, atol=1e-6)
            np.testing.assert_allclose(soft[i, i - 1], 1 - kept, atol=1e-6)
        drawn = float(jax.random.beta(jax.random.split(key)[0], 1.0, 1.0))
        clipped += kept > drawn + 0.1
    assert clipped > 5  # the share that was drawn would have been wrong


def test_boxes_follow_their_distribution():
    size, keys = (20, 30), jax.random.split(jax.random.key(0), 4000)
    zero, one = jnp.zeros((2, *size, 1)).at[0].set(1), jnp.eye(2)
    step = jax.jit(jax.vmap(lambda k: mixing.cutmix(zero, one, 1.0, k)))
    keeps, shares = (x[:, 0, ..., 0] for x in step(keys))
    rng = np.random.default_rng(0)
    side = np.sqrt(1 - rng.random(200_000))
    areas = np.ones(200_000)
    covered = []
    for length in size:
        cut, centre = (length * side).astype(int), rng.integers(0, length, 200_000)
        low, high = np.maximum(centre - cut // 2, 0), np.minimum(centre + (cut + 1) // 2, length)
        areas *= (high - low) / length
        covered.append((low[:, None] <= np.arange(length)) & (np.arange(length) < high[:, None]))
    np.testing.assert_allclose(shares.mean(), 1 - areas.mean(), atol=0.015)
    np.testing.assert_allclose(shares.std(), areas.std(), atol=0.015)
    wanted = 1 - np.mean(covered[0][:20_000, :, None] & covered[1][:20_000, None, :], 0)
    np.testing.assert_allclose(keeps.mean(0), wanted, atol=0.04)


# Either


def test_each_is_taken_in_its_share_of_the_steps():
    images, targets = batch(2)
    step = jax.jit(jax.vmap(mix_of(mixup=0.8, cutmix=1.0, cutmix_share=0.3), (None, None, 0)))
    mixed, soft = step(images, targets, jax.random.split(jax.random.key(0), 2000))
    pure = (mixed == images[None]) | (mixed == images[::-1][None])
    cut = np.asarray(pure.all((1, 2, 3, 4)))
    assert abs(cut.mean() - 0.3) < 0.04
    assert (soft[~cut, 0, 0] >= 0.5).all()  # mixup's shares are folded, CutMix's are not
    assert (soft[cut, 0, 0] < 0.5).any()
    np.testing.assert_allclose(soft.sum(-1), 1.0, rtol=1e-5)


def mix_of(**fields):
    task = config.Task(**fields)
    return lambda images, targets, key: mixing.mix(images, targets, task, key)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_share_of_nought_or_one_always_takes_the_same(share):
    images, targets = batch()
    mixed, soft = mix_of(mixup=0.8, cutmix=1.0, cutmix_share=share)(images, targets, KEY)
    _, share_key, centre_key = jax.random.split(KEY, 3)
    if share:
        drawn = jax.random.beta(share_key, 1.0, 1.0)
        weights = mixing.box((4, 4), drawn, *mixing.draw_pixel((4, 4), centre_key))
        wanted = mixing.blend(images, targets, *weights)
    else:
        wanted = mixing.mixup(images, targets, 0.8, share_key)
    np.testing.assert_allclose(mixed, wanted[0], rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(soft, wanted[1], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("mode", MODES)
def test_gradients_reach_both_images_by_their_weights(mode):
    images, targets = batch(3)
    step = mix_of(**MODES[mode])
    gradient = jax.grad(lambda x: step(x, targets, KEY)[0][1].sum())(images)
    np.testing.assert_allclose(gradient[0] + gradient[1], 1.0, rtol=1e-6)
    np.testing.assert_array_equal(gradient[2], 0.0)
    soft = step(images, targets, KEY)[1]
    np.testing.assert_allclose(gradient[1].mean(), soft[1, 1], rtol=1e-5)


# In the step


@pytest.mark.parametrize("axes", [{"data": 8}, {"data": 2, "fsdp": 4}])
def test_the_mesh_does_not_matter(axes):
    images, targets = batch(16)
    mesh = parallel.make_mesh(config.Mesh(**axes))
    sharded = jax.device_put((images, targets), parallel.batch_sharding(mesh))
    task = config.Task(**MODES["either"])
    step = jax.jit(lambda x, y, key: mixing.mix(x, y, task, key, distance=3))
    cut = set()
    for seed in range(6):
        key = jax.random.key(seed)
        with jax.set_mesh(mesh):
            got = step(*sharded, key)
        wanted = step(images, targets, key)
        cut.add(bool(((wanted[0] == images) | (wanted[0] == jnp.roll(images, 3, 0))).all()))
        for a, b in zip(got, wanted, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)
    assert cut == {False, True}  # both kinds were seen
    assert step._cache_size() == 2  # one for each placement: nothing compiles again


def test_nothing_compiles_again_and_smoothing_comes_first():
    run = make_run(task={**MODES["either"], "label_smoothing": 0.2})
    task = make_task(run)
    raw = random_batch(run, parallel.make_mesh(devices=jax.devices()[:1]), 0)
    prepare = jax.jit(task.prepare)
    for seed in range(6):
        prepared = prepare(raw, jax.random.key(seed))
        target = np.asarray(prepared["target"])
        np.testing.assert_allclose(target.sum(-1), 1.0, rtol=1e-5)
        np.testing.assert_allclose(target.min(), 0.2 / 10, rtol=1e-5)
    assert prepare._cache_size() == 1


# Partners


def data(repeats, batch_size=64, mix=()):
    split = {"source": "synthetic", "transform": ""}
    others = {
        f"m{i}": {**split, "repeats": r, "weight": weight} for i, (r, weight) in enumerate(mix)
    }
    return config.Data(batch_size=batch_size, train={**split, "repeats": repeats}, mix=others)


@pytest.mark.parametrize(
    ("repeats", "mix", "distance"),
    [(1, (), 1), (3, (), 3), (1, ((1, 2.0),), 1), (3, ((1, 2.0),), 12), (3, ((2, 0.25),), 15)],
)
def test_no_partner_is_a_copy(repeats, mix, distance):
    given = data(repeats, mix=mix)
    assert mixing.partner_distance(given) == distance
    splits = [given.train, *given.mix.values()]
    orders = [order.sampled("shuffle", 500, None, s.repeats, seed=i) for i, s in enumerate(splits)]
    weights, sizes = [s.weight for s in splits], [500] * len(splits)
    stream = order.Mixture(orders, weights, sizes, "") if mix else orders[0]
    for step in range(8):
        rows = stream(np.arange(64 * step, 64 * step + 64))[0]
        assert not (rows == np.roll(rows, distance)).any()
    if repeats > 1:
        assert (rows == np.roll(rows, 1)).any() or mix


def test_distances_fit_into_small_batches():
    assert mixing.partner_distance(data(3, batch_size=4)) == 2
    assert mixing.partner_distance(data(3, batch_size=1)) == 1
    run = make_run(task={"mixup": 0.5})
    assert make_task(run).partner_distance == 1
