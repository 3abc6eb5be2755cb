"""Small models as the hub and runs of ours have them, for tests of what `load` makes of them."""

import atexit
import functools
import gzip
import shutil
import tempfile
from pathlib import Path

import jax
import numpy as np
import pairs
from data import test_tokenizers
from pictures import photo
from PIL import Image
from weights import parity

import big_vit_lite as bvl
from big_vit_lite import checkpoint, config, data, models, tasks, weights
from big_vit_lite.tasks.images import normalize

TEXTS = ["a photo of a cat", "a painting of a house by the sea"]
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
TRANSFORM = "decode|resize_small(16, 'bicubic', rule='torchvision')|central_crop(16)"


def random_params(sections):
    rng = np.random.default_rng(3)

    def draw(path, x):
        name = path[-1].key
        mean = 1.0 if name == "scale" else np.log(10) if name == "t" else 0.0
        std = 0.3 if name == "kernel" else 0.0 if name == "t" else 0.2
        return rng.normal(mean, std, x.shape).astype(np.float32)

    model = sections.build("cpu", scan=False)
    shapes = models.abstract_params(model)
    return jax.tree.map_with_path(draw, shapes)


def published(folder, golden, layout, transform=TRANSFORM, **fields):
    """Weights of a golden's tiny model, of one block and some other fields, as the hub has them."""
    sections = parity.loaded(golden).sections
    for name in ("model", "text"):
        if (section := getattr(sections, name)) is not None:
            changed = section.model_copy(update={"depth": 1} | fields.get(name, {}))
            sections = sections._replace(**{name: changed})
    said = transform and weights.Preprocessing(transform, *CLIP)
    weights.save(folder, random_params(sections), sections, layout, said)
    return folder


@functools.cache
def folder_of_models() -> Path:
    """Photographs, models as the hub has them, and a run of ours; made once for all tests."""
    root = Path(tempfile.mkdtemp(prefix="pretrained-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    for name, seed in (("cat", 1), ("dog", 2)):
        Image.fromarray(photo(24, 30, seed=seed)).save(root / f"{name}.jpg")
    clip = {"vocabulary": 49408, "length": 77, "end_id": None}
    path = published(root / "clip", "L11-clip", "transformers-clip", text=clip)
    merges = test_tokenizers.merges_file(test_tokenizers.GOLDENS["merges"])
    (path / "merges.txt").write_bytes(gzip.decompress(merges))
    published(root / "dino", "L13-dinov2", "transformers-dinov2")
    own_run(root / "runs" / "vit", ema=True)
    return root


@functools.cache
def clip_model():
    return bvl.load(folder_of_models() / "clip")


def own_run(workdir, ema=False, **fields):
    """A run's checkpoint, its parameters random; averaged ones are others."""
    run = config.Run(
        steps=4,
        model={"patch": 4, "pool": "gap", **pairs.SIZES},
        data={
            "batch_size": 4,
            "mean": CLIP[0],
            "std": CLIP[1],
            "train": {
                "source": "folder",
                "path": "photos",
                "transform": "decode|random_resized_crop(8)",
            },
            "val": {
                "source": "folder",
                "path": "photos",
                "transform": "decode|resize_small(10)|central_crop(8)",
            },
        },
        **fields,
    )
    spec = {
        "image": jax.ShapeDtypeStruct((4, 8, 8, 3), np.uint8),
        "label": jax.ShapeDtypeStruct((4,), np.int32),
    }
    task = tasks.build(run, tasks.build_model(run, spec, 3, "cpu"))
    state = {"params": pairs.random_params(task, 0)}
    state |= {"ema": pairs.random_params(task, 1)} if ema else {}
    said = {"config": run.to_json(), "class_names": ["cat", "dog", "owl"], "position_grid": [2, 2]}
    with checkpoint.Keeper(workdir / "checkpoints") as keeper:
        keeper.save(4, state, said)
    return task, state


def by_hand(path, transform, mean, std):
    pixels = data.transforms.parse(transform)(Path(path).read_bytes(), np.random.default_rng(0))
    return normalize(pixels[None], mean, std)


def assert_close(found, wanted, tolerance=1e-6):
    wanted = np.asarray(wanted)
    assert np.shape(found) == wanted.shape
    assert np.abs(np.asarray(found) - wanted).max() <= tolerance * np.abs(wanted).max()
