"""patchify: the size rule, the layout of patches, positions and masks."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pictures import photo
from PIL import Image as Pillow

from big_vit_lite import checks, config, data
from big_vit_lite.config import Split
from big_vit_lite.data import transforms
from big_vit_lite.data.transforms.op import ImageFault
from big_vit_lite.data.transforms.patchify import fitted
from big_vit_lite.models.layers.patches import PatchEmbedding

GOLDENS = pathlib.Path(__file__).parent / "goldens" / "patchify.npz"


def apply(text, image):
    return transforms.parse(text)(image, np.random.default_rng(0))


def joined(made, patch, channels):
    """The image that the patches make."""
    n = int(made["patch_mask"].sum())
    rows, columns = made["positions"][n - 1] + 1
    image = np.zeros((rows * patch[0], columns * patch[1], channels), np.uint8)
    for pixels, (row, column) in zip(made["patches"][:n], made["positions"][:n], strict=True):
        top, left = row * patch[0], column * patch[1]
        image[top : top + patch[0], left : left + patch[1]] = pixels.reshape(*patch, channels)
    return image


def test_sizes_are_those_of_siglip2():
    golden = np.load(GOLDENS)
    wanted = golden["fitted"].tolist()
    assert len(wanted) > 2000
    for height, width, patch, budget, *size in wanted:
        assert fitted((height, width), (patch, patch), budget) == tuple(size)


def test_sizes_of_oblong_patches_are_those_of_timm():
    for height, width, *patch, budget, high, wide in np.load(GOLDENS)["naflex"].tolist():
        assert fitted((height, width), tuple(patch), budget) == (high, wide)


@pytest.mark.extra
def test_sizes_are_those_of_the_transformers_at_hand():
    siglip2 = pytest.importorskip("transformers.models.siglip2.image_processing_pil_siglip2")
    rule = siglip2.get_image_size_for_max_num_patches
    rng = np.random.default_rng(0)
    for height, width in rng.integers(1, 3000, (500, 2)).tolist():
        assert fitted((height, width), (16, 16), 256) == rule(height, width, 16, 256)


@pytest.mark.parametrize("size", [(40, 56), (56, 40), (400, 30), (1, 1), (7, 3000), (64, 64)])
def test_the_patches_are_the_resized_image(size):
    image = photo(*size)
    made = apply("patchify(patch=8, budget=60)", image)
    high, wide = fitted(size, (8, 8), 60)
    resized = Pillow.fromarray(image).resize((wide, high), Pillow.Resampling.BILINEAR)
    assert np.array_equal(joined(made, (8, 8), 3), np.asarray(resized))
    n = high * wide // 64
    assert made["patch_mask"].tolist() == [True] * n + [False] * (60 - n)
    assert not made["patches"][n:].any()
    assert not made["positions"][n:].any()
    shapes = {key: (array.shape, array.dtype) for key, array in made.items()}
    specs = transforms.parse("patchify(patch=8, budget=60)").specs(channels=3)
    assert shapes == specs


def test_resized_by_the_filter_asked_for():
    image = photo()
    nearest = apply("patchify(8, 60, method='nearest')", image)
    size = fitted((40, 56), (8, 8), 60)
    wanted = apply(f"to_size({size}, method='nearest')", image)
    assert np.array_equal(joined(nearest, (8, 8), 3), wanted)
    plain = apply("patchify(8, 60, antialias=False)", photo(400, 300))
    smooth = apply("patchify(8, 60)", photo(400, 300))
    assert not np.array_equal(plain["patches"], smooth["patches"])


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_embeds_as_the_models_own_patches_do(channels):
    image = photo(24, 40, channels)
    made = apply("patchify((8, 4), 40, resize=False)", image)
    assert made["patch_mask"].sum() == 30
    embedding = PatchEmbedding(6, (8, 4), (8, 4), bias=False, dtype=jnp.float32)
    pixels = jnp.asarray(image[None], jnp.float32)
    params = embedding.init(jax.random.key(0), pixels)
    whole = embedding.apply(params, pixels)[0].reshape(30, 6)
    kernel = params["params"]["kernel"].reshape(-1, 6)
    ours = jnp.asarray(made["patches"][:30], jnp.float32) @ kernel
    assert np.allclose(ours, whole, rtol=1e-6, atol=1e-4)
    assert np.array_equal(made["positions"][:30], np.argwhere(np.ones((3, 10))))


@pytest.mark.parametrize(("height", "width"), [(20_000, 100), (100, 20_000), (1, 1), (1, 5000)])
def test_gigantic_thin_and_tiny_images_fit(height, width):
    made = apply("patchify", np.full((height, width, 3), 7, np.uint8))
    n = int(made["patch_mask"].sum())
    assert 1 <= n <= 256
    assert set(made["patches"][:n].ravel().tolist()) == {7}
    rows, columns = made["positions"].max(0) + 1
    assert rows * columns == n
    assert (rows >= columns) == (height >= width)


@pytest.mark.parametrize("seed", range(4))
def test_no_budget_is_passed_and_most_of_it_used(seed):
    rng = np.random.default_rng(seed)
    for height, width, patch, budget in rng.integers(1, (900, 900, 20, 600), (300, 4)).tolist():
        high, wide = fitted((height, width), (patch, patch), budget)
        rows, columns = high // patch, wide // patch
        assert (high % patch, wide % patch) == (0, 0)
        assert rows * columns <= budget
        if max(high / height, wide / width) < 90:  # the scale ends at 100
            assert (rows + 1) * (columns + 1) > budget


def test_images_that_do_not_divide_are_refused_where_they_keep_their_size():
    with pytest.raises(ImageFault, match="40x56, which does not divide into patches of 16x16"):
        apply("patchify(16, 256, resize=False)", photo(40, 56))
    with pytest.raises(ImageFault, match="64x64, which makes 16 patches of 16x16, more than the"):
        apply("patchify(16, 15, resize=False)", photo(64, 64))


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("patchify(0)", "patchify: patch is a side in pixels or a pair (height, width), not 0"),
        ("patchify(16, 0)", "budget is a whole number from 1 on, not 0"),
        ("patchify(16, 9.5)", "budget is a whole number from 1 on, not 9.5"),
        ("patchify(method='cubic')", "method is one of nearest"),
        ("patchify(resize=1)", "resize is True or False, not 1; write patchify(patch=16, budget="),
        ("patchify|flip", "patchify comes last; it makes more than one image"),
    ],
)
def test_faults(text, fault):
    (found,) = transforms.check(text)
    assert fault in found


def test_specs_tell_what_is_known_before_any_image():
    assert transforms.parse("decode|patchify(16, 100)").specs() == {
        "patches": ((100, 768), np.uint8),
        "positions": ((100, 2), np.int32),
        "patch_mask": ((100,), np.bool_),
    }
    assert transforms.parse("patchify(4, 9)").specs()["patches"][0] == (9, None)
    assert transforms.output_size("decode|to_size(32)|patchify(4, 9)") is None
    assert transforms.parse("decode(1)|to_size((8, 6))").specs() == {"image": ((8, 6, 1), np.uint8)}
    assert transforms.parse("flip").specs() == {"image": ((None, None, None), np.uint8)}
    assert transforms.parse("flip").specs((8, 6), 2) == {"image": ((8, 6, 2), np.uint8)}


def test_patches_reach_the_batch():
    split = Split(source="synthetic", transform="patchify(8, 20)", examples=6, image_size=(16, 40))
    stream = data.eval_stream(split, 4)
    shapes = {key: (spec.shape, spec.dtype) for key, spec in stream.spec.items()}
    made = transforms.parse(split.transform).specs(channels=3)
    assert {key: shapes[key] for key in made} == {k: ((4, *s), d) for k, (s, d) in made.items()}
    image = data.eval_stream(split.model_copy(update={"transform": ""}), 4)[0]["image"][3]
    wanted = apply(split.transform, np.asarray(image))
    batch = stream[0]
    assert all(np.array_equal(batch[key][3], wanted[key]) for key in made)


@pytest.mark.parametrize(
    ("transform", "keys"),
    [("patchify(8, 20)", "patches, positions, patch_mask"), ("views(a='flip', b='')", "a, b")],
)
def test_a_task_that_wants_one_image_says_so_before_the_run(transform, keys):
    train = {"source": "synthetic", "transform": transform, "image_size": (32, 48)}
    run = config.Run(steps=1, data={"batch_size": 1, "train": train})
    assert checks.image_size(run.data.train) is None
    (fault,) = checks.images(run)
    assert (fault.key, fault.value) == ("data.train.transform", transform)
    assert fault.wanted == f"makes {keys}, but task.name classification reads one image"
