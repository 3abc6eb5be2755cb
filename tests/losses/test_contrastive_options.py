"""Options of contrastive losses against plain numpy in float64 and finite differences."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_vit_lite import config, parallel
from big_vit_lite.losses import contrastive as losses
from big_vit_lite.losses.contrastive import Negatives

BATCH, WIDTH, SCALE, BIAS = 16, 6, 9.0, -3.0
BETA, MARGIN, SMOOTHING = 0.4, 0.45, 0.1


def features(seed=0, width=WIDTH):
    x, y = np.random.default_rng(seed).normal(size=(2, BATCH, width))
    y += 0.8 * x
    return [a / np.linalg.norm(a, axis=1, keepdims=True) for a in (x, y)]


def softmax(logits):
    p = np.exp(logits - logits.max(1, keepdims=True))
    return p / p.sum(1, keepdims=True)


def both_ways(one_way, *matrices):
    """Mean of a loss over rows and of the same over columns."""
    return 0.5 * (one_way(*matrices) + one_way(*(m.T for m in matrices)))


def smoothed(logits):
    q = (1 - SMOOTHING) * np.eye(BATCH) + SMOOTHING / BATCH
    return -(q * np.log(softmax(logits))).sum(1).mean()


def hard(logits):
    """Robinson 2021: negatives weigh e^(beta l), scaled to mean 1 over a row."""
    total = 0.0
    for i in range(BATCH):
        others = np.delete(logits[i], i)
        weight = np.exp(BETA * others)
        weight *= len(others) / weight.sum()
        positive = np.exp(logits[i, i])
        total -= np.log(positive / (positive + (weight * np.exp(others)).sum()))
    return total / BATCH


def semi_hard(logits):
    """FaceNet: only negatives that are less alike than the pair, by less than the margin."""
    total, counted = 0.0, 0
    for i in range(BATCH):
        gap = (logits[i, i] - logits[i]) / SCALE
        chosen = logits[i][(gap > 0) & (gap < MARGIN)]
        counted += len(chosen)
        total += np.log1p(np.exp(chosen - logits[i, i]).sum())
    assert 0 < counted < BATCH * (BATCH - 1) / 2  # the choice chooses
    return total / BATCH


def sigmoid_with(weights):
    """Sigmoid loss whose negatives weigh the mean of weights(similarities) over both directions."""

    def loss(x, y):
        s = x @ y.T
        w = 0.5 * (weights(s) + weights(s.T).T)
        np.fill_diagonal(w, 1.0)
        sign = 2 * np.eye(BATCH) - 1
        return (w * np.log1p(np.exp(-sign * (SCALE * s + BIAS)))).sum() / BATCH, w

    return loss


def hard_weights(s):
    w = np.exp(BETA * SCALE * s) * (1 - np.eye(BATCH))
    return (BATCH - 1) * w / w.sum(1, keepdims=True)


def semi_hard_weights(s):
    gap = np.diag(s)[:, None] - s
    return ((gap > 0) & (gap < MARGIN)).astype(float)


def teacher_cross_entropy(logits, teacher):
    return -(softmax(teacher) * np.log(softmax(logits))).sum(1).mean()


TEACHER = (*features(1, width=4), 12.0)
SOFTMAX = {
    "plain": ({}, lambda logits: -np.log(np.diag(softmax(logits))).mean()),
    "smoothed": ({"label_smoothing": SMOOTHING}, smoothed),
    "hard": ({"negatives": Negatives(hardness=BETA)}, hard),
    "semi-hard": ({"negatives": Negatives(semi_hard=MARGIN)}, semi_hard),
}
SIGMOID = {
    "hard": (Negatives(hardness=BETA), hard_weights),
    "semi-hard": (Negatives(semi_hard=MARGIN), semi_hard_weights),
}


def slopes(function, arguments, seed=3):
    """Slope of a function along one random direction of all arguments, by central differences."""
    rng = np.random.default_rng(seed)
    direction = [rng.normal(size=np.shape(a)) for a in arguments]
    h = 1e-5
    up, down = (
        function(*(a + sign * h * v for a, v in zip(arguments, direction, strict=True)))
        for sign in (1, -1)
    )
    return direction, (up - down) / (2 * h)


def along(gradients, direction):
    return sum(np.sum(np.asarray(g) * v) for g, v in zip(gradients, direction, strict=True))


# A ring of 2 devices also goes in chunks: each has 8 rows, the last block is shorter. One of 8 has
# 2 rows each, for which a chunk is too long.
BOTH = pytest.param("ring", 2, marks=pytest.mark.slow)
WALKS = [("full", 2), BOTH, ("ring", 8), ("chunked", 8)]


@pytest.mark.parametrize(("form", "devices"), WALKS)
def test_softmax_options_and_distillation(form, devices):
    arguments = (*features(), SCALE)
    mesh = parallel.make_mesh(config.Mesh(data=devices), jax.devices()[:devices])

    def by_hand(one_way):
        return lambda x, y, scale: both_ways(one_way, scale * x @ y.T)

    def distilled(x, y, scale):
        return both_ways(teacher_cross_entropy, scale * x @ y.T, 12.0 * TEACHER[0] @ TEACHER[1].T)

    @jax.jit
    def compute(x, y, scale):
        where = {"form": form, "chunk": 5}
        found = {
            name: jax.value_and_grad(
                lambda *v, o=options: losses.softmax_contrastive(*v, **o, **where), (0, 1, 2)
            )(x, y, scale)
            for name, (options, _) in SOFTMAX.items()
        }
        found["distilled"] = jax.value_and_grad(
            lambda *v: losses.contrastive_distillation(*v, *TEACHER, **where), (0, 1, 2)
        )(x, y, scale)
        return found

    wanted = {name: by_hand(one_way) for name, (_, one_way) in SOFTMAX.items()}
    wanted["distilled"] = distilled
    with jax.enable_x64(True), jax.set_mesh(mesh):
        for name, (loss, gradients) in compute(*arguments).items():
            np.testing.assert_allclose(loss, wanted[name](*arguments), rtol=1e-10, err_msg=name)
            direction, slope = slopes(wanted[name], arguments)
            np.testing.assert_allclose(along(gradients, direction), slope, rtol=1e-7, err_msg=name)
    # The options are four different losses.
    assert len({round(f(*arguments), 6) for f in wanted.values()}) == 5


@pytest.mark.parametrize(("form", "devices"), WALKS)
def test_sigmoid_options(form, devices):
    x, y = features()
    mesh = parallel.make_mesh(config.Mesh(data=devices), jax.devices()[:devices])

    @jax.jit
    def compute(x, y, scale, bias):
        return {
            name: jax.value_and_grad(
                lambda *v, n=negatives: losses.sigmoid_contrastive(
                    *v, negatives=n, form=form, chunk=5
                ),
                (0, 1, 2, 3),
            )(x, y, scale, bias)
            for name, (negatives, _) in SIGMOID.items()
        }

    with jax.enable_x64(True), jax.set_mesh(mesh):
        for name, (loss, gradients) in compute(x, y, SCALE, BIAS).items():
            wanted, weights = sigmoid_with(SIGMOID[name][1])(x, y)
            np.testing.assert_allclose(loss, wanted, rtol=1e-10, err_msg=name)

            def held(x, y, scale, bias, weights=weights):
                """The loss with its weights held."""
                sign = 2 * np.eye(BATCH) - 1
                logits = sign * (scale * x @ y.T + bias)
                return (weights * np.log1p(np.exp(-logits))).sum() / BATCH

            direction, slope = slopes(held, (x, y, SCALE, BIAS))
            np.testing.assert_allclose(along(gradients, direction), slope, rtol=1e-7, err_msg=name)


def test_a_negative_as_alike_as_the_pair_is_not_semi_hard():
    x = np.eye(3, dtype=np.float32)
    y = x.copy()
    y[1] = x[0]  # text 1 is text 0 once more
    semi = losses.softmax_contrastive(x, y, 2.0, negatives=Negatives(semi_hard=5.0))
    similar = x @ y.T
    total = 0.0
    for s in (similar, similar.T):
        for i in range(3):
            chosen = s[i][(s[i] < s[i, i]) & (s[i] > s[i, i] - 5.0)]
            total += np.log1p(np.exp(2.0 * (chosen - s[i, i])).sum()) / 6
    np.testing.assert_allclose(semi, total, rtol=1e-6)


def test_weights_of_hard_negatives_have_mean_one():
    """Where all negatives are alike, hardness changes nothing."""

    @jax.jit
    def compute(x):
        return [
            (
                losses.softmax_contrastive(x, x, 3.0, negatives=negatives),
                losses.sigmoid_contrastive(x, x, 3.0, -1.0, negatives=negatives),
            )
            for negatives in (losses.ALL, Negatives(hardness=2.0))
        ]

    plain, hard = compute(np.eye(8, dtype=np.float32))
    np.testing.assert_allclose(hard, plain, rtol=1e-6)


def test_a_student_like_its_teacher_learns_nothing_and_pays_the_entropy():
    x, y = features()
    p_row, p_column = softmax(SCALE * x @ y.T), softmax(SCALE * y @ x.T)
    entropy = -0.5 * ((p_row * np.log(p_row)).sum() + (p_column * np.log(p_column)).sum()) / BATCH
    with jax.enable_x64(True):
        compute = jax.jit(jax.value_and_grad(losses.contrastive_distillation, tuple(range(6))))
        loss, gradients = compute(x, y, SCALE, x, y, SCALE)
        np.testing.assert_allclose(loss, entropy, rtol=1e-10)
        for gradient in gradients:
            np.testing.assert_allclose(gradient, 0.0, atol=1e-12)


def test_margin_loss_pulls_the_same_and_pushes_the_different():
    first = np.array([[0.0, 0.0], [0.0, 0.0], [0.0, 0.0], [1.0, 1.0]], np.float32)
    second = np.array([[3.0, 4.0], [0.3, 0.4], [3.0, 4.0], [1.0, 1.0]], np.float32)
    different = np.array([False, True, True, True])
    margin = jax.jit(functools.partial(losses.margin_contrastive, margin=2.0))
    loss = margin(first, second, different)
    # d = 5, 0.5, 5, 0: the same pays d^2, the different (2 - d)^2 within the margin.
    np.testing.assert_allclose(loss, [25.0, 2.25, 0.0, 4.0], rtol=1e-6)
    gradient = jax.jit(jax.grad(lambda a: margin(a, second, different).sum()))(first)
    np.testing.assert_allclose(
        gradient, [[-6.0, -8.0], [1.8, 2.4], [0.0, 0.0], [0.0, 0.0]], rtol=1e-6
    )
    every = margin(first[:, None], second[None], ~np.eye(4, dtype=bool))
    assert every.shape == (4, 4) and every[0, 0] == 25.0 and every[0, 1] == 2.25


def test_wrong_options_are_said():
    x, y = (jnp.asarray(a) for a in features())
    for negatives, message in (
        (Negatives(hardness=-1.0), "hardness=-1.0 is below 0"),
        (Negatives(semi_hard=0.0), "semi_hard=0.0 is no margin"),
        (Negatives(0.5, 0.1), "hardness and semi_hard both choose negatives; give one"),
    ):
        with pytest.raises(config.InputError, match=message):
            losses.softmax_contrastive(x, y, 1.0, negatives=negatives)
        with pytest.raises(config.InputError, match=message):
            losses.sigmoid_contrastive(x, y, 1.0, 0.0, negatives=negatives)
    with pytest.raises(config.InputError, match="label_smoothing=1.5 is no share"):
        losses.softmax_contrastive(x, y, 1.0, label_smoothing=1.5)
