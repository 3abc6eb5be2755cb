"""Two towers against transformers' CLIP and SigLIP with every leaf random; sizes, scale, forms.

The goldens were recorded by tools/record_clip_goldens.py; the test marked `extra` compares live.
"""

import functools
import importlib.util
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import recorded

from big_vit_lite import config, models
from big_vit_lite.config import InputError
from big_vit_lite.models.clip import clamp
from big_vit_lite.weights import Sections

ROOT = pathlib.Path(__file__).parents[2]
SIDE, LENGTH, DEPTH, END, LAST = 12, 9, 2, 17, 39
SAME, DIFFERENT = 1e-5, 1e-4
SHAPE = {
    "model": {"variant": "mu/4", "width": 32, "depth": DEPTH, "heads": 4, "mlp_dim": 48},
    "text": {
        "variant": "mu",
        "width": 24,
        "depth": DEPTH,
        "heads": 3,
        "mlp_dim": 48,
        "vocabulary": 40,
    },
    "joint": {},
}
FAMILIES = {
    "clip": {
        "model": {
            "pre_norm": True,
            "patch_bias": False,
            "activation": "quick",
            "norm_eps": 1e-5,
            "init": "clip",
        },
        "text": {"activation": "quick", "norm_eps": 1e-5, "init": "clip"},
        "joint": {"features": 20, "max_logit_scale": 100.0},
    },
    "siglip": {
        "model": {"pool": "map"},
        "text": {"causal": False, "pool": "last"},
        "joint": {"projections": "text", "projection_bias": True, "logit_bias": -10.0,
                  "logit_scale": 10.0},
    },
}  # fmt: skip
SEEN = tuple(f"{tower}/{x}" for tower in ("img", "txt") for x in ("block00", "block01", "features"))


def sections(family="clip", **changes) -> Sections:
    """`changes` are of one section each: text={"causal": False}."""
    kinds = {"model": config.Model, "text": config.Text, "joint": config.Joint}
    fields = {name: SHAPE[name] | FAMILIES[family][name] | changes.get(name, {}) for name in SHAPE}
    return Sections(**{name: kind(**fields[name]) for name, kind in kinds.items()})


def build(family="clip", platform="cpu", **changes) -> models.Clip:
    model, text, joint, *_ = sections(family, **changes)
    return models.build_clip(model, text, joint, (SIDE, SIDE, 3), LENGTH, platform)


def recorder():
    """tools/record_clip_goldens.py as a module."""
    path = ROOT / "tools" / "record_clip_goldens.py"
    spec = importlib.util.spec_from_file_location("record_clip_goldens", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@functools.cache
def golden(family: str) -> dict[str, np.ndarray]:
    with np.load(ROOT / f"tests/models/goldens/{family}.npz") as file:
        return dict(file)


def parameters(arrays: dict[str, np.ndarray], low_variance: float | None = None) -> dict:
    family = "siglip" if "file/logit_bias" in arrays else "clip"
    tree = recorded.tree(arrays, f"transformers-{family}", sections(family))
    if low_variance is not None:
        for tower, names in (
            ("img", ("cls", "pos_embedding", "embedding")),
            ("txt", ("pos_embedding", "Embed_0")),
        ):
            for name in names:
                if name in tree[tower]:
                    tree[tower][name] = jax.tree.map(lambda x: x * low_variance, tree[tower][name])
    return tree


@functools.cache
def compiled(model):
    @jax.jit
    def run(params, images, tokens):
        embeddings, out = model.apply({"params": params}, images, tokens, capture=("blocks",))
        out |= {"img/features": embeddings.image, "txt/features": embeddings.text}
        return out | ({} if images is None or tokens is None else {"logits": embeddings.logits()})

    return run


def relative(a, b) -> float:
    assert a.shape == b.shape
    return float(np.abs(np.asarray(a, np.float32) - b).max() / np.abs(b).max())


def errors(model, params: dict, arrays: dict, case: str) -> dict[str, float]:
    out = compiled(model)(params, arrays[f"{case}/images"], arrays[f"{case}/tokens"])
    return {name: relative(out[name], arrays[f"{case}/{name}"]) for name in (*SEEN, "logits")}


def tower_errors(tower: str, model, params: dict, arrays: dict, case: str) -> dict[str, float]:
    """Of one tower, which runs alone."""
    images, tokens = arrays[f"{case}/images"], arrays[f"{case}/tokens"]
    alone = (images, None) if tower == "img" else (None, tokens)
    out = compiled(model)(params, *alone)
    seen = [name for name in SEEN if name.startswith(tower)]
    return {name: relative(out[name], arrays[f"{case}/{name}"]) for name in seen}


CASES = {
    "clip": {"plain": None, "low_variance": 2.0**-8, "first_end": None},
    "siglip": {"plain": None, "low_variance": 2.0**-10},
}


def fields_of(case: str) -> dict:
    return {"text": {"end_id": END}} if case == "first_end" else {}


def assert_all_equal(family: str, arrays: dict) -> None:
    for case, factor in CASES[family].items():
        found = errors(build(family, **fields_of(case)), parameters(arrays, factor), arrays, case)
        assert max(found.values()) < SAME, (case, found)


@pytest.mark.parametrize("family", FAMILIES)
def test_equal_to_transformers(family):
    assert_all_equal(family, golden(family))


def swapped(tower, stack):
    def change(params):
        attention = params[tower][stack]["encoderblock_0"]["MultiHeadDotProductAttention_0"]
        attention["query"], attention["key"] = attention["key"], attention["query"]

    return change


def shifted(tower):
    def change(params):
        params[tower]["pos_embedding"] = np.roll(params[tower]["pos_embedding"], 1, axis=1)

    return change


def transposed(params):
    """A projection stored as (out, in)."""
    kernel = params["txt"]["head"]["kernel"]
    params["txt"]["head"]["kernel"] = kernel.T.reshape(kernel.shape)


WRONG = [
    ("clip", "plain", {"model": {"activation": "erf"}}, "img/block00"),
    ("clip", "plain", {"model": {"activation": "tanh"}}, "img/block00"),
    ("clip", "plain", {"text": {"activation": "erf"}}, "txt/block00"),
    ("clip", "plain", {"text": {"activation": "tanh"}}, "txt/block00"),
    ("clip", "plain", {"text": {"causal": False}}, "txt/block00"),
    ("clip", "plain", {"text": {"pool": "last"}}, "txt/features"),
    ("clip", "plain", {"text": {"pool": "gap"}}, "txt/features"),
    ("clip", "plain", {"model": {"pool": "gap", "class_token": True}}, "img/features"),
    ("clip", "plain", {"model": {"pre_norm": False}}, "img/block00"),
    ("clip", "low_variance", {"model": {"norm_eps": 1e-6}}, "img/block00"),
    ("clip", "low_variance", {"text": {"norm_eps": 1e-6}}, "txt/block00"),
    ("clip", "first_end", {}, "txt/features"),
    ("clip", "plain", swapped("img", "Transformer"), "img/block00"),
    ("clip", "plain", swapped("txt", "Encoder_0"), "txt/block00"),
    ("clip", "plain", shifted("txt"), "txt/block00"),
    ("clip", "plain", transposed, "txt/features"),
    ("siglip", "plain", {"model": {"activation": "erf"}}, "img/block00"),
    ("siglip", "plain", {"text": {"activation": "erf"}}, "txt/block00"),
    ("siglip", "plain", {"text": {"causal": True}}, "txt/block00"),
    ("siglip", "plain", {"text": {"pool": "end"}}, "txt/features"),
    ("siglip", "low_variance", {"model": {"norm_eps": 1e-5}}, "img/block00"),
    ("siglip", "low_variance", {"text": {"norm_eps": 1e-5}}, "txt/block00"),
    ("siglip", "plain", swapped("img", "Transformer"), "img/block00"),
    ("siglip", "plain", swapped("txt", "Encoder_0"), "txt/block00"),
    ("siglip", "plain", {"model": {"pool": "gap"}}, "img/features"),
]


@pytest.mark.parametrize(
    ("family", "case", "change", "first"), WRONG, ids=lambda x: getattr(x, "__name__", str(x))
)
def test_the_nearest_wrong_variant_fails(family, case, change, first):
    """From the tensor where it enters to the features, ten times over the tolerance at least."""
    params, model = parameters(golden(family), CASES[family][case]), build(family)
    if callable(change):
        change(params)
    else:
        model = build(family, **change)
    found = tower_errors(first[:3], model, params, golden(family), case)
    names = list(found)
    assert min(found[name] for name in names[names.index(first) :]) > DIFFERENT, found


def test_goldens_come_from_the_recording_script():
    sha = recorder().script_hash()
    for name in ("clip", "siglip", "resnet", "coca"):
        arrays = golden(name)
        assert str(arrays["origin/script_sha256"]) == sha, f"record {name}.npz again"
        assert "origin/transformers" in arrays and "origin/open_clip_torch" in arrays


@pytest.mark.extra
def test_equal_to_transformers_live():
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    for seed in (7, 8):
        assert_all_equal("clip", recorder().record_clip(seed))
        assert_all_equal("siglip", recorder().record_siglip(seed))


def count(model: dict, text: dict, joint: dict, side: int = 224, length: int = 77) -> int:
    """Parameters, without the running statistics of ResNets, which torch does not count either."""
    clip = models.build_clip(
        config.Model(**model), config.Text(**text), config.Joint(**joint),
        (side, side, 3), length, "tpu",
    )  # fmt: skip
    shapes = models.abstract_params(clip)
    leaves = jax.tree_util.tree_leaves_with_path(shapes)
    return sum(int(np.prod(x.shape)) for p, x in leaves if p[-1].key not in ("mean", "var"))


WIDE = {"width": 1024, "depth": 12, "heads": 16, "mlp_dim": 4096}


@pytest.mark.parametrize(
    ("variant", "text", "features", "side", "parameters"),
    [
        ("B/32", {"variant": "M"}, 512, 224, 151_277_313),
        ("B/16", {"variant": "M"}, 512, 224, 149_620_737),
        ("L/14", {"variant": "B"}, 768, 224, 427_616_513),
        ("L/14", {"variant": "B"}, 768, 336, 427_944_193),
        ("H/14", {"variant": "L"}, 1024, 224, 986_109_441),
        ("g/14", {"variant": "L"}, 1024, 224, 1_366_678_273),
        ("G/14", {"variant": "H", "heads": 20}, 1280, 224, 2_539_567_105),
        ("RN50", {"variant": "M"}, 1024, 224, 102_007_137),
        ("RN101", {"variant": "M"}, 512, 224, 119_688_033),
        ("RN50x4", {"width": 640, "heads": 10, "mlp_dim": 2560}, 640, 288, 178_300_601),
        ("RN50x16", {"variant": "B"}, 768, 384, 290_979_217),
        ("RN50x64", WIDE, 1024, 448, 623_258_305),
    ],
)
def test_counts_of_clip(variant, text, features, side, parameters):
    tower = {} if variant.startswith("RN") else {"pre_norm": True, "patch_bias": False}
    assert count({"variant": variant, **tower}, text, {"features": features}, side) == parameters


@pytest.mark.parametrize(
    ("variant", "side", "vocabulary", "length", "parameters"),
    [
        ("B/16", 224, 32_000, 64, 203_155_970),
        ("B/16", 256, 32_000, 64, 203_202_050),
        ("B/16", 256, 250_000, 64, 370_626_050),
        ("L/16", 256, 32_000, 64, 652_150_786),
        ("L/16", 384, 32_000, 64, 652_478_466),
        ("So400m/14", 224, 32_000, 16, 877_360_306),
        ("So400m/14", 384, 32_000, 64, 877_960_498),
        ("B/16", 224, 256_000, 64, 375_187_970),
        ("B/32", 256, 256_000, 64, 376_856_066),
        ("L/16", 256, 256_000, 64, 881_526_786),
        ("So400m/14", 224, 256_000, 64, 1_135_463_602),
        ("So400m/16", 256, 256_000, 64, 1_135_670_962),
        ("g-opt/16", 256, 256_000, 64, 1_871_393_906),
    ],
)
def test_counts_of_siglip(variant, side, vocabulary, length, parameters):
    """The text tower has the image tower's size, but for the largest, which has So400m's."""
    size = variant.split("/")[0]
    text = {"variant": "So400m" if size == "g-opt" else size, "vocabulary": vocabulary}
    text |= FAMILIES["siglip"]["text"]
    joint = FAMILIES["siglip"]["joint"]
    image = {"variant": variant, "pool": "map", "drop_edge": side % 14 > 0}
    found = count(image, text, joint, side, length)
    assert found == parameters


def names(tree) -> set[str]:
    return {"/".join(k.key for k in p) for p, _ in jax.tree_util.tree_leaves_with_path(tree)}


def test_names_are_big_visions():
    params = models.abstract_params(build("siglip"))
    found = names(params)
    assert {"t", "b", "img/embedding/kernel", "img/pos_embedding", "txt/pos_embedding",
            "txt/Embed_0/embedding", "txt/Encoder_0/encoder_norm/scale", "txt/head/kernel",
            "img/MAPHead_0/probe", "txt/Encoder_0/encoderblock_1/MlpBlock_0/Dense_0/kernel",
            "img/Transformer/encoderblock_0/LayerNorm_0/scale"} <= found  # fmt: skip
    assert "img/head/kernel" not in found and "img/cls" not in found
    assert params["t"].shape == params["b"].shape == (1,)
    clip = names(models.abstract_params(build()))
    assert {"img/head/kernel", "txt/head/kernel", "img/pre_norm/bias", "img/cls"} <= clip
    assert not {"b", "img/head/bias", "txt/head/bias", "img/embedding/bias"} & clip


@pytest.mark.slow
def test_initial_values_are_bitwise_the_same_in_every_form():
    def form(scan):
        return build(model={"scan": scan}, text={"scan": scan, "depth": 3})

    key = jax.random.key(5)
    scanned, unrolled = (jax.device_get(models.init_params(form(x), key)) for x in (True, False))
    assert scanned["txt"]["Encoder_0"]["encoderblock"]["LayerNorm_0"]["scale"].shape == (3, 24)
    jax.tree.map(np.testing.assert_array_equal, models.stack_layers(unrolled), scanned)
    jax.tree.map(np.testing.assert_array_equal, models.unstack_layers(scanned), unrolled)
    one, two = (unrolled["txt"]["Encoder_0"][f"encoderblock_{i}"] for i in (0, 1))
    kernels = [x["MlpBlock_0"]["Dense_0"]["kernel"] for x in (one, two)]
    assert not np.array_equal(*kernels)
    assert form(True).scan and not form(False).scan


def test_scanned_and_unrolled_agree():
    arrays = golden("clip")
    params = parameters(arrays)
    scanned = build(model={"scan": True}, text={"scan": True})
    found = errors(scanned, models.stack_layers(params), arrays, "plain")
    assert max(found.values()) < SAME


def test_towers_alone_are_those_of_the_pair():
    """encode_image and encode_text under jit, vmap and grad."""
    arrays, model = golden("clip"), build()
    params, images, tokens = parameters(arrays), arrays["plain/images"], arrays["plain/tokens"]

    @jax.jit
    def image_features(params, images):
        return model.apply({"params": params}, images, method="encode_image")[0]

    @jax.jit
    def text_features(params, tokens):
        return model.apply({"params": params}, tokens, method="encode_text")[0]

    assert relative(image_features(params, images), arrays["plain/img/features"]) < SAME
    one_by_one = jax.vmap(lambda x: text_features(params, x[None])[0])(jnp.asarray(tokens))
    assert relative(one_by_one, arrays["plain/txt/features"]) < SAME
    np.testing.assert_allclose(np.linalg.norm(one_by_one, axis=1), 1, rtol=1e-6)
    gradient = jax.jit(jax.grad(lambda p: jnp.sin(text_features(p, tokens)).sum()))(params)
    gradient = jax.device_get(gradient)
    touched = {name for name in names(gradient) if not name.startswith("txt/")}
    assert all(not leaf.any() for leaf in jax.tree.leaves(gradient["img"])) and touched
    assert all(leaf.any() for leaf in jax.tree.leaves(gradient["txt"]))
    embeddings, out = jax.eval_shape(lambda p: model.apply({"params": p}, tokens=tokens), params)
    assert embeddings.image is None and "img/encoded" not in out and "txt/encoded" in out


def test_features_of_zeros_have_no_nan():
    model = build()
    params = jax.tree.map(np.zeros_like, parameters(golden("clip")))
    images = golden("clip")["plain/images"]

    def total(params):
        return model.apply({"params": params}, images, method="encode_image")[0].sum()

    value, gradient = jax.device_get(jax.jit(jax.value_and_grad(total))(params))
    assert value == 0 and all(np.isfinite(x).all() for x in jax.tree.leaves(gradient))


def scale_of(t: float, **joint) -> float:
    model = build(joint=joint)
    return float(model.apply({"params": {"t": jnp.array([t])}})[0].scale)


def test_scale_and_bias():
    """Without inputs no tower is asked, and there are no other parameters."""
    (embeddings, _), variables = build().init_with_output(jax.random.key(0))
    assert embeddings.bias is None and set(variables["params"]) == {"t"}
    np.testing.assert_allclose(embeddings.scale, 1 / 0.07, rtol=1e-6)
    (embeddings, _), _ = build("siglip").init_with_output(jax.random.key(0))
    np.testing.assert_allclose([embeddings.scale, embeddings.bias], [10, -10], rtol=1e-6)
    np.testing.assert_allclose(scale_of(9.0), 100, rtol=1e-6)
    np.testing.assert_allclose(scale_of(9.0, max_logit_scale=None), np.exp(9.0), rtol=1e-6)


def test_the_clamp_can_be_left_again():
    """Above the limit a gradient passes that brings t down, and none that raises it."""
    for t, sign, expected in [(3.0, 1, 1), (3.0, -1, -1), (5.0, 1, 1), (5.0, -1, 0)]:
        assert jax.grad(lambda t, s=sign: s * clamp(t, 4.6))(t) == expected


def test_gradient_descent_meets_the_clamp_as_one_that_clamps_after_each_step():
    def loss_gradient(t, target):
        return jax.grad(lambda t: (jnp.exp(clamp(t, 4.6)) - target) ** 2 / 1e4)(t)

    @jax.jit
    def step(ours, theirs, target):
        ours = ours - 0.02 * loss_gradient(ours, target)
        return ours, jnp.minimum(theirs - 0.02 * loss_gradient(theirs, target), 4.6)

    ours = theirs = jnp.float32(4.5)
    for i in range(300):
        ours, theirs = step(ours, theirs, 150.0 if i < 100 else 80.0)
        assert abs(min(ours, 4.6) - theirs) < 0.05
    assert abs(float(jnp.exp(ours)) - 80) < 1


def test_initial_distributions_of_clip():
    """OpenAI's standard deviations: the text tower's, and PyTorch's own for the image tower."""
    wide = {"width": 128, "heads": 4, "mlp_dim": 512, "depth": 3, "scan": True}
    model = build(model=wide, text=wide | {"vocabulary": 400}, joint={"features": 64})
    params = jax.device_get(models.init_params(model, jax.random.key(0)))

    def std(x):
        return float(np.std(x))

    text, w, branch = params["txt"], 128**-0.5, 6**-0.5
    block = text["Encoder_0"]["encoderblock"]
    attention, mlp = block["MultiHeadDotProductAttention_0"], block["MlpBlock_0"]
    for kernel, expected in [
        (text["Embed_0"]["embedding"], 0.02),
        (text["pos_embedding"], 0.01),
        (text["head"]["kernel"], w),
        (attention["query"]["kernel"], w),
        (attention["key"]["kernel"], w),
        (attention["value"]["kernel"], w),
        (attention["out"]["kernel"], w * branch),
        (mlp["Dense_0"]["kernel"], w / 2**0.5),
        (mlp["Dense_1"]["kernel"], w * branch),
    ]:
        assert abs(std(kernel) / expected - 1) < 0.05
    assert not attention["query"]["bias"].any() and not attention["out"]["bias"].any()

    image = params["img"]
    block = image["Transformer"]["encoderblock"]
    attention, mlp = block["MultiHeadDotProductAttention_0"], block["MlpBlock_0"]
    for kernel, bound in [
        (image["embedding"]["kernel"], 48**-0.5),
        (attention["query"]["kernel"], (6 / (4 * 128)) ** 0.5),
        (attention["out"]["kernel"], w),
        (mlp["Dense_0"]["kernel"], w),
        (mlp["Dense_0"]["bias"], w),
        (mlp["Dense_1"]["kernel"], 512**-0.5),
        (mlp["Dense_1"]["bias"], 512**-0.5),
    ]:
        assert 0.97 * bound < float(np.abs(kernel).max()) <= bound
        assert abs(std(kernel) * 3**0.5 / bound - 1) < 0.1
    for noise in (image["cls"], image["pos_embedding"], image["head"]["kernel"]):
        assert abs(std(noise) / w - 1) < 0.2
    np.testing.assert_allclose(params["t"], 2.6593, atol=1e-4)


def test_initial_distributions_of_siglip():
    """big_vision's: token and position tables 1/sqrt(width), Xavier blocks, LeCun head."""
    wide = {"width": 128, "heads": 4, "mlp_dim": 512, "scan": True}
    model = build("siglip", model=wide, text=wide | {"vocabulary": 400})
    text = jax.device_get(models.init_params(model.txt, jax.random.key(0)))
    for leaf in (text["Embed_0"]["embedding"], text["pos_embedding"], text["head"]["kernel"]):
        assert abs(float(leaf.std()) * 128**0.5 - 1) < 0.05
    kernel = text["Encoder_0"]["encoderblock"]["MultiHeadDotProductAttention_0"]["out"]["kernel"]
    bound = (6 / 256) ** 0.5
    assert 0.99 * bound < float(np.abs(kernel).max()) <= bound
    assert not text["head"]["bias"].any()


def test_a_resnet_meets_a_text_tower():
    joint = config.Joint(features=16)
    image = config.Model(variant="RN50", width=2, stages=(1, 1, 1, 1))
    text = config.Text(**SHAPE["text"], **FAMILIES["clip"]["text"])
    model = models.build_clip(image, text, joint, (32, 32, 3), LENGTH, "cpu")
    shapes = models.abstract_params(model)
    params = jax.tree.map(lambda x: np.full(x.shape, 0.5, x.dtype), shapes)
    images = np.random.default_rng(0).standard_normal((2, 32, 32, 3)).astype(np.float32)
    embeddings, out = jax.jit(model.apply)(
        {"params": params}, images, golden("clip")["plain/tokens"]
    )
    assert embeddings.logits().shape == (2, 4) and out["img/stage3"].shape == (2, 1, 1, 64)
    assert not model.scan and "stage0_block00" in params["img"]


@pytest.mark.slow
def test_every_mesh_gives_the_same():
    """8 devices, and weights split over them, against one."""
    from big_vit_lite import parallel

    model = build(model={"scan": True}, text={"scan": True})
    params = models.stack_layers(parameters(golden("clip")))
    rng = np.random.default_rng(0)
    images = rng.standard_normal((8, SIDE, SIDE, 3)).astype(np.float32)
    tokens = rng.integers(0, 40, (8, LENGTH), np.int32)

    def loss(params, images, tokens):
        logits = model.apply({"params": params}, images, tokens)[0].logits()
        return -jnp.diag(jax.nn.log_softmax(logits)).mean()

    alone = jax.device_get(jax.jit(jax.value_and_grad(loss))(params, images, tokens))
    mesh = parallel.make_mesh(config.Mesh(data=2, fsdp=2, tensor=2))
    shardings = parallel.state_shardings(params, mesh)
    with jax.set_mesh(mesh):
        batch = jax.device_put((images, tokens), parallel.batch_sharding(mesh))
        shared = jax.jit(jax.value_and_grad(loss))(jax.device_put(params, shardings), *batch)
    for a, b in zip(jax.tree.leaves(shared), jax.tree.leaves(alone), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * float(np.abs(b).max() + 1))


def test_masked_optimiser_states_keep_each_towers_depth():
    """A locked tower has no moments; the other's depth says nothing about it."""
    import optax

    model = build(model={"scan": True, "depth": 3}, text={"scan": True})
    shapes = models.abstract_params(model)
    params = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
    locked = {name: jax.tree.map(lambda _, n=name: n != "img", x) for name, x in params.items()}
    state = {"params": params, "opt": jax.jit(optax.masked(optax.adam(1.0), locked).init)(params)}
    apart = models.unstack_layers(state)
    mu = apart["opt"].inner_state[0].mu
    assert {f"encoderblock_{i}" for i in range(3)} < set(mu["img"]["Transformer"])
    assert "encoderblock_2" not in mu["txt"]["Encoder_0"]
    again = models.stack_layers(apart)
    assert jax.tree.structure(again) == jax.tree.structure(state)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"joint": {"projections": "text", "features": 20}},
         "joint.features is 20, but the image tower gives 32 without a projection"),
        ({"joint": {"projections": "image"}},
         "joint.features is 20, but the text tower gives 24 without a projection"),
        ({"model": {"pool": "none"}}, "pool 'none' gives no vector an image: use pool cls, gap"),
        ({"text": {"heads": 5}}, "text.width 24 does not divide by text.heads 5: use 4 heads"),
        ({"text": {"length": 5}}, "text.length is 5, but the texts have 9 tokens: set text"),
        ({"text": {"end_id": 40}}, "text.end_id 40 is beyond text.vocabulary 40: ids are 0 to 39"),
        ({"text": {"variant": "b"}}, "text.variant: 'b' is no size; did you mean 'B'"),
        ({"text": {"attention": "cudnn"}}, "text.attention 'cudnn' runs on GPUs in bfloat16"),
    ],
    ids=str,
)  # fmt: skip
def test_what_does_not_fit_is_said(changes, text):
    with pytest.raises(InputError, match=text):
        build(**changes)
