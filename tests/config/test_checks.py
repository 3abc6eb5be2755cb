"""What models and data know about a config, found before JAX starts."""

import subprocess
import sys
from pathlib import Path

import pytest

from big_vit_lite import checks, config


def lines_of(values, overrides=(), more=()):
    with pytest.raises(config.InputError) as caught:
        config.load(values, overrides, (*checks.STATIC, *more))
    return str(caught.value).splitlines()


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (
            {"model.width": "30", "model.heads": "4"},
            "model.heads = 4: width 30 does not divide by 4 heads; use 3 heads or width 32",
        ),
        (
            {"model.width": "33"},
            "model.width = 33: width 33 does not divide by 2 heads; use 1 heads or width 32",
        ),
        ({"mesh.tensor": "4"}, "mesh.tensor = 4: must divide the 2 heads of model.variant mu/2"),
        (
            {"model.width": "34", "model.positions": "sincos2d"},
            'model.positions = "sincos2d": needs a width that divides by 4, not 34',
        ),
        (
            {"model.patch": "3"},
            "model.patch = 3: images of 8x8 do not divide into patches of 3x3; make images of 9x9, "
            "or set model.patch",
        ),
        (
            {"model.variant": "mu/16"},
            'model.variant = "mu/16": patches of 16x16 are larger than the images, 8x8',
        ),
        (
            {"model.patch_stride": "3"},
            "model.patch_stride = 3: is more than the patch, 2x2: pixels between patches would be "
            "lost",
        ),
        (
            {"data.val.transform": "decode(channels=1)|resize((8, 5))"},
            'data.val.transform = "decode(channels=1)|resize((8, 5))": images of 8x5 do not divide '
            "into patches of 2x2; make images of 8x4, or set model.patch",
        ),
        (
            {"model.image_size": "16"},
            "model.image_size = 16: but data.train makes images of 8x8; leave it none, or resize "
            "there",
        ),
        (
            {"data.val.part": "held_out(20)x"},
            "data.val.part = \"held_out(20)x\": 'held_out(20)x' is not a part; write for example "
            "'[:99%]', '[1415:]', 'held_out(20%, seed=0)', 'rest(20%, seed=0)', chained by '|'",
        ),
    ],
)
def test_one_line_for_each_fault(values, overrides, line):
    assert lines_of(values, overrides) == [line]


def test_unknown_names_come_with_the_nearest(values):
    overrides = {"model.variant": "mu2", "data.train.transform": "decode|flipp", "seed": "x"}
    seed, variant, transform = lines_of(values, overrides)
    assert seed.startswith("seed = ")
    assert variant.startswith('model.variant = "mu2": ') and "did you mean 'mu/2'?" in variant
    assert transform.startswith('data.train.transform = "decode|flipp": ')
    assert "did you mean flip?" in transform


@pytest.mark.parametrize(
    "overrides",
    [
        {"model.patch": "4", "model.patch_stride": "3"},
        {"model.patch": "(4, 2)"},
        {"model.image_size": "8"},
        {"data.train.transform": "decode|resize(8)"},
        {"data.val.transform": "decode(channels=1)|resize((16, 12))"},
        {"data.train.source": "folder", "data.train.path": ".", "data.train.transform": "decode"},
    ],
)
def test_what_fits_passes(values, overrides):
    assert isinstance(config.load(values, overrides, checks.STATIC), config.Run)


def test_missing_data_is_one_sentence(values, tmp_path):
    absent = {
        f"data.{s}.{k}": v
        for s in ("train", "val")
        for k, v in {"source": "folder", "path": str(tmp_path / "no")}.items()
    }
    (line,) = lines_of(values, absent)
    assert line.startswith(
        f'data.train.path = "{tmp_path}/no": is not there; put the data in place'
    )
    assert "--config.data.train.path=DIR (and data.val.path)" in line
    config.load(
        values, {**absent, **{f"data.{s}.path": "gs://b" for s in ("train", "val")}}, checks.STATIC
    )


@pytest.mark.parametrize("source", ["arrayrecord", "parquet", "table", "tar", "tfds"])
def test_files_of_every_source_are_looked_for(values, tmp_path, source):
    def options(path, **more):
        split = {"source": source, "path": path, "transform": "decode|to_size(8)", **more}
        return {f"data.train.{key}": str(value) for key, value in split.items()}

    def lines(path, **more):
        return lines_of(values, options(path, **more))

    for path in (tmp_path, tmp_path / "{00..10}.tar", "gs://b/*.tar"):
        config.load(values, options(path), checks.STATIC)
    (line,) = lines(tmp_path / "no.tar")
    assert line.startswith(f'data.train.path = "{tmp_path}/no.tar": is not there; put the data')
    (line,) = lines(tmp_path / "no" / "{00..10}.tar")
    assert "is not there" in line
    (line,) = lines(tmp_path, class_names=tmp_path / "names")
    assert line == (
        f'data.train.class_names = "{tmp_path}/names": is not there; give a text file with one '
        "class name a line"
    )


def test_devices_join_the_list(values):
    more = [checks.devices(lambda run: 3)]
    assert lines_of(values, {"optim.lr": "0"}, more) == [
        "optim.lr = 0: wants a number > 0",
        "data.batch_size = 8: must be a multiple of 3 (3 devices)",
    ]
    assert lines_of(values, {"data.batch_size": "0"}, more) == [
        "data.batch_size = 0: wants an int >= 1"
    ]


def test_checks_import_nothing_heavy():
    code = (
        "import sys\n"
        "from big_vit_lite import checks, config\n"
        "config.load('configs/quickstart.py', (), checks.STATIC)\n"
        "print(sorted({'jax', 'flax', 'grain', 'tensorflow', 'sklearn', 'cv2'} & set(sys.modules)))"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root
    )
    assert done.stdout.strip() == "[]"
