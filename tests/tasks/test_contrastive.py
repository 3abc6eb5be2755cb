"""The contrastive task: its loss in closed form, on any mesh, in parts, locked, with a teacher."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pairs
import pytest
import small

from big_vit_lite import agreement, config, models, parallel, tasks
from big_vit_lite.losses import contrastive as losses
from big_vit_lite.losses.contrastive import Negatives
from big_vit_lite.parallel import training as steps
from big_vit_lite.tasks import flops
from big_vit_lite.tasks.teacher import Teacher

SIGMOID = {"task": {"loss": "sigmoid"}, "joint": {"logit_scale": 10.0, "logit_bias": -3.0}}
CLIP = {"joint": {"max_logit_scale": 100.0}}
ENDS = {"pool": "end", "end_id": 258}
PLAIN = {"name": "sgd", "momentum": 0.0}  # where the update is not the matter: compiled sooner


def embeddings(task, params, batch):
    """Features as evaluation has them, in float64: nothing random is on."""
    image = jax.jit(task.encode_image)(params, batch)
    text = jax.jit(task.encode_text)(params, batch["text"])
    return np.asarray(image, np.float64), np.asarray(text, np.float64)


def cross_entropy(logits):
    top = logits.max(axis=1, keepdims=True)
    sums = np.log(np.exp(logits - top).sum(axis=1)) + top[:, 0]
    return np.mean(sums - np.diag(logits))


def closed_form(loss, image, text, scale, bias):
    logits = scale * image @ text.T + bias
    if loss == "softmax":
        return (cross_entropy(logits) + cross_entropy(logits.T)) / 2
    signs = 2 * np.eye(len(logits)) - 1
    return np.log1p(np.exp(-signs * logits)).sum() / len(logits)


@pytest.mark.parametrize(("fields", "loss"), [(CLIP, "softmax"), (SIGMOID, "sigmoid")])
def test_loss_is_the_papers_and_pairs_are_rows(fields, loss):
    run = pairs.make_run(text=ENDS, **fields)
    task, mesh = pairs.make_task(run), pairs.one_device()
    params, batch = pairs.random_params(task), pairs.random_batch(run, mesh)
    found, metrics = jax.jit(task.loss)(params, task.prepare(batch, None), jax.random.key(1))
    image, text = embeddings(task, params, batch)
    scale, bias = float(np.exp(params["t"]).item()), float(params.get("b", np.zeros(1)).item())
    wanted = closed_form(loss, image, text, scale, bias)
    assert found == pytest.approx(wanted, rel=1e-5)
    assert closed_form(loss, image, np.roll(text, 1, axis=0), scale, bias) != pytest.approx(
        wanted, rel=1e-3
    )
    assert metrics["logit_scale"] == pytest.approx(scale, rel=1e-5)
    assert metrics["similarity"] == pytest.approx((image * text).sum(-1).mean(), abs=1e-6)
    assert ("logit_bias" in metrics) == (loss == "sigmoid")


SMOOTH, HARD, SEMI = {"label_smoothing": 0.2}, {"hardness": 0.7}, {"semi_hard": 0.3}


@pytest.mark.parametrize(
    ("loss", "options"),
    [
        *(("softmax", options) for options in (SMOOTH, HARD, SEMI)),
        *(("sigmoid", options) for options in (HARD, SEMI)),
    ],
    ids=str,
)
def test_options_of_the_loss_are_the_tasks(loss, options):
    image, text = np.random.default_rng(0).normal(size=(2, 16, 5)).astype(np.float32)
    features = {"image": image, "text": text + 2 * image}
    features = {k: x / np.linalg.norm(x, axis=1, keepdims=True) for k, x in features.items()}
    fields = SIGMOID if loss == "sigmoid" else CLIP
    task = pairs.make_task(pairs.make_run(**fields | {"task": {"loss": loss, **options}}))
    params = pairs.random_params(task)
    found, _ = task.compare(params, features)

    def direct(label_smoothing=0.0, **negatives):
        common = (*features.values(), np.exp(params["t"].item()))
        chosen = Negatives(**negatives)
        if loss == "sigmoid":
            return losses.sigmoid_contrastive(*common, params["b"].item(), negatives=chosen)
        smoothing = {"label_smoothing": label_smoothing}
        return losses.softmax_contrastive(*common, **smoothing, negatives=chosen)

    assert found == pytest.approx(float(direct(**options)), rel=1e-5)
    assert found != pytest.approx(float(direct()), rel=1e-2)


@pytest.mark.parametrize(
    ("options", "batch", "walk"),
    [
        ({}, 4096, {"form": "full", "chunk": config.Task().chunk}),
        ({}, 4104, {"form": "ring", "chunk": config.Task().chunk}),
        ({"form": "chunked", "chunk": 8}, 32, {"form": "chunked", "chunk": 8}),
    ],
)
def test_the_walk_over_pairs_is_the_one_that_is_asked_for(options, batch, walk):
    run = pairs.make_run(batch, task=options)
    task = pairs.make_task(run)
    assert task.walk == walk
    params = pairs.random_params(task)
    spec = dict.fromkeys(("image", "text"), jax.ShapeDtypeStruct((batch, 16), np.float32))
    with jax.set_mesh(parallel.make_mesh(config.Mesh(data=8))):
        program = str(jax.make_jaxpr(lambda features: task.compare(params, features)[0])(spec))
    assert ("ppermute" in program) == (walk["form"] == "ring")
    assert (f"[{batch},{batch}]" in program) == (walk["form"] == "full")


def make_either(loss, **task):
    """CLIP with a MAP head, which a tensor axis splits, or SigLIP."""
    model, fields = ({"pool": "map"}, CLIP) if loss == "softmax" else ({}, SIGMOID)
    fields = fields | {"task": {"loss": loss, **task}}
    return pairs.make_run(text=ENDS, model={"scan": True, **model}, **fields)


@functools.cache
def on_one_device(loss):
    """Loss, metrics and gradients of the whole batch and the full matrix."""
    return pairs.loss_and_gradients(make_either(loss), {}, 1)


@pytest.mark.parametrize(
    ("loss", "form", "sizes"),
    [
        ("softmax", "full", {"data": 2, "fsdp": 2, "tensor": 2}),
        ("sigmoid", "ring", {"data": 2, "fsdp": 4}),
    ],
    ids=["softmax, full, tensor", "sigmoid, ring, fsdp"],
)
def test_loss_and_gradients_on_any_mesh_are_those_of_one_device(loss, form, sizes, monkeypatch):
    monkeypatch.setattr("big_vit_lite.parallel.rules.MIN_FSDP_SIZE", 64)
    wanted, _, reference = on_one_device(loss)
    loss, _, grads = pairs.loss_and_gradients(make_either(loss, form=form), sizes, 8)
    assert loss == pytest.approx(wanted, rel=1e-5)
    worst, name = small.distance(grads, reference)
    assert worst < 1e-5, name


def test_a_batch_in_parts_has_the_whole_batchs_gradient_and_more_than_its_parts():
    run = make_either("sigmoid")
    loss, metrics, grads = pairs.loss_and_gradients(run, {}, 1, accumulate=4)
    wanted, told, reference = on_one_device("sigmoid")
    assert loss == pytest.approx(wanted, rel=1e-6)
    worst, name = small.distance(grads, reference)
    assert worst < 1e-5, name
    assert {"t", "b"} <= grads.keys() and metrics.keys() == told.keys()

    class MeanOfParts:  # what a task gets that is a mean over examples
        def __init__(self, task):
            self.model, self.init = task.model, task.init
            self.prepare, self.loss = task.prepare, task.loss

    parts = MeanOfParts(pairs.make_task(run))
    other, _, wrong = pairs.loss_and_gradients(run, {}, 1, accumulate=4, task=parts)
    assert other != pytest.approx(wanted, rel=1e-2)
    assert small.distance(wrong, reference)[0] > 1e-2


def test_images_become_float_a_part_of_the_batch_at_a_time():
    image = ((64, 64, 3), np.uint8)
    run = pairs.make_run(64, model={"patch": 32})
    task, mesh = pairs.make_task(run, image=image), pairs.one_device()

    def compute(params, batch):
        batch = task.prepare(batch, jax.random.key(1))
        return steps.gradients(task, params, batch, jax.random.key(2), 8)

    lowered = jax.jit(compute).lower(
        models.abstract_params(task.model), pairs.batch_spec(run, mesh, image=image)
    )
    floats = 4 * 64 * np.prod(image[0])
    assert lowered.compile().memory_analysis().temp_size_in_bytes < 0.8 * floats


def train(run, task=None, params=None):
    """Parameters at first, the state after two steps, and the metrics of each.

    Args:
        params: to begin with; None: the run's own.
    """
    mesh = pairs.one_device()
    task = task or pairs.make_task(run, mesh)
    training = parallel.compile_training(
        task, small.make_optimizer(run, task), mesh, pairs.batch_spec(run, mesh), run.seed
    )
    state = training.init() if params is None else small.drawn_state(training, params)
    first = jax.device_get(state["params"])
    if parallel.TEACHER in training.abstract:
        state[parallel.TEACHER] = jax.device_put(pairs.random_params(task.teacher, 7))
    metrics = [None, None]
    for i in range(2):
        state, metrics[i] = training.step(state, pairs.random_batch(run, mesh, i))
    return first, state, metrics


def test_a_locked_tower_stays_and_has_no_moments_and_no_part_in_the_norm():
    rules = (("^img/", 0.0), (".*", 1.0))
    run = pairs.make_run(optim={"lr_rules": rules, "weight_decay": 0.1, "lr": 1e-2})
    first, state, _ = train(run, params=pairs.random_params(pairs.make_task(run)))
    for name, leaf in small.named(first).items():
        moved = not np.array_equal(leaf, small.named(state["params"])[name])
        assert moved == (not name.startswith("img/")), name
    moments = small.named(state["opt_state"])
    assert any("/mu/txt/" in name for name in moments)
    assert not any("/img/" in name for name in moments)
    _, _, grads = pairs.loss_and_gradients(run, {}, 1, params=first)
    assert all(not grad.any() for name, grad in grads.items() if name.startswith("img/"))
    free = run.model_copy(update={"optim": config.Optim()})
    _, _, whole = pairs.loss_and_gradients(free, {}, 1, params=first)
    for name, grad in grads.items():  # what is not locked has the gradient it always had
        if not name.startswith("img/"):
            assert np.abs(grad - whole[name]).max() <= 1e-6 * small.scale(name, whole), name


def test_each_tower_and_layer_moves_by_its_own_rate_and_decay():
    """An update of plain gradient descent, leaf by leaf; layers are scanned."""
    rates = {r"^txt/Encoder_0/encoderblock_0/": 0.0, "^img/embedding": 0.0, "^img/": 0.5, ".*": 1.0}
    decays = {"^img/.*kernel$": 1.0, "^txt/.*bias$": 2.0, ".*": 0.0}
    run = pairs.make_run(
        text={"depth": 2, "scan": True},
        optim={
            "name": "sgd",
            "momentum": 0.0,
            "schedule": "constant",
            "lr": 0.1,
            "weight_decay": 0.2,
            "lr_rules": tuple(rates.items()),
            "decay_rules": tuple(decays.items()),
            "parts": {"text": {"match": "^txt/", "lr": 0.01}},
        },
    )
    task = pairs.make_task(run)
    params, optimizer = pairs.random_params(task), small.make_optimizer(run, task)
    _, _, found = pairs.loss_and_gradients(run, {}, 1, params=params)
    grads = jax.tree.map_with_path(lambda path, _: found[parallel.path_name(path)], params)
    updates, _ = jax.jit(optimizer.update)(grads, optimizer.init(params), params)
    before, grads, updates = (
        small.named(models.unstack_layers(x)) for x in (params, grads, updates)
    )

    def first(rules, name):
        return next(value for pattern, value in rules.items() if re.search(pattern, name))

    for name, gradient in grads.items():
        rate = first(rates, name) * (0.01 if name.startswith("txt/") else 0.1)
        step = rate * (gradient + 0.2 * first(decays, name) * before[name])
        np.testing.assert_allclose(updates[name], -step, rtol=1e-5, atol=1e-8, err_msg=name)
    moving = {name for name, update in updates.items() if update.any()}
    locked = ("txt/Encoder_0/encoderblock_0/", "img/embedding")
    assert moving == {name for name in updates if not name.startswith(locked)}


def test_features_of_a_locked_tower_teach_the_text_as_its_images_do():
    rules = (("^img/", 0.0), (".*", 1.0))
    run = pairs.make_run(optim={"lr_rules": rules}, joint={"projections": "text"})
    task, mesh = pairs.make_task(run), pairs.one_device()
    params, batch = pairs.random_params(task), pairs.random_batch(run, mesh)
    images = jax.jit(task.images)(batch)
    raw = jax.jit(task.model.img.apply)({"params": params["img"]}, images)[0]

    def gradient(task, batch):
        def loss(params):
            return task.loss(params, task.prepare(batch, None), jax.random.key(0))[0]

        value, grads = jax.device_get(jax.jit(jax.value_and_grad(loss))(params))
        return value, small.named(grads["txt"])

    width = ((run.model.width,), np.float32)
    stated = run.model_copy(update={"model": run.model.model_copy(update={"image_size": 8})})
    of_features = pairs.make_task(stated, image=(None, None), features=width)
    loss, grads = gradient(of_features, {"features": 3 * raw, "text": batch["text"]})
    wanted, reference = gradient(task, batch)
    assert loss == pytest.approx(float(wanted), rel=1e-6)  # of any length
    assert small.distance(grads, reference)[0] < 1e-5
    # The model still has its tower: evaluations see images.
    assert jax.jit(of_features.encode_image)(params, batch).shape == (16, 16)
    with pytest.raises(config.InputError, match="features of 9 numbers, and the image tower makes"):
        pairs.make_task(stated, image=(None, None), features=((9,), np.float32))
    with pytest.raises(config.InputError, match=r"set model.image_size, such as 224"):
        pairs.make_task(run, image=(None, None), features=width)


def test_a_teacher_is_learned_from_and_never_changes():
    run = pairs.make_run(task={"teacher": "unused", "teacher_weight": 0.5}, optim=PLAIN)
    task = pairs.make_task(run)
    theirs = pairs.make_task(pairs.make_run(model={"width": 24, "heads": 3}))
    task.teacher = Teacher(theirs.model, (0.4,), (0.3,))
    params, state, (first, _) = train(run, task, pairs.random_params(task))
    before = pairs.random_params(task.teacher, 7)
    assert small.distance(small.named(state["teacher"]), small.named(before))[0] == 0
    assert first["loss"] == pytest.approx(
        float(first["contrastive_loss"] + 0.5 * first["teacher_loss"]), rel=1e-6
    )
    batch = pairs.random_batch(run, pairs.one_device())
    image, text = embeddings(task, params, batch)
    theirs.mean, theirs.std = (0.4,), (0.3,)
    taught = [np.asarray(x, np.float64) for x in embeddings(theirs, before, batch)]
    scale = np.exp(before["t"])  # the teacher's own

    def log_softmax(x):
        x = x - x.max(axis=1, keepdims=True)
        return x - np.log(np.exp(x).sum(axis=1, keepdims=True))

    wanted = 0.0
    for ours, teachers in (
        (image @ text.T, taught[0] @ taught[1].T),
        (text @ image.T, taught[1] @ taught[0].T),
    ):
        p = np.exp(log_softmax(scale * teachers))
        wanted -= (p * log_softmax(np.exp(params["t"]) * ours)).sum(axis=1).mean() / 2
    assert first["teacher_loss"] == pytest.approx(wanted, rel=1e-4)


def test_a_teacher_reads_a_batch_in_as_many_parts_as_its_gradient_is_made_in():
    teacher = pairs.make_task(pairs.make_run(model={"width": 24, "heads": 3}))
    params, features, temporaries = pairs.random_params(teacher, 5), [], []
    for parts in (1, 8):
        run = pairs.make_run(64, optim={"accumulate": parts}, model={"depth": 2})
        task, batch = pairs.make_task(run), pairs.random_batch(run, pairs.one_device())
        task.teacher = Teacher(teacher.model, (0.4,), (0.3,))
        prepared = task.prepare(batch, None)
        teach = jax.jit(task.teach).lower(params, prepared).compile()
        features.append(teach(params, prepared))
        temporaries.append(teach.memory_analysis().temp_size_in_bytes)
    for name in ("teacher_image", "teacher_text", "teacher_scale"):
        np.testing.assert_allclose(features[1][name], features[0][name], rtol=1e-5, atol=1e-6)
    assert temporaries[1] < 0.5 * temporaries[0], temporaries


def test_batch_norms_of_a_resnet_keep_running_means():
    tower = {"variant": "RN50", "width": 8, "stages": (1, 1, 1, 1), "batch_norm": "batch"}
    unset = dict.fromkeys(("depth", "heads", "mlp_dim", "patch"))
    run = pairs.make_run(batch_size=8, model={**tower, **unset, "pool": "cls"}, optim=PLAIN)
    shape = ((32, 32, 3), np.uint8)
    task, mesh = pairs.make_task(run, image=shape), pairs.one_device()
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.integers(0, 256, (8, 32, 32, 3), np.uint8),
        "text": pairs.random_batch(run, mesh)["text"],
    }
    training = parallel.compile_training(
        task,
        small.make_optimizer(run, task),
        mesh,
        pairs.batch_spec(run, mesh, image=shape),
        run.seed,
    )
    params = pairs.random_params(task)
    norm = params["img"]["norm_0"]
    norm |= {"mean": np.zeros_like(norm["mean"]), "var": np.ones_like(norm["var"])}
    kernel = np.asarray(params["img"]["conv_0"]["kernel"], np.float64)
    state = small.drawn_state(training, params)
    state, _ = training.step(state, jax.device_put(batch, parallel.batch_sharding(mesh)))
    x = task.images({"image": jnp.asarray(batch["image"])})
    maps = jax.lax.conv_general_dilated(
        x, jnp.asarray(kernel, jnp.float32), (2, 2), ((1, 1), (1, 1)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )  # fmt: skip
    stored = state["params"]["img"]["norm_0"]
    np.testing.assert_allclose(stored["mean"], 0.1 * maps.mean((0, 1, 2)), rtol=1e-3, atol=1e-5)
    variance = np.asarray(maps, np.float64).var((0, 1, 2), ddof=1)
    np.testing.assert_allclose(stored["var"], 0.9 + 0.1 * variance, rtol=1e-3)


def test_growing_images_are_smaller_up_to_the_step_and_whole_after_it():
    run = pairs.make_run(task={"progressive": ((1, 4),)}, optim=PLAIN)
    task, mesh = pairs.make_task(run), pairs.one_device()
    batch = pairs.random_batch(run, mesh)
    images, small_images = (jax.jit(seen.images)(batch) for seen in (task, task.at_size((4, 4))))
    # Antialiased by half: inside the picture each pixel weighs its four by 3/8 and 1/8.
    kernel = np.array([1, 3, 3, 1]) / 8
    pixels = np.asarray(images, np.float64)[:, 1:5, 1:5]
    wanted = np.einsum("i,j,bijc->bc", kernel, kernel, pixels)
    np.testing.assert_allclose(small_images[:, 1, 1], wanted, atol=1e-5)
    training = parallel.compile_training(
        task,
        small.make_optimizer(run, task),
        mesh,
        pairs.batch_spec(run, mesh),
        run.seed,
        [(1, task.at_size((4, 4)))],
    )
    losses, params = [], pairs.random_params(task)
    for step in (1, 2):  # of one state, which the step donates
        _, metrics = training.at(step)(small.drawn_state(training, params), batch)
        seen = images if step == 2 else small_images
        found, _ = jax.jit(task.model.apply)({"params": params}, seen, batch["text"])
        wanted, _ = task.compare(params, {"image": found.image, "text": found.text})
        assert metrics["loss"] == pytest.approx(float(wanted), rel=1e-5)
        losses.append(float(metrics["loss"]))
    assert losses[0] != pytest.approx(losses[1], rel=1e-3)


def test_text_without_chance_is_what_evaluation_reads():
    text = pairs.TEXT.replace("lower", "template('a {}', 'b {}')")
    run = pairs.make_run(data={"train": {"source": "synthetic", "transform": "", "text": text}})
    task, rng = pairs.make_task(run), np.random.default_rng(0)
    assert {bytes(task.text("c", rng)[1:4].astype(np.uint8)) for _ in range(20)} == {b"a c"}
    plain = task.text.without_templates()
    assert bytes(plain("c", rng)[1:2].astype(np.uint8)) == b"c"


@pytest.mark.parametrize(
    "mixed", ["tokenize('bytes', end=False)|truncate(6)|pad(6)", "tokenize('bytes')|pad(6, 0)"]
)
def test_mixed_texts_end_and_are_padded_alike(mixed):
    """Else the end token is found nowhere, and every text has the feature of its first place."""
    split = {"source": "synthetic", "transform": ""}
    mix = {"a": split | {"text": "tokenize('bytes')|truncate(6)|pad(6)"}}
    run = pairs.make_run(text=ENDS, data={"mix": mix})
    agreement.check_text(run, pairs.make_task(run))
    run = pairs.make_run(text=ENDS, data={"mix": mix | {"b": split | {"text": mixed}}})
    with pytest.raises(config.InputError, match=r"data.mix.b.text and data.train.text make other"):
        agreement.check_text(run, pairs.make_task(run))


def test_flops_of_a_pair_are_those_of_its_towers():
    from big_vit_lite.report import forward_flops

    run = pairs.make_run(model={"pool": "map"}, text={"pool": "last"}, joint={"features": 24})
    spec = pairs.batch_spec(run, pairs.one_device())
    sizes = {"width": 16, "depth": 1, "mlp_dim": 32, "classes": 24}
    image = forward_flops(**sizes, patches=4, tokens=4, patch_dim=48, pool="map")
    text = forward_flops(**sizes, patches=0, tokens=6, patch_dim=0, pool="cls")
    model = tasks.build_model(run, spec, 0, "cpu")
    assert tasks.train_flops(run, model, spec) == 3 * (image + text)
    locked = config.Optim(lr_rules=(("^img/", 0.0), (".*", 1.0)))
    lit = run.model_copy(update={"optim": locked})
    assert tasks.train_flops(lit, model, spec) == image + 3 * text
    assert tasks.train_flops(run, model, spec, (4, 4)) < tasks.train_flops(run, model, spec)


@pytest.mark.parametrize(
    ("model", "text", "joint"),
    [
        ({"pool": "cls", "patch_dropout": 0.5, "registers": 1}, {"pool": "cls"}, {}),
        ({"pool": "map"}, {"pool": "map", "causal": False}, {"projections": "text"}),
        ({"activation": "swiglu"}, {"depth": 2}, {"projections": "image"}),
    ],
)
def test_flops_of_towers_are_those_of_the_programs_they_are(model, text, joint, monkeypatch):
    run = pairs.make_run(model=model, text=text, joint={"features": 16, **joint})
    spec = pairs.batch_spec(run, pairs.one_device())
    image, texts = flops._traced_flops(run, spec, (8, 8))
    monkeypatch.setattr(flops, "_traced_flops", None)  # in closed form
    found = tasks.train_flops(run, tasks.build_model(run, spec, 0, "cpu"), spec)
    assert found == 3 * (image + texts) and image and texts
