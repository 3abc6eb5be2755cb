"""What lies beside weights that are saved: names of classes, vocabularies, other models' files."""

import json

import numpy as np
import pytest
from weights import parity

from big_vit_lite import weights
from big_vit_lite.config import InputError
from big_vit_lite.weights.behaviour import differences
from big_vit_lite.weights.loading import nested
from big_vit_lite.weights.preprocessing import HALF, squash

VIT = "transformers-vit"
NAMES = ("cat", "dog", "owl", "LABEL_3", "a 'quoted' eel", "crane", "crane")


def save(path, name="L09-vit", layout=VIT, said=None, **options):
    loaded = parity.loaded(name)
    return weights.save(path, loaded.params, loaded.sections, layout, said, **options)


def config_of(folder, name="config.json"):
    return json.loads((folder / name).read_text())


@pytest.mark.parametrize(
    ("name", "layout"),
    [
        ("L09-vit", VIT),
        ("L10-deit", "transformers-deit"),
        ("L13-classifier", "transformers-dinov2"),
        ("L15-vit", "timm"),
        ("L16-distilled", "timm-deit"),
    ],
)
def test_names_of_classes_come_back(name, layout, tmp_path):
    classes = parity.loaded(name).sections.model.classes
    names = (*NAMES, *map(str, range(classes)))[:classes]
    loaded = weights.load(save(tmp_path / "named", name, layout, class_names=names))
    assert loaded.class_names == names
    again = weights.load(weights.save_again(tmp_path / "again", loaded))
    assert again.class_names == names
    assert weights.load(save(tmp_path / "numbers", name, layout)).class_names is None


def test_names_are_where_the_libraries_have_them(tmp_path):
    save(tmp_path / "vit", class_names=NAMES)
    about = config_of(tmp_path / "vit")
    assert about["id2label"] == {str(i): name for i, name in enumerate(NAMES)}
    assert about["label2id"]["owl"] == 2
    save(tmp_path / "timm", "L15-vit", "timm", class_names=NAMES)
    assert config_of(tmp_path / "timm")["label_names"] == list(NAMES)
    about = config_of(tmp_path / "timm")
    del about["label_names"]
    about["pretrained_cfg"]["label_names"] = {str(i): name for i, name in enumerate(NAMES)}
    (tmp_path / "timm" / "config.json").write_text(json.dumps(about))
    assert weights.load(tmp_path / "timm").class_names == NAMES


@pytest.mark.parametrize(
    ("name", "layout", "names", "told"),
    [
        ("L09-vit", VIT, NAMES[:2], "one string for each of the head's 7 outputs, and here they are"
         " 2, 'cat', 'dog' and so on."),
        ("L09-vit", VIT, "catdogs", "are 7, 'c', 'a', 't' and so on."),
        ("L09-vit", VIT, (1, *NAMES[1:]), "are 7, 1, 'dog', 'owl' and so on."),
        ("L13-dinov2", "transformers-dinov2", NAMES, "each of the head's 0 outputs, and here they"),
        ("L01-augreg", "vit-jax", NAMES, "have no place for names of classes: leave class_names o"),
        ("L11-clip", "transformers-clip", NAMES, "have no place for names of classes"),
    ],
)  # fmt: skip
def test_names_that_do_not_fit_are_refused(name, layout, names, told, tmp_path):
    with pytest.raises(InputError) as error:
        save(tmp_path / "x", name, layout, class_names=names)
    assert told in str(error.value) and not (tmp_path / "x").exists()


def test_two_models_in_one_folder(tmp_path):
    """The second would take the first one's config.json, and with it what it computes."""
    first = save(tmp_path / "a.safetensors", said=squash(16, HALF))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for options in ({"said": squash(16, HALF), "class_names": NAMES}, {"said": None}):
        file = "config.json" if options["said"] else "preprocessor_config.json"
        with pytest.raises(InputError) as error:
            save(tmp_path / "b.safetensors", **options)
        assert str(error.value) == (
            f"{tmp_path / file} is that of a.safetensors, and b.safetensors needs "
            f"{'its own' if options['said'] else 'none'}: save each model into a folder of its own."
        )
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    # The same model at another step says the same of itself.
    save(tmp_path / "b.safetensors", said=squash(16, HALF))
    assert weights.load(first).preprocessing == squash(16, HALF)
    # timm's and open_clip's words lie elsewhere, or nowhere.
    save(tmp_path, "L06-clip", "open-clip")
    save(tmp_path / "c.npz", "L01-augreg", "vit-jax")


def test_a_config_of_nobodys_is_kept(tmp_path):
    (tmp_path / "config.json").write_text('{"port": 80}')
    with pytest.raises(InputError, match="config.json is not this model's, and model.safetensors"):
        save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_saving_over_the_same_model(tmp_path):
    file = save(tmp_path, said=squash(16, HALF), class_names=NAMES)
    assert weights.load(file).preprocessing == squash(16, HALF)
    save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    loaded = weights.load(tmp_path)
    assert loaded.preprocessing is None and loaded.class_names is None


def test_vocabularies_are_copied_with_a_text_tower(tmp_path):
    folder = tmp_path / "old"
    folder.mkdir()
    parity.unpack(parity.golden("L11-clip"), folder)
    for name in ("merges.txt", "vocab.json", "tokenizer_config.json", "README.md"):
        (folder / name).write_bytes(name.encode())
    file = weights.save_again(tmp_path / "new", weights.load(folder))
    assert {path.name for path in file.parent.iterdir()} == {
        "config.json", "preprocessor_config.json", "model.safetensors", "merges.txt", "vocab.json",
        "tokenizer_config.json",
    }  # fmt: skip
    assert (file.parent / "merges.txt").read_bytes() == b"merges.txt"
    (file.parent / "merges.txt").write_bytes(b"other")
    (file.parent / "other.pth").write_bytes(b"")  # of which the vocabulary may be
    with pytest.raises(InputError, match=r"merges.txt is that of other.pth, and model.safetensors"):
        weights.save_again(file.parent, weights.load(folder))


def test_a_tower_alone_takes_no_vocabulary(tmp_path):
    parity.unpack(parity.golden("L11-vision"), tmp_path)
    (tmp_path / "merges.txt").write_text("of the whole model")
    file = weights.save_again(tmp_path / "new", weights.load(tmp_path))
    assert not (file.parent / "merges.txt").exists()


@pytest.mark.parametrize(
    ("name", "layout"),
    [("L09-vit", VIT), ("L11-clip", "transformers-clip"), ("L15-siglip", "timm"),
     ("L02-map", "big-vision-vit"), ("L03-siglip", "big-vision-pair"), ("L06-clip", "open-clip")],
)  # fmt: skip
def test_a_square_may_be_said_by_both_sides(name, layout, tmp_path):
    """As the sections of our own runs say it. transformers' CLIP reads one number only."""
    loaded = parity.loaded(name)
    section = loaded.sections.model.model_copy(update={"image_size": (16, 16)})
    sections = loaded.sections._replace(model=section)
    file = weights.save(tmp_path, loaded.params, sections, layout)
    assert weights.load(file).sections.model.image_size == 16
    if layout == "transformers-clip":
        assert config_of(tmp_path)["vision_config"]["image_size"] == 16
    wrong = section.model_copy(update={"image_size": (16, 12)})
    assert differences(loaded.sections, sections) == []
    assert differences(loaded.sections, sections._replace(model=wrong)) == ["model.image_size 16"]


def random_params(sections):
    rng = np.random.default_rng(0)
    shapes = sections.leaves().items()
    return nested({k: rng.standard_normal(x.shape).astype(np.float32) for k, x in shapes})


def test_open_clips_own_towers_have_a_class_token(tmp_path):
    sections = parity.loaded("L06-clip").sections
    update = {"pool": "gap", "class_position": False}
    sections = sections._replace(model=sections.model.model_copy(update=update))
    with pytest.raises(InputError) as error:
        weights.save(tmp_path / "x", random_params(sections), sections, "open-clip")
    assert str(error.value) == (
        "open_clip's own ViTs have a class token, and this model has none: choose another layout, "
        "such as open-clip-timm, transformers-siglip or big-vision-pair."
    )


def test_what_a_file_would_ask_for_when_it_is_loaded_is_told_as_such(tmp_path):
    """A grid that is no square, which the shapes of open_clip's files cannot say."""
    sections = parity.loaded("L06-clip").sections
    update = {"image_size": (16, 8), "position_grid": (4, 2)}
    sections = sections._replace(model=sections.model.model_copy(update=update))
    with pytest.raises(InputError) as error:
        weights.save(tmp_path / "x", random_params(sections), sections, "open-clip")
    assert str(error.value).startswith(
        "open_clip CLIP, ViT and ResNet cannot say all of this model, choose another layout; as a "
        "file of theirs it would be told: "
    )
    assert "positions for 8 patches, which is no square" in str(error.value)


@pytest.mark.parametrize(
    ("name", "layout", "told"),
    [
        ("L09-vit", "open-clip", "open_clip CLIP, ViT and ResNet cannot hold one image tower, as"),
        (
            "L02-map",
            "big-vision-pair",
            "LiT) cannot hold one image tower, as this model is: choose",
        ),
        ("L03-siglip", "big-vision-vit", "cannot hold an image tower and a text tower, as this mo"),
    ],
)
def test_a_layout_of_another_family(name, layout, told, tmp_path):
    with pytest.raises(InputError) as error:
        save(tmp_path / "x", name, layout)
    assert told in str(error.value) and not (tmp_path / "x").exists()
