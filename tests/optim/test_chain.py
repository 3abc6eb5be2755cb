"""The optimiser chain against the update rules written out in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from big_vit_lite import config, models, optim, parallel


def make_run(**optimizer):
    split = {"source": "digits", "transform": "decode(channels=1)"}
    return config.Run(
        steps=10,
        data={"batch_size": 8, "train": split},
        optim={"schedule": "constant", **optimizer},
    )


def random_trees(count, seed=0):
    rng = np.random.default_rng(seed)
    return [
        {
            "Dense_0": {
                "kernel": jnp.asarray(rng.normal(size=(4, 3)), jnp.float32),
                "bias": jnp.asarray(rng.normal(size=3), jnp.float32),
            },
            "head": {"kernel": jnp.asarray(rng.normal(size=(3, 2)), jnp.float32)},
        }
        for _ in range(count)
    ]


def run_chain(run, params, gradients):
    optimizer = optim.build(run, params, steps=10, examples=80)
    state = optimizer.init(params)
    for grads in gradients:
        updates, state = optimizer.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    return params


def leaves(tree):
    return {
        k: np.asarray(v, np.float64)
        for k, v in [
            ("Dense_0/kernel", tree["Dense_0"]["kernel"]),
            ("Dense_0/bias", tree["Dense_0"]["bias"]),
            ("head/kernel", tree["head"]["kernel"]),
        ]
    }


def test_adamw_decouples_decay_and_spares_biases():
    params, *gradients = random_trees(4)
    run = make_run(lr=0.01, weight_decay=0.3, b1=0.8, b2=0.9, eps=1e-6)
    got = leaves(run_chain(run, params, gradients))
    for name, w in leaves(params).items():
        m = v = 0.0
        for t, grads in enumerate(gradients, 1):
            g = leaves(grads)[name]
            m, v = 0.8 * m + 0.2 * g, 0.9 * v + 0.1 * g * g
            step = (m / (1 - 0.8**t)) / (np.sqrt(v / (1 - 0.9**t)) + 1e-6)
            w = w - 0.01 * (step + (0.3 * w if name.endswith("kernel") else 0.0))
        np.testing.assert_allclose(got[name], w, rtol=1e-5, err_msg=name)


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_with_momentum(nesterov):
    params, *gradients = random_trees(4, seed=1)
    got = leaves(
        run_chain(make_run(name="sgd", lr=0.1, momentum=0.7, nesterov=nesterov), params, gradients)
    )
    for name, w in leaves(params).items():
        trace = 0.0
        for grads in gradients:
            g = leaves(grads)[name]
            trace = g + 0.7 * trace
            w = w - 0.1 * (g + 0.7 * trace if nesterov else trace)
        np.testing.assert_allclose(got[name], w, rtol=1e-5, err_msg=name)


def test_clipping_is_by_the_norm_of_all_gradients_together():
    params, grads = random_trees(2, seed=2)
    norm = float(np.sqrt(sum((g**2).sum() for g in leaves(grads).values())))
    run = make_run(name="sgd", lr=1.0, momentum=0.0, clip_norm=norm / 4)
    got = leaves(run_chain(run, params, [grads]))
    for name, w in leaves(params).items():
        np.testing.assert_allclose(got[name], w - leaves(grads)[name] / 4, rtol=1e-5)


def test_lr_rules_freeze_and_scale_by_path_first_match_wins():
    params, grads = random_trees(2, seed=3)
    rules = (("head/", 0.0), ("bias$", 0.5), (".*", 1.0))
    run = make_run(name="sgd", lr=1.0, momentum=0.0, weight_decay=0.1, lr_rules=rules)
    before, after, g = leaves(params), leaves(run_chain(run, params, [grads])), leaves(grads)
    np.testing.assert_array_equal(after["head/kernel"], before["head/kernel"])
    np.testing.assert_allclose(
        after["Dense_0/bias"], before["Dense_0/bias"] - 0.5 * g["Dense_0/bias"], rtol=1e-5
    )
    w = before["Dense_0/kernel"]
    np.testing.assert_allclose(
        after["Dense_0/kernel"], w - g["Dense_0/kernel"] - 0.1 * w, rtol=1e-5
    )


def test_rules_must_cover_and_must_match():
    params, *_ = random_trees(1)
    with pytest.raises(
        config.InputError, match=r"optim\.lr_rules: no rule matches parameter 'Dense_0/bias'"
    ):
        optim.multipliers(params, (("kernel$", 1.0),), "optim.lr_rules")
    with pytest.raises(config.InputError, match="rule 'encoderblok' matches no parameter"):
        optim.multipliers(params, (("encoderblok", 0.0), (".*", 1.0)), "optim.lr_rules")


def test_durations_of_the_schedule_are_turned_into_steps():
    run = make_run(lr=1.0, warmup="1 epochs")
    optimizer = optim.build(run, random_trees(1)[0], steps=100, examples=80)  # 10 steps an epoch
    np.testing.assert_allclose(
        [optimizer.lr(s) for s in (0, 4, 9, 50)], [0.1, 0.5, 1.0, 1.0], rtol=1e-6
    )


def test_first_moment_may_be_bfloat16():
    params, grads = random_trees(2)
    optimizer = optim.build(make_run(mu_dtype="bfloat16"), params, steps=10, examples=80)
    types = {x.dtype for x in jax.tree.leaves(optimizer.init(params)) if x.ndim}
    assert types == {jnp.dtype("bfloat16"), jnp.dtype("float32")}


def test_rules_name_single_layers_also_when_they_are_scanned():
    rules = (("encoderblock_0/", 0.25), ("encoderblock_1/.*bias$", 0.0), (".*", 1.0))
    layers = {"kernel": jnp.ones((2, 4, 3)), "bias": jnp.ones((2, 3))}
    stacked = {"Transformer": {"encoderblock": layers}}
    factors = optim.multipliers(stacked, rules, "optim.lr_rules")["Transformer"]["encoderblock"]
    np.testing.assert_array_equal(np.broadcast_to(factors["kernel"], (2, 4, 3))[:, 0, 0], [0.25, 1])
    np.testing.assert_array_equal(factors["bias"][:, 0], [0.25, 0.0])
    run = make_run(name="sgd", lr=1.0, momentum=0.0, weight_decay=0.5, lr_rules=rules)
    after = run_chain(run, stacked, [stacked])["Transformer"]["encoderblock"]
    # w - lr_rule * (g + 0.5 w) with w = g = 1; biases do not decay.
    np.testing.assert_allclose(after["kernel"][:, 0, 0], [1 - 0.25 * 1.5, 1 - 1.5])
    np.testing.assert_allclose(after["bias"][:, 0], [0.75, 1.0])


def test_warmup_longer_than_the_run_is_refused():
    with pytest.raises(config.InputError, match=r"optim\.warmup is 12 steps .* than the 10 steps"):
        optim.build(make_run(warmup=12), random_trees(1)[0], steps=10, examples=80)


def test_parts_have_rates_and_schedules_of_their_own():
    params, grads = random_trees(2, seed=4)
    parts = {
        "head": {"match": "^head/", "lr": 0.5, "schedule": "linear", "begin": 4, "warmup": 2},
        "rest": {"match": "bias$"},
    }
    rules = (("bias$", 0.5), (".*", 1.0))
    run = make_run(name="sgd", lr=0.1, momentum=0.0, lr_rules=rules, parts=parts)
    optimizer = optim.build(run, params, steps=10, examples=80)
    state, g = optimizer.init(params), leaves(grads)
    # From step 4 on up in two steps, then down a line over what is left of the 10: 8 - 2 steps.
    rates = [0, 0, 0, 0, 0.25, 0.5, 0.5, 0.5 * 3 / 4, 0.25, 0.5 / 4]
    for step, rate in enumerate(rates):
        assert int(optimizer.updates(state)) == step
        updates, state = optimizer.update(grads, state, params)
        found = leaves(updates)
        np.testing.assert_allclose(found["head/kernel"], -rate * g["head/kernel"], rtol=1e-5)
        np.testing.assert_allclose(found["Dense_0/kernel"], -0.1 * g["Dense_0/kernel"], rtol=1e-5)
        np.testing.assert_allclose(found["Dense_0/bias"], -0.05 * g["Dense_0/bias"], rtol=1e-5)


@pytest.mark.parametrize(
    ("part", "error"),
    [
        ({"match": "^tail/"}, r"optim\.parts: rule '\^tail/' matches no parameter"),
        (
            {"match": "^head/", "begin": 5, "warmup": "60%"},
            r"optim\.parts\.x\.begin is 5 steps, optim\.parts\.x\.warmup is 6 steps and "
            r"optim\.parts\.x\.cooldown 0, more than the 10 steps of the run; train longer",
        ),
        (
            {"match": "^head/", "begin": 5, "warmup": 6},
            r"more than the 10 steps of the run; set them as a share, such as "
            r"--config\.optim\.parts\.x\.warmup",
        ),
    ],
)
def test_parts_that_cannot_be(part, error):
    with pytest.raises(config.InputError, match=error):
        optim.build(make_run(parts={"x": part}), random_trees(1)[0], steps=10, examples=80)


def test_nothing_to_learn_is_refused():
    run = make_run(lr_rules=((".*", 0.0),))
    with pytest.raises(config.InputError, match="the factor 0: nothing would be learned"):
        optim.build(run, random_trees(1)[0], steps=10, examples=80)


@pytest.mark.parametrize("name", ["adamw", "muon", "sgd"])
def test_locked_layers_are_the_same_scanned_and_unrolled(name):
    """States of both forms have the same leaves, so that either resumes the other."""
    rng = np.random.default_rng(0)

    def layer():
        return {
            "MlpBlock_0": {
                "Dense_0": {
                    "kernel": jnp.asarray(rng.normal(size=(4, 3)), jnp.float32),
                    "bias": jnp.asarray(rng.normal(size=3), jnp.float32),
                }
            }
        }

    unrolled = {
        "Transformer": {f"encoderblock_{i}": layer() for i in range(3)},
        "head": {"kernel": jnp.ones((3, 2)), "bias": jnp.ones(2)},
    }
    rules = (("encoderblock_[01]/", 0.0), ("^head/", 0.0), (".*", 1.0))
    run = make_run(name=name, lr=0.1, weight_decay=0.1, clip_norm=0.5, lr_rules=rules)

    def once(params):
        optimizer = optim.build(run, params, steps=10, examples=80)
        loss = lambda p: sum(jnp.sum(x**2) for x in jax.tree.leaves(optimizer.lock(p)))  # noqa: E731
        grads = jax.grad(loss)(params)
        updates, state = optimizer.update(grads, optimizer.init(params), params)
        return grads, updates, state

    grads, updates, state = once(unrolled)
    scanned = once(models.stack_layers(unrolled))
    for mine, theirs in zip((grads, updates, state), scanned, strict=True):
        theirs = models.unstack_layers(theirs)
        assert jax.tree.structure(mine) == jax.tree.structure(theirs)
        for a, b in zip(jax.tree.leaves(mine), jax.tree.leaves(theirs), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
    assert not any(np.any(x) for x in jax.tree.leaves(grads["Transformer"]["encoderblock_1"]))
    assert np.all(grads["Transformer"]["encoderblock_2"]["MlpBlock_0"]["Dense_0"]["bias"])
    kept = [parallel.path_name(p) for p, _ in jax.tree_util.tree_leaves_with_path(state)]
    assert any("encoderblock_0" in name for name in kept)  # of a stack all layers or none
    assert not any("head" in name for name in kept)


def test_running_statistics_never_decay():
    params = {"norm_0": {name: np.ones(3, np.float32) for name in ("scale", "mean", "var")}}
    run = make_run(lr=0.5, weight_decay=0.1, decay_rules=((".*", 1.0),))
    got = run_chain(run, params, [jax.tree.map(np.zeros_like, params)])["norm_0"]
    assert {name: float(x[0]) for name, x in got.items()} == pytest.approx(
        {"scale": 0.95, "mean": 1.0, "var": 1.0}
    )
