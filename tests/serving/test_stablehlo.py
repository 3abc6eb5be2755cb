"""Exported functions, run in a process that has neither Flax nor our models, equal the models."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
from jax import export as jax_export
from pictures import photo
from serving import exported

from big_vit_lite import data, serving, weights
from big_vit_lite.config import InputError
from big_vit_lite.serving import BadArtifact, loading

ROOT = pathlib.Path(__file__).parents[2]
MODELS = {
    "L11-clip": ("image_features", "text_features", "logits"),
    "L16-distilled": ("logits",),
    "L08-coca": ("text_features",),
    "L06-resnet": ("image_features",),
    "L02-map": ("image_features",),
}
"""Functions that are exported and answer, the first of all in two batch sizes."""


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """{golden: (serving.json, {"function/batch": (inputs, the server's answer)})}."""
    root, folders = tmp_path_factory.mktemp("served"), []
    for golden, names in MODELS.items():
        folders.append(root / golden)
        about = serving.export(exported.model(golden), folders[-1], names)
        asked = {
            f"{name}/{batch}": exported.inputs(about, name, batch)
            for name in names
            for batch in ((1, 3) if golden == "L11-clip" and name == "image_features" else (3,))
        }
        flat = {f"{key}/{i}": x for key, given in asked.items() for i, x in enumerate(given)}
        np.savez(f"{folders[-1]}-inputs.npz", **flat)
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "serving" / "answer.py"), *map(str, folders)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return root


def asked(root, golden):
    """Each function's name, inputs and the server's answer."""
    with (
        np.load(root / f"{golden}-inputs.npz") as inputs,
        np.load(root / f"{golden}-answers.npz") as answers,
    ):
        for key in answers:
            given = [inputs[f"{key}/{i}"] for i in range(2) if f"{key}/{i}" in inputs]
            yield key.split("/")[0], given, answers[key]


@pytest.mark.parametrize("golden", MODELS)
def test_a_server_without_flax_answers_as_the_model(golden, served):
    model, names = exported.model(golden), set()
    for name, given, answer in asked(served, golden):
        wanted = exported.answers(model, name, given)
        assert exported.difference(answer, wanted) <= exported.SAME, name
        if name != "text_features":
            wrong = exported.answers(model, name, given, exported.off(model.preprocessing.mean))
            assert exported.difference(answer, wrong) > exported.DIFFERENT, name
        # Rows are of different inputs, so that no function that ignores them passes.
        assert len(answer) == 1 or np.abs(answer[0] - answer[1]).max() > 1e-4
        names.add(name)
    assert names == set(MODELS[golden])


def test_weights_are_those_that_the_functions_need_and_no_others(served):
    arrays = loading.read_arrays(served / "L02-map" / "weights.safetensors")
    params = exported.model("L02-map").params
    np.testing.assert_array_equal(arrays["embedding/kernel"], params["embedding"]["kernel"])
    assert "head" in params and not any(path.startswith("head/") for path in arrays)
    tower = loading.read_arrays(served / "L06-resnet" / "weights.safetensors")
    assert tower and all(path.startswith("img/") for path in tower)


def test_jax_alone_reads_the_file(served):
    folder = served / "L16-distilled"
    file = jax_export.deserialize(bytearray((folder / "logits.stablehlo").read_bytes()))
    assert file.platforms == ("cpu", "cuda", "tpu")
    [(_, [images], answer)] = asked(served, "L16-distilled")
    taken = file.in_tree.unflatten(range(file.in_tree.num_leaves))[0][0]
    arrays = loading.read_arrays(folder / "weights.safetensors")
    found = np.asarray(file.call({path: arrays[path] for path in taken}, images))
    assert exported.difference(found, answer) <= exported.SAME


def test_the_folder_says_what_a_server_must_know(served):
    about = json.loads((served / "L11-clip" / "serving.json").read_text())
    model = exported.model("L11-clip")
    assert about["images"] == {
        "pixels": "uint8", "transform": "decode|resize(16)",
        "mean": list(exported.CLIP[0]), "std": list(exported.CLIP[1]),
    }  # fmt: skip
    assert np.isclose(about["scale"], np.exp(model.params["t"][0]), rtol=1e-6)
    assert about["functions"]["logits"]["inputs"][1] == {
        "name": "tokens", "dtype": "int32", "below": model.sections.text.vocabulary,
        "shape": ["c", model.sections.text.length],
    }  # fmt: skip
    assert about["functions"]["logits"]["output"]["shape"] == ["b", "c"]
    assert sorted(about["sha256"]) == [
        "image_features.stablehlo", "logits.stablehlo", "text_features.stablehlo",
        "weights.safetensors",
    ]  # fmt: skip


@pytest.mark.parametrize(("golden", "size"), [("L13-dinov2", (20, 28)), ("L11-clip", (24, 24))])
def test_images_are_of_the_size_that_the_transform_makes(golden, size, tmp_path):
    said = weights.Preprocessing(f"decode|resize(40)|central_crop({size})", *exported.CLIP)
    model = dataclasses.replace(exported.model(golden), preprocessing=said)
    native = model.sections.model.image_size
    assert size not in (native, (native, native))
    about = serving.export(model, tmp_path / "out", ["image_features"])
    assert about["functions"]["image_features"]["inputs"][0]["shape"] == ["b", *size, 3]
    photos = np.stack([photo(48, 48, seed=i) for i in range(2)])
    wanted = np.asarray(model.encode_image(photos))
    transform, rng = data.transforms.parse(said.transform), np.random.default_rng(0)
    found = serving.load(tmp_path / "out")(np.stack([transform(x, rng) for x in photos]))
    assert exported.difference(np.asarray(found), wanted) <= exported.SAME
    squashed = dataclasses.replace(said, transform=f"decode|resize({native})")
    wrong = dataclasses.replace(model, preprocessing=squashed).encode_image(photos)
    assert exported.difference(np.asarray(wrong), wanted) > exported.DIFFERENT


def test_half_types_and_normalised_pixels(tmp_path):
    model = exported.model("L11-clip")
    about = serving.export(
        model, tmp_path / "half", ["image_features"], pixels="float32", dtype="bfloat16"
    )
    assert about["functions"]["image_features"]["inputs"][0]["dtype"] == "float32"
    served = serving.load(tmp_path / "half")
    images = np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype(np.float32)
    found = np.asarray(jax.jit(served)(images))
    off = exported.difference(found, np.asarray(model.encode_image(images)))
    assert 1e-4 < off < 3e-2  # bfloat16 has 8 bits: more would be an error, less not bfloat16


def test_wrong_inputs_are_told_of(served):
    clip = serving.load(served / "L11-clip")
    tokens = np.zeros((2, clip.about["functions"]["logits"]["inputs"][1]["shape"][1]), np.int32)
    images = np.zeros((2, 16, 16, 3), np.uint8)
    for call, told in (
        (lambda: clip(images), r"several functions \(.*\): choose one, as in served\[\"image_f"),
        (lambda: clip["probabilities"], "no function 'probabilities', but image_features, text_"),
        (lambda: clip["logits"](images), "logits takes images .* and tokens .*, and 1 arrays"),
        (lambda: clip["image_features"](images.astype(np.float32)), r"uint8 .* and float32 \(2, 1"),
        (lambda: clip["image_features"](images[0]), r"and uint8 \(16, 16, 3\) was given"),
        (lambda: clip["image_features"](images[:, :8]), r"\(b, 16, 16, 3\), and uint8 \(2, 8, 16"),
        (lambda: clip["image_features"](images[:0]), r"and uint8 \(0, 16, 16, 3\) was given"),
        (lambda: clip["image_features"](["cat.jpg"]), "and list was given"),
        (lambda: clip["text_features"](tokens[:, 1:]), "text_features takes tokens int32"),
    ):
        with pytest.raises(BadArtifact, match=told):
            call()


def without_flatbuffers(content):
    raise ImportError("Please install 'flatbuffers'")


def test_folders_that_cannot_be_used_are_told_of(tmp_path, monkeypatch):
    whole = tmp_path / "whole"
    serving.export(exported.model("L02-map"), whole, ["image_features"], platforms=["tpu"])
    about = json.loads((whole / "serving.json").read_text())

    def refused(told, **changes):
        (whole / "serving.json").write_text(json.dumps(about | changes))
        with pytest.raises(BadArtifact, match=told):
            serving.load(whole)

    refused("was exported for tpu, and this is cpu: export it with --platforms cpu")
    refused("is of version 9, and 1 is read here", version=9)
    refused("in the format onnx, for onnxruntime: export it with --format stablehlo", format="onnx")
    here = {"platforms": ["cpu"]}
    file = whole / "image_features.stablehlo"
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    refused("image_features.stablehlo is not what was exported .*: copy it again", **here)
    file.write_bytes(b"no such thing")
    digest = {"sha256": about["sha256"] | {file.name: loading.sha256(file)}}
    refused("cannot be read by jax .*: export the model again with a JAX near", **here, **digest)
    monkeypatch.setattr(loading.export, "deserialize", without_flatbuffers)
    refused("with flatbuffers, which is not installed: pip install flatbuffers", **here, **digest)
    file.unlink()
    refused("image_features.stablehlo is missing: copy the whole folder", **here)
    (whole / "serving.json").write_text("{")
    with pytest.raises(BadArtifact, match="serving.json is damaged or no such file"):
        serving.load(whole)
    with pytest.raises(BadArtifact, match="serving.json is not there: give a folder that"):
        serving.load(tmp_path)


def test_what_cannot_be_exported_is_told_of(tmp_path):
    tower, clip = exported.model("L13-dinov2"), exported.model("L11-clip")
    silent = dataclasses.replace(tower, preprocessing=None)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    (tmp_path / "file").touch()
    for model, options, told in (
        (tower, {"functions": ["text_features"]}, "L13-dinov2 has no text features, but image_f"),
        (clip, {"functions": ["probabilities"]}, "'probabilities' is no function: L11-clip has"),
        (silent, {}, "does not say how pixels were normalised: give transform, mean and std, or"),
        (clip, {"format": "tflite"}, "format 'tflite' is not one of stablehlo, onnx"),
        (clip, {"pixels": "int8"}, "pixels 'int8' is not one of uint8, float32"),
        (clip, {"dtype": "int8"}, "dtype 'int8' is not one of float32, bfloat16, float16"),
        (clip, {"platforms": ["gpu"]}, "platforms 'gpu' is not one of cpu, cuda, rocm, tpu"),
        (clip, {"platforms": []}, "platforms is empty: name some of"),
        (clip, {"format": "onnx", "dtype": "bfloat16"}, "onnx is written in float32"),
    ):
        with pytest.raises(InputError, match=told):
            serving.export(model, tmp_path / "new", **options)
    for name, told in (("full", "is not empty: give a new folder"), ("file", "is a file: give a")):
        with pytest.raises(InputError, match=told):
            serving.export(clip, tmp_path / name)
    assert not (tmp_path / "new").exists()
