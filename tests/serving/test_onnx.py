"""ONNX files equal the models in onnxruntime; needs the extra onnx."""

import dataclasses
import sys

import jax
import numpy as np
import pairs
import pytest
from serving import exported, test_command

from big_vit_lite import checkpoint, serving, weights
from big_vit_lite.config import InputError
from big_vit_lite.serving import functions, onnx

SAME = 1e-5


def installed():
    pytest.importorskip("jax2onnx", reason="the extra onnx is not installed")
    return pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")


@pytest.mark.extra
@pytest.mark.parametrize(
    ("golden", "names"),
    [
        ("L09-vit", ("image_features", "logits")),
        ("L11-clip", ("image_features", "text_features", "logits")),
        ("L12-siglip", ("image_features", "text_features")),
        ("L08-coca", ("text_features",)),
        ("L06-resnet", ("image_features",)),
        ("L02-map", ("image_features",)),
        ("L13-gated", ("image_features",)),
        ("L16-distilled", ("logits",)),
    ],
)
def test_onnxruntime_answers_as_the_model(golden, names, tmp_path):
    runtime, model = installed(), exported.model(golden)
    about = serving.export(model, tmp_path / "out", names, "onnx")
    assert about["format"] == "onnx" and "weights" not in about
    for name in names:
        said = about["functions"][name]
        session = runtime.InferenceSession(tmp_path / "out" / said["file"])
        for batch in (1, 5):
            given = exported.inputs(about, name, batch)
            named = {x["name"]: y for x, y in zip(said["inputs"], given, strict=True)}
            [found] = session.run([said["output"]["name"]], named)
            assert exported.difference(found, exported.answers(model, name, given)) <= SAME
            if name != "text_features":
                wrong = exported.answers(model, name, given, exported.off(model.preprocessing.mean))
                assert exported.difference(found, wrong) > exported.DIFFERENT
    assert not jax.config.jax_enable_x64


@pytest.mark.extra
def test_positions_are_resampled_in_the_file(tmp_path):
    runtime, size = installed(), (20, 28)
    said = weights.Preprocessing(f"decode|resize({size})", *exported.CLIP)
    model = dataclasses.replace(exported.model("L13-dinov2"), preprocessing=said)
    about = serving.export(model, tmp_path / "out", ["image_features"], "onnx")
    [images] = exported.inputs(about, "image_features", 2)
    assert images.shape == (2, *size, 3)
    session = runtime.InferenceSession(tmp_path / "out" / "image_features.onnx")
    [found] = session.run(None, {"images": images})
    wanted = exported.answers(model, "image_features", [images])
    assert exported.difference(found, wanted) <= SAME


@pytest.mark.extra
def test_the_page_serves_a_pair(tmp_path, monkeypatch):
    installed()
    monkeypatch.chdir(tmp_path)
    val = {"source": "synthetic", "transform": "resize(8)"}
    run = pairs.make_run(model={"image_size": 8}, data={"val": val})
    said = {"config": run.to_json(), "text": {"fingerprint": "bytes"}, "position_grid": [2, 2]}
    with checkpoint.Keeper(tmp_path / "runs" / "clip" / "checkpoints") as keeper:
        keeper.save(4, {"params": pairs.random_params(pairs.make_task(run))}, said)
    names: dict = {}
    test_command.follow("onnx", names)
    assert np.allclose(np.linalg.norm(names["features"], axis=1), 1.0)


@pytest.mark.extra
def test_a_file_that_is_not_the_model_is_refused(tmp_path, monkeypatch):
    installed()
    import jax2onnx

    translate = jax2onnx.to_onnx

    def wrong(f, *rest, **more):
        return translate(lambda *inputs: f(*inputs) * 1.001, *rest, **more)

    monkeypatch.setattr(jax2onnx, "to_onnx", wrong)
    with pytest.raises(InputError, match=r"differs from the model's by \d.*stablehlo"):
        serving.export(exported.model("L02-map"), tmp_path / "out", ["image_features"], "onnx")
    assert not list(tmp_path.iterdir())

    def broken(*args, **more):
        raise KeyError("no plugin for cosine")

    monkeypatch.setattr(jax2onnx, "to_onnx", broken)
    told = r"cannot translate image_features \(KeyError: 'no plugin for cosine'\): take the format"
    with pytest.raises(InputError, match=told):
        serving.export(exported.model("L02-map"), tmp_path / "more", ["image_features"], "onnx")


def test_without_the_extra_it_is_told_of(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    with pytest.raises(InputError, match=r'needs jax2onnx: pip install "big_vit_lite\[onnx\]"'):
        serving.export(exported.model("L02-map"), tmp_path / "out", ["image_features"], "onnx")
    assert not list(tmp_path.iterdir())


def test_the_comparison_tells_a_wrong_file(monkeypatch):
    """`largest_difference` with a session that answers as the model, or nearly so."""
    [function] = functions.functions(
        exported.model("L02-map"), ["image_features"], "uint8", "float32"
    )
    apply = jax.jit(function.apply)

    class Session:
        def __init__(self, factor):
            self.factor = factor

        def run(self, outputs, inputs):
            return [np.asarray(apply(function.weights, *inputs.values())) * self.factor]

    assert onnx.largest_difference(Session(1.0), function) < 1e-5
    assert onnx.largest_difference(Session(1.001), function) > 5e-4
