"""python -m big_vit_lite.export, and docs/serving.md run as it stands."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pretrained_models
import pytest
from serving import exported

import big_vit_lite as bvl
from big_vit_lite import config, export, serving
from big_vit_lite.predict import compiled

PAGE = Path(__file__).parents[2] / "docs" / "serving.md"


def blocks(test: str) -> list[tuple[str, str]]:
    """(language, text) of the page's blocks under <!-- test: NAME -->."""
    found = re.findall(r"<!-- test: (\w+) -->\n```(\w+)\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(found) == PAGE.read_text().count("\n```") / 2, "a block is not run by a test"
    return [(language, text) for name, language, text in found if name == test]


def follow(test: str, names: dict) -> None:
    """Runs the page's blocks of a test, installations left out."""
    for language, text in blocks(test):
        if language == "python":
            exec(compile(text, str(PAGE), "exec"), names)
        for words in map(shlex.split, text.splitlines() if language == "bash" else ()):
            if words[:2] != ["pip", "install"]:
                assert words[:3] == ["python", "-m", "big_vit_lite.export"]
                assert config.exit_code(export.main, words[3:]) == 0


def test_the_page_serves_a_run_of_ours(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    pretrained_models.own_run(tmp_path / "runs" / "vit", task={"loss": "sigmoid"})
    names: dict = {}
    follow("classifier", names)
    printed = capsys.readouterr().out.splitlines()
    images = "images uint8 (b, 8, 8, 3)"
    assert printed == [
        f"served/vit/image_features.stablehlo: {images} -> features float32 (b, 16)",
        f"served/vit/logits.stablehlo: {images} -> logits float32 (b, 3)",
    ]
    model, served = bvl.load("runs/vit"), names["served"]
    wanted = exported.answers(model, "logits", [names["images"]])
    assert exported.difference(np.asarray(names["logits"]), wanted) <= exported.SAME
    assert names["names"] == [model.class_names[i] for i in wanted.argmax(axis=1)]
    said = json.loads(Path("served/vit/serving.json").read_text())
    assert said == served.about
    assert (said["loss"], said["class_names"]) == ("sigmoid", ["cat", "dog", "owl"])
    assert said["images"]["transform"] == "decode|resize_small(10)|central_crop(8)"
    assert served["logits"].__doc__ == "images uint8 (b, 8, 8, 3) -> logits float32 (b, 3)"


def test_options_reach_the_export(tmp_path, monkeypatch, capsys):
    asked = {}
    monkeypatch.setattr(compiled, "load", lambda source, **more: asked.update(more) or source)
    monkeypatch.setattr(
        serving, "export", lambda *args, **more: asked.update(more, args=args) or {"functions": {}}
    )
    words = "clip --to out --function logits,text_features --format onnx --pixels float32 --dtype "
    words += "float16 --platforms cpu,tpu --mean 0.5,0.4,0.3 --std 1,1,1 --transform decode "
    words += "--layout timm --known heads=4,grid=(2,3),activation=erf --class_names imagenet"
    export.main(words.split())
    assert asked == {
        "args": ("clip", Path("out"), ("logits", "text_features"), "onnx"), "pixels": "float32",
        "dtype": "float16", "platforms": ("cpu", "tpu"), "mean": (0.5, 0.4, 0.3),
        "std": (1.0, 1.0, 1.0), "transform": "decode", "layout": "timm", "class_names": "imagenet",
        "known": {"heads": 4, "grid": (2, 3), "activation": "erf"},
    }  # fmt: skip


def test_wrong_words_are_told_of_together(capsys):
    words = ["--function", "logits,scores", "--format", "tflite", "--mean", "a", "--platform=cpu"]
    assert config.exit_code(export.main, words) == 2
    told = capsys.readouterr().err
    for line in (
        "MODEL: is missing: name a model before all options",
        '--function = "logits,scores": wants some of image_features, text_features, logits, by',
        '--format = "tflite": wants one of stablehlo, onnx',
        '--mean = "a": wants numbers with commas between them, as in 0.5,0.5,0.5',
        "--platform: there is no such option; did you mean --platforms?",
        "--to: is missing: New folder that takes what is exported.",
    ):
        assert line in told
    with pytest.raises(SystemExit):
        export.main(["--help"])
    assert "usage: python -m big_vit_lite.export MODEL" in capsys.readouterr().out
