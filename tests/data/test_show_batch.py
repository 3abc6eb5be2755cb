"""tools/show_batch: a picture of what the model is fed, and its refusals."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

ROOT = Path(__file__).parents[2]

CONFIG = """
import ml_collections as mlc

def get_config(arg=None):
    return mlc.ConfigDict(dict(
        steps=2,
        model=dict(variant="mu/8"),
        data=dict(batch_size=8, train=dict(source="synthetic", transform="flip")),
    ))
"""


@pytest.fixture
def tool():
    spec = importlib.util.spec_from_file_location("show_batch", ROOT / "tools" / "show_batch.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def config(tmp_path):
    file = tmp_path / "tiny.py"
    file.write_text(CONFIG)
    return str(file)


def test_it_writes_a_grid_of_the_batch(tool, config, tmp_path, capsys):
    out = tmp_path / "batch.png"
    tool.main(["--config", config, "--step", "3", "--images", "5", "--out", str(out)])
    assert capsys.readouterr().out == f"{out}: 5 of 8 images of step 3\n"
    pixels = np.asarray(Pillow.open(out).convert("L"))
    assert (pixels < 250).mean() > 0.2
    other = tmp_path / "other.png"
    tool.main(["--config", config, "--step", "3", "--images", "5", "--out", str(other)])
    assert np.array_equal(np.asarray(Pillow.open(other)), np.asarray(Pillow.open(out)))


def test_views_and_patches_are_shown_as_images(tool):
    from big_vit_lite import data
    from big_vit_lite.config import Data, Split

    def batch(transform):
        split = Split(source="synthetic", transform=transform, examples=20, image_size=(32, 48))
        stream = data.train_stream(Data(batch_size=4, train=split), 0)
        return stream.host_batch(0), stream.class_names

    plain, names = batch("")
    cut, _ = batch("patchify(8, 30, resize=False)")
    shown = tool.pictures(cut, names, 3)
    assert [title for title, _ in shown] == [names[label] for label in plain["label"][:3]]
    for (_, image), wanted in zip(shown, plain["image"], strict=False):
        assert np.array_equal(image, wanted)
    seen, _ = batch("views(whole='resize(16)', local=(2, 'random_crop(8)'))")
    shown = tool.pictures(seen, names, 2)
    assert [image.shape for _, image in shown] == 2 * [(16, 16, 3), (8, 8, 3), (8, 8, 3)]
    assert [title.split(" ", 2)[2] for title, _ in shown[:3]] == ["whole", "local 0", "local 1"]


def test_captions_stand_beneath_their_images(tool, tmp_path, monkeypatch):
    file, out = tmp_path / "pairs.py", tmp_path / "pairs.png"
    file.write_text(
        CONFIG.replace('source="synthetic", transform="flip"', 'source="digit_pairs", '
        "transform='decode(1)', text=\"tokenize('bytes')|pad(40)\"")
    )  # fmt: skip
    drawn = []
    monkeypatch.setattr(tool, "draw", lambda shown, *_: drawn.extend(shown))
    tool.main(["--config", str(file), "--step", "2", "--images", "5", "--out", str(out)])
    assert len(drawn) == 5

    from big_vit_lite.config import load
    from big_vit_lite.data import sources, train_stream

    run = load(str(file))
    stream = train_stream(run.data, run.seed)
    source = sources.build(run.data.train)
    for (title, image), row in zip(drawn, stream.indices(2), strict=False):
        example = source[row]
        assert (title,) == example["captions"]
        assert np.array_equal(image, example["image"])


def test_features_in_place_of_images_are_nothing_to_draw(tool, tmp_path):
    from big_vit_lite.config import InputError

    np.save(tmp_path / "0.npy", np.ones(8, np.float32))
    (tmp_path / "rows.csv").write_text("path,caption\n" + "0.npy,one\n")
    file = tmp_path / "lit.py"
    train = f'source="table", path={str(tmp_path / "rows.csv")!r}, transform="features(8)"'
    train += """, text="tokenize('bytes')|pad(9)\""""
    locked = (
        "optim=dict(lr_rules=(('^img/', 0.0), ('.*', 1.0))), text=dict(), joint=dict(features=8)"
    )
    file.write_text(
        CONFIG.replace('source="synthetic", transform="flip"', train)
        .replace('model=dict(variant="mu/8")', f'model=dict(variant="mu/8"), {locked}')
        .replace("steps=2", 'steps=2, task=dict(name="contrastive")')
    )
    with pytest.raises(InputError) as error:
        tool.main(["--config", str(file), "--out", str(tmp_path / "b.png")])
    assert str(error.value) == (
        "data.train.transform makes features, text and no images: there is nothing to draw"
    )


def test_long_captions_are_wrapped_and_cut(tool, tmp_path):
    assert tool._wrapped("a six left of a nine") == "a six left of a\nnine"
    assert tool._wrapped("one $2 bill") == r"one \$2 bill"
    lines = tool._wrapped("a caption of many words " * 9).split("\n")
    assert len(lines) == tool.LINES and lines[-1].endswith(" ...")
    assert max(map(len, lines)) <= tool.LETTERS
    image = np.zeros((4, 4, 1), np.uint8)
    heights = []
    for text in ("a six", "a caption of many words " * 9, "$x_{"):
        out = tmp_path / "drawn.png"
        tool.draw([(text, image)], out, "title")
        heights.append(Pillow.open(out).size[1])
    assert heights[1] > heights[0] == heights[2]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--step", "-1"], "--step"),
        (["--config.data.train.transform=flp"], "flp"),
        (["--config.data.train.transform=features(3)"], "makes features, but task"),
        (["--config.data.train.source=parquet"], "data.train.path"),
        (["--out", "/nowhere/batch.png"], "--out /nowhere/batch.png cannot be written: No such"),
    ],
)
def test_refusals_are_one_line_and_exit_2(tool, config, tmp_path, capsys, arguments, text):
    from big_vit_lite.config import exit_code

    out = [] if "--out" in arguments else ["--out", str(tmp_path / "b.png")]
    assert exit_code(tool.main, ["--config", config, *out, *arguments]) == 2
    error = capsys.readouterr().err
    assert text in error
    assert error.count("\n") == 1
