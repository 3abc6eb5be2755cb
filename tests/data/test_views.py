"""views: several independent views of one image."""

import pickle

import numpy as np
import pytest
from pictures import photo

from big_vit_lite.config import InputError
from big_vit_lite.data import transforms
from big_vit_lite.data.transforms.views import Views

TWO = (
    "decode|views(first='random_resized_crop(24, scale=(0.32, 1.0))|flip', "
    "second='random_resized_crop(24, scale=(0.32, 1.0))|flip', "
    "local=(8, 'random_resized_crop(10, scale=(0.05, 0.32))|flip'), whole='to_size((6, 9))')"
)


def apply(text, image, seed=0):
    return transforms.parse(text)(image, np.random.default_rng(seed))


def test_a_view_is_what_its_text_makes():
    image = photo()
    views = apply(TWO, image)
    assert list(views) == ["first", "second", "local", "whole"]
    rng = np.random.default_rng(0)
    large = transforms.parse("random_resized_crop(24, scale=(0.32, 1.0))|flip")
    small = transforms.parse("random_resized_crop(10, scale=(0.05, 0.32))|flip")
    assert np.array_equal(views["first"], large(image, rng))
    assert np.array_equal(views["second"], large(image, rng))
    assert np.array_equal(views["local"], [small(image, rng) for _ in range(8)])
    assert np.array_equal(views["whole"], apply("to_size((6, 9))", image))


def test_each_view_draws_for_itself_and_the_same_again():
    image = photo()
    image.flags.writeable = False
    views = apply(TWO, image)
    assert not np.array_equal(views["first"], views["second"])
    assert len({view.tobytes() for view in views["local"]}) == 8
    again = apply(TWO, image)
    assert all(np.array_equal(views[key], again[key]) for key in views)
    other = apply(TWO, image, seed=1)
    assert not np.array_equal(views["first"], other["first"])


def test_specs_are_the_shapes():
    transform = transforms.parse(TWO)
    made = apply(TWO, photo())
    assert transform.specs() == {key: (view.shape, view.dtype) for key, view in made.items()}
    assert transform.output_size() is None
    unknown = transforms.parse("views(a='flip', b=(2, 'flip'))")
    assert unknown.specs()["b"][0] == (2, None, None, None)
    assert unknown.specs((8, 6), 3)["b"][0] == (2, 8, 6, 3)
    assert transforms.parse("to_size(7)|views(a='decode(1)')").specs()["a"][0] == (7, 7, 1)
    assert pickle.loads(pickle.dumps(transform)) == transform


def test_one_view_of_a_count_of_one_keeps_the_axis():
    assert apply("views(a=(1, 'to_size(8)'))", photo())["a"].shape == (1, 8, 8, 3)


def test_the_augmentation_of_dinov2_is_read_as_documented():
    start = Views.__doc__.index("decode|views(")
    documented = Views.__doc__[start : Views.__doc__.index("\n\n", start)]
    transform = transforms.parse(documented)
    assert {key: shape for key, (shape, _) in transform.specs().items()} == {
        "first": (224, 224, 3),
        "second": (224, 224, 3),
        "local": (8, 98, 98, 3),
    }
    made = apply(documented, photo(240, 300))
    assert made["local"].shape == (8, 98, 98, 3)
    solarized = [dict(vars(op)) for op in transform.ops[1].views[1].transform.ops][-1]
    assert solarized == {"threshold": 128, "p": 0.2}


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        ("views", ["views: name at least one view; write views(first='random_resized_crop(224)"]),
        ("views('flip')", ["views: too many positional arguments; write views(first="]),
        ("views(a=flip)", ["views: 'flip' is not a plain value (number, text or tuple)"]),
        ("views(a=3)", ["views: a is a text or a pair (count, text), not 3; write views("]),
        ("views(a=('flip',))", ["a is a text or a pair (count, text), not ('flip',)"]),
        ("views(a=(0, 'flip'))", ["the count of a is a whole number from 1 on, not 0"]),
        ("views(label='flip')", ["no view is called label, which batches hold already"]),
        ("views(a='flip')|flip", ["views comes last; it makes more than one image"]),
        (
            "views(a='flp', b=(2, 'resize(0)|flip(9)'), c='flip')",
            [
                "views: view a: unknown operation 'flp'; did you mean flip?; view b: resize: size "
                "is a side in pixels or a pair (height, width), not 0; write resize(size,"
            ],
        ),
        ("views(a='flip|decode')", ["views: view a: decode comes first and once"]),
        (
            "views(a='patchify')",
            ["views: view a: patchify cannot stand in a view, which is one image"],
        ),
        ("views(a='views(b=1)')", ["views: view a: views: b is a text or a pair"]),
    ],
)
def test_faults_name_the_view(text, faults):
    found = transforms.check(text)
    assert len(found) == len(faults)
    assert all(fault in text for fault, text in zip(faults, found, strict=True))


def test_images_of_one_view_have_one_shape():
    class Growing:
        """A transform whose images grow."""

        side = 3

        def __call__(self, image, rng):
            self.side += 1
            return image[: self.side]

    views = Views(a=(2, "flip"))
    object.__setattr__(views.views[0], "transform", Growing())
    wanted = r"a holds images of different shapes, \(4, 56, 3\) and \(5, 56, 3\); end it with"
    with pytest.raises(InputError, match=wanted):
        views(photo(), None)


def test_bytes_are_refused():
    with pytest.raises(InputError, match="stored as bytes; begin the transform with decode"):
        apply("views(a='')", b"bytes")
