"""Photographs and tiny models, every leaf of them random, as the hub and runs have them."""

import gzip
import json
import shutil

import jax
import pytest
from data import test_tokenizers
from pictures import photo
from PIL import Image
from pretrained_models import own_run, published

import big_vit_lite as bvl
from big_vit_lite.predict import compiled, main

ODD = "<b>&'quoted\".jpg"


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """photos/ (9 in two folders, one with an odd name), clip, siglip, dino, bare, runs/vit."""
    root = tmp_path_factory.mktemp("predict")
    (root / "photos" / "more").mkdir(parents=True)
    names = [f"{i}.jpg" for i in range(5)] + ["more/5.png", "more/6.jpg", "more/7.jpg", ODD]
    for i, name in enumerate(names):
        Image.fromarray(photo(24, 30 + i, seed=i)).save(root / "photos" / name)
    (root / "photos" / "notes.txt").write_text("no image")
    own_run(root / "runs" / "vit")
    clip = {"vocabulary": 49408, "length": 77, "end_id": None}
    path = published(root / "clip", "L11-clip", "transformers-clip", text=clip)
    merges = test_tokenizers.merges_file(test_tokenizers.GOLDENS["merges"])
    (path / "merges.txt").write_bytes(gzip.decompress(merges))
    published(root / "siglip", "L12-siglip", "transformers-siglip", text={"vocabulary": 300})
    published(root / "dino", "L13-dinov2", "transformers-dinov2")
    published(root / "bare", "L13-dinov2", "transformers-dinov2", transform=None)
    return root


@pytest.fixture(autouse=True)
def here(world, tmp_path, monkeypatch):
    """A folder of the test's own, with links to all of `world`; commands run in it, and on one
    device, for which less is compiled than for eight."""
    for path in world.iterdir():
        if path.name != "photos":
            (tmp_path / path.name).symlink_to(path)
    shutil.copytree(world / "photos", tmp_path / "photos")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(compiled, "load", load_once)
    monkeypatch.setattr(jax, "local_devices", lambda: jax.devices()[:1])
    return tmp_path


HUB = {"openai/clip-vit-base-patch32": "clip", "facebook/dinov2-small": "dino"}
"""What stands for the models that pages name."""
_LOADED = {}


def load_once(name, **options):
    """As `load`: models that do not change are loaded, and their functions compiled, once for all
    tests. Commands in processes of their own load for themselves."""
    name = HUB.get(name, name)
    key = (str(name), repr(sorted(options.items())))
    if key not in _LOADED:
        _LOADED[key] = bvl.load(name, **options)
    return _LOADED[key]


@pytest.fixture
def model_of(here):
    return load_once


@pytest.fixture
def predict(capsys):
    """Runs the command as a process would; what it prints, its errors, its exit code."""

    def run(*argv, code=0):
        capsys.readouterr()
        found = main([str(word) for word in argv])
        out, err = capsys.readouterr()
        assert found == code, err
        return out if code == 0 else err

    return run


@pytest.fixture
def records():
    def read(path):
        return [json.loads(line) for line in path.read_text().splitlines()]

    return read
