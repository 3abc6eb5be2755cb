"""Equal to transformers' ViT with every leaf random, and not equal as soon as one thing is wrong.

The goldens were recorded by tools/record_goldens.py; the test marked `extra` compares live.
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
from big_vit_lite.weights import Sections

ROOT = pathlib.Path(__file__).parents[2]
DEPTH, HEADS, CLASSES = 3, 4, 7
SAME, DIFFERENT = 1e-5, 1e-4

RIGHT = config.Model(
    variant="mu/4",
    width=32,
    depth=DEPTH,
    heads=HEADS,
    mlp_dim=64,
    activation="erf",
    norm_eps=1e-12,
    position_grid=(4, 4),
    position_resample="cubic_torch",
)
SEEN = ("tokens", *(f"block{i:02d}" for i in range(DEPTH)), "encoded", "logits")


def recorder():
    """tools/record_goldens.py as a module."""
    path = ROOT / "tools" / "record_goldens.py"
    spec = importlib.util.spec_from_file_location("record_goldens", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(ROOT / "tests/models/goldens/vit.npz") as file:
        return dict(file)


def our_tree(arrays: dict[str, np.ndarray], prefix: str) -> dict:
    """Our parameters from transformers' file names below `prefix`, its pooler as pre_logits."""
    theirs = {k.removeprefix(prefix): x for k, x in arrays.items() if k.startswith(prefix)}
    theirs.pop("cotangent", None)
    theirs = {f"file/{name}": x for name, x in theirs.items()}
    return recorded.tree(theirs, "transformers-vit", Sections(RIGHT), prefix="vit.")


@functools.cache
def compiled(model_config: config.Model, classes: int = CLASSES, captures=("blocks",)):
    model = models.build_model(model_config, (16, 16, 3), classes, "cpu")

    @jax.jit
    def run(params, images):
        logits, out = model.apply({"params": params}, images, capture=captures)
        return out | {"logits": logits}

    return run


def error(ours, reference) -> float:
    """Largest difference relative to max|reference|."""
    assert ours.shape == reference.shape
    return float(np.abs(np.asarray(ours) - reference).max() / np.abs(reference).max())


def errors(run, params: dict, golden: dict, case: str) -> dict[str, float]:
    out = run(params, golden[f"{case}/images"])
    return {name: error(out[name], golden[f"{case}/{name}"]) for name in SEEN}


def parameters(golden: dict, case: str, pooler: bool = False) -> dict:
    params = our_tree(golden, "file/")
    del params["head" if pooler else "pre_logits"]
    if case == "low_variance":
        for name in ("cls", "pos_embedding", "embedding"):
            params[name] = jax.tree.map(lambda x: x * 2.0**-17, params[name])
    return params


CASES = ("square", "oblong", "low_variance")


def assert_all_equal(golden: dict) -> None:
    """Every tensor of every case, the pooled output of ViTModel, the maps and the gradients."""
    for case in CASES:
        found = errors(compiled(RIGHT), parameters(golden, case), golden, case)
        assert max(found.values()) < SAME, (case, found)

    # ViTModel's pooler is a tanh layer on the class token, our pre-logits layer.
    pooler = compiled(RIGHT.model_copy(update={"pre_logits": True}), classes=0)
    for case in CASES:
        params = parameters(golden, case, pooler=True)
        out = pooler(params, golden[f"{case}/images"])
        assert error(out["pre_logits"], golden[f"{case}/pooled"]) < SAME, case
        assert error(out["logits"], golden[f"{case}/pooled"]) < SAME, case


def test_equal_to_the_recorded_outputs(golden):
    assert_all_equal(golden)


@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.parametrize("attention", ["reference", "xla"])
def test_every_form_is_equal_to_the_recorded_outputs(golden, scan, attention):
    run = compiled(
        RIGHT.model_copy(update={"scan": scan, "attention": attention}),
        captures=("blocks", "attention") if attention == "reference" else ("blocks",),
    )
    params = parameters(golden, "square")
    params = models.stack_layers(params) if scan else params
    assert max(errors(run, params, golden, "square").values()) < SAME
    if attention == "reference":
        maps = run(params, golden["square/images"])["attention00"]
        assert error(maps, golden["square/attention00"]) < SAME


def test_gradients_are_equal_to_the_recorded_ones(golden):
    model = models.build_model(RIGHT, (16, 16, 3), CLASSES, "cpu")

    @jax.jit
    @jax.grad
    def gradient(params):
        logits, _ = model.apply({"params": params}, golden["square/images"])
        return jnp.sum(logits * golden["gradient/cotangent"])

    ours = gradient(parameters(golden, "square"))
    reference = our_tree(golden, "gradient/")
    # Keys' biases shift all scores of a query alike: their gradient is zero, and what is recorded
    # is rounding. It is compared on the scale of the queries'.
    for i in range(DEPTH):
        for tree in (ours, reference):
            attention = tree["Transformer"][f"encoderblock_{i}"]["MultiHeadDotProductAttention_0"]
            attention["bias"] = np.stack(
                [attention["query"].pop("bias"), attention["key"].pop("bias")]
            )
    found = jax.tree.map(error, ours, reference)
    assert max(jax.tree.leaves(found)) < SAME, found


def swapped(params: dict) -> None:
    for i in range(DEPTH):
        attention = params["Transformer"][f"encoderblock_{i}"]["MultiHeadDotProductAttention_0"]
        attention["query"], attention["key"] = attention["key"], attention["query"]


def scaled_by_head_features(params: dict) -> None:
    for i in range(DEPTH):
        attention = params["Transformer"][f"encoderblock_{i}"]["MultiHeadDotProductAttention_0"]
        attention["query"] = jax.tree.map(lambda x: x * (32 / HEADS) ** -0.5, attention["query"])


def positions_shifted(params: dict) -> None:
    table = params["pos_embedding"]
    params["pos_embedding"] = np.concatenate(
        [table[:, :1], np.roll(table[:, 1:], 1, axis=1)], axis=1
    )


@pytest.mark.parametrize(
    ("case", "change", "first"),
    [
        ("square", {"activation": "tanh"}, "block00"),
        ("square", {"activation": "quick"}, "block00"),
        ("low_variance", {"norm_eps": 1e-9}, "block00"),
        ("oblong", {"position_resample": "cubic"}, "tokens"),
        ("oblong", {"position_resample": "bilinear"}, "tokens"),
        ("oblong", {"position_offset": 0.1}, "tokens"),
        ("square", {"positions": "sincos2d"}, "tokens"),
        ("square", positions_shifted, "tokens"),
        ("square", swapped, "block00"),
        ("square", scaled_by_head_features, "block00"),
    ],
    ids=lambda x: getattr(x, "__name__", str(x)),
)
def test_the_nearest_wrong_variant_fails(golden, case, change, first):
    """From the tensor where it enters to the logits, ten times over the tolerance at least."""
    params = parameters(golden, case)
    model_config = RIGHT
    if callable(change):
        change(params)
    else:
        model_config = RIGHT.model_copy(update=change)
    found = errors(compiled(model_config), params, golden, case)
    wrong = SEEN[SEEN.index(first) :]
    assert min(found[name] for name in wrong) > DIFFERENT, found


def test_goldens_come_from_the_recording_script():
    sha = recorder().script_hash()
    for name in ("vit", "families", "positions"):
        with np.load(ROOT / f"tests/models/goldens/{name}.npz") as file:
            assert str(file["origin/script_sha256"]) == sha, f"record {name}.npz again"
            assert "origin/transformers" in file and "origin/torch" in file


@pytest.mark.extra
def test_equal_to_transformers_live():
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    assert_all_equal(recorder().record_vit())
