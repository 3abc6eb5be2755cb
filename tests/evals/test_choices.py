"""Choices as published for Winoground and SugarCrepe, and in the general form."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from two_tables import TwoTables, picture, tables

from big_vit_lite import config, evals, parallel
from big_vit_lite.evals.choices import judge
from big_vit_lite.evals.choices_file import read_choices


def build(folder, devices=1, batch_size=8, transform="decode", images=None, skip_limit=5):
    train = {"source": "digits", "transform": "decode(channels=3)"}
    options = {"type": "choices", "file": str(folder), "transform": transform, "images": images}
    run = config.Run(
        steps=1,
        data={"batch_size": batch_size, "train": train, "skip_limit": skip_limit},
        evals={"c": options},
    )
    mesh = parallel.make_mesh(devices=jax.devices()[:devices])
    return evals.build(run, TwoTables(), mesh, Batches, 1)[0]


class Batches:
    examples, class_names = 10, ()


def cosines(params):
    image, text = (np.asarray(params[k], np.float64) for k in ("image", "text"))
    image, text = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (image, text))
    return image @ text.T


def pictures(folder, count):
    folder.mkdir(exist_ok=True)
    return [picture(folder, i) for i in range(count)]


def write(path, content):
    path.parent.mkdir(exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


@pytest.mark.parametrize("devices", [1, 8])
def test_sugarcrepe(tmp_path, devices):
    """A folder of files {"0": {filename, caption, negative_caption}}, each a category."""
    images = pictures(tmp_path / "coco", 11)
    for k, category in enumerate(("replace_obj", "swap_att")):
        entries = {
            str(i): {"filename": images[i], "caption": str(i), "negative_caption": str(20 + i + k)}
            for i in range(11 - k)
        }
        write(tmp_path / "data" / f"{category}.json", entries)
    params, images = tables(11, 40), str(tmp_path / "coco")
    metrics = evals.measure(build(tmp_path / "data", devices, images=images), {"params": params}, 1)
    s = cosines(params)
    right = [[s[i, i] > s[i, 20 + i + k] for i in range(11 - k)] for k in (0, 1)]
    assert metrics == pytest.approx(
        {
            "c/accuracy": np.mean(right[0] + right[1]),
            "c/replace_obj/accuracy": np.mean(right[0]),
            "c/swap_att/accuracy": np.mean(right[1]),
        }
    )
    assert 0 < np.mean(right[0]) < 1


def test_winoground(tmp_path):
    """JSON lines of two images, named without ending, and two captions."""
    lines = [
        {"id": i, "image_0": f"ex_{i}_img_0", "image_1": f"ex_{i}_img_1", "caption_0": str(2 * i),
         "caption_1": str(2 * i + 1), "collapsed_tag": ("Object", "Both words")[i % 2]}
        for i in range(12)
    ]  # fmt: skip
    for i in range(24):  # of several kinds
        ending = ".webp" if i in (3, 8) else ".png"
        picture(tmp_path, i, f"ex_{i // 2}_img_{i % 2}{ending}")
    file = write(tmp_path / "examples.jsonl", "\n".join(map(json.dumps, lines)) + "\n")
    params = tables(24, 24)
    params["text"] += 0.5 * params["image"]
    state = {"params": params, "ema": tables(24, 24, seed=5)}
    metrics = evals.measure(build(file, 8), state, 4, tmp_path / "out")
    for kind, prefix in (("params", "c"), ("ema", "c/ema")):
        s = cosines(state[kind])
        text, image = [], []
        for a, b in zip(range(0, 24, 2), range(1, 24, 2), strict=True):
            text.append(s[a, a] > s[a, b] and s[b, b] > s[b, a])
            image.append(s[a, a] > s[b, a] and s[b, b] > s[a, b])
        group = np.logical_and(text, image)
        for name, right in (("text", text), ("image", image), ("group", group)):
            assert metrics[f"{prefix}/{name}"] == pytest.approx(np.mean(right))
            assert metrics[f"{prefix}/Object/{name}"] == pytest.approx(np.mean(right[::2]))
            assert metrics[f"{prefix}/Both_words/{name}"] == pytest.approx(np.mean(right[1::2]))
        if kind == "params":
            assert text != image and 0 < np.mean(group) < 1
    found = [json.loads(x) for x in (tmp_path / "out" / "c-4.jsonl").read_text().splitlines()]
    s = cosines(params)
    np.testing.assert_allclose(found[3]["scores"], s[6:8, 6:8], atol=1e-6)
    assert found[3]["captions"] == ["6", "7"] and found[3]["name"].endswith("line 4")
    assert [line["right"]["group"] for line in found] == [
        line["right"]["text"] and line["right"]["image"] for line in found
    ]
    assert (tmp_path / "out" / "c-ema-4.jsonl").exists()


def test_general_form(tmp_path):
    names = pictures(tmp_path, 3)
    entries = [
        {"image": names[0], "captions": ["0", "1", "2"], "answer": 2, "category": "order"},
        {"image": names[1], "captions": ["1", "3"]},
        {"images": names[1:], "captions": ["1", "2"]},
    ]
    params = {"image": jnp.eye(4)[:3], "text": jnp.eye(4).at[2].set(jnp.array([1.0, 0, 1, 0]))}
    metrics = evals.measure(build(write(tmp_path / "c.json", entries)), {"params": params}, 1)
    # Caption 0 is image 0 itself: the answer, 2, loses.
    assert metrics == {"c/accuracy": 0.5, "c/order/accuracy": 0, "c/text": 1, "c/image": 1,
                       "c/group": 1}  # fmt: skip


def test_ties_and_nan_lose():
    assert judge(np.array([[0.5, 0.5]])) == {"accuracy": False}
    assert judge(np.array([[0.5, 0.5 + 5e-7]]), 1) == {"accuracy": False}
    assert judge(np.array([[0.5, 0.4, 0.6]]), 2) == {"accuracy": True}
    assert judge(np.array([[np.nan, 0.5]])) == {"accuracy": False}
    assert judge(np.array([[0.5, np.nan]])) == {"accuracy": False}
    # Rows are images, columns captions: texts are told apart, images are not, and the reverse.
    assert judge(np.array([[0.9, 0.1], [0.9, 1.0]])) == dict(text=True, image=False, group=False)
    assert judge(np.array([[0.9, 0.9], [0.1, 1.0]])) == dict(text=False, image=True, group=False)


def test_choices_with_an_image_that_cannot_be_read_are_left_out(tmp_path):
    names = pictures(tmp_path, 2)
    entries = [{"image": name, "captions": ["0", "1"]} for name in (*names, "lost.png")]
    file, said = write(tmp_path / "c.json", entries), []
    state = {"params": {"image": jnp.eye(2), "text": jnp.eye(2)}}
    metrics = evals.measure(build(file), state, 1, say=said.append)
    assert metrics == {"c/accuracy": 0.5, "c/bad_examples": 1}
    assert "lost.png: cannot be read" in said[0]
    entries = [{"images": [names[0], "lost.png"], "captions": ["0", "1"]}]
    with pytest.raises(config.RunError, match="none of the 1 choices can be judged"):
        evals.measure(build(write(file, entries)), state, 1, say=said.append)


FORM = '"image" and "captions", as {"image": "1.jpg", "captions": ["right", "wrong"]}'


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", f"c.json is empty; it needs {FORM}"),
        ("{", "c.json, line 1 is no JSON: "),
        ('{"image": "a", "captions": ["b", "c"]}\nx', "c.json, line 2 is no JSON: "),
        ([1], f"c.json, entry 0 is no object; it needs {FORM}"),
        ([{"image": "a"}], f"c.json, entry 0 names no captions; it needs {FORM}"),
        ([{"captions": ["a", "b"]}], "c.json, entry 0 names no images"),
        ({"7": {"filename": "a", "caption": "b"}}, "c.json, entry '7' names no captions"),
        ([{"image": "a", "captions": ["b", " "]}], "c.json, entry 0: caption 1 is empty; write"),
        ([{"images": ["", "a"], "captions": ["b", "c"]}], "c.json, entry 0: image 0 is empty; wri"),
        ([{"image": "a", "captions": ["b"]}], "has 1 images and 1 captions; it needs one image"),
        ([{"images": ["a", "b"], "captions": ["b", "c", "d"]}], "has 2 images and 3 captions"),
        ([{"image": "a", "captions": ["b", "c"], "answer": 2}], "answer 2 is none of the captions"),
        ([{"images": ["a", "b"], "captions": ["b", "c"], "answer": 1}], "it is always 0"),
        (
            [{"image": "a", "captions": ["b", "c"], "category": "ema"}],
            "c.json, entry 0 has the category 'ema', the name under which averaged weights",
        ),
    ],
)
def test_files_that_are_refused(tmp_path, content, said):
    file = write(tmp_path / "c.json", content)
    with pytest.raises(config.InputError) as caught:
        read_choices(str(file), None, "evals.c")
    assert said in str(caught.value) and str(caught.value).startswith("evals.c.file: ")


def test_choices_that_nobody_can_get_right_are_told_of(tmp_path):
    name = picture(tmp_path, 0)
    entries = [{"image": name, "captions": [a, b]} for a, b in (("1", "2"), ("3", "3"))]
    file = write(tmp_path / "c.json", entries)
    (line,) = build(file).evaluation.notes
    assert line.startswith("evals.c.file: 1 of 2 choices have captions that are the same to the ")
    assert line.endswith(f"and count as wrong: {file}, entry 1, say")
    write(file, entries[:1])
    assert build(file).evaluation.notes == []


def test_a_folder_without_choices_and_a_caption_that_is_too_long(tmp_path):
    with pytest.raises(config.InputError, match="holds no JSON file of choices; give one"):
        read_choices(str(tmp_path), None, "evals.c")
    name = picture(tmp_path, 0)
    file = write(tmp_path / "c.json", [{"image": name, "captions": ["1", "10000"]}])
    with pytest.raises(config.InputError, match=r"evals\.c\.file: '10000': the caption has 3"):
        build(file)
