"""Published prompts as they were published, and what is said about wrong ones."""

import collections

import pytest

from big_vit_lite.config import InputError
from big_vit_lite.evals import prompts


def test_imagenet_has_1000_names_of_which_two_stand_twice():
    names = prompts.name_sets()["imagenet"]
    assert len(names) == 1000 and names[0] == "tench" and names[999] == "toilet paper"
    twice = {n: c for n, c in collections.Counter(names).items() if c > 1}
    assert twice == {"missile": 2, "sunglasses": 2}
    said = prompts.repeated(names)
    assert "'missile' (657, 744), 'sunglasses' (836, 837)" in said
    assert prompts.repeated(("cat", "dog")) is None


def test_every_template_has_a_place_for_the_name():
    sets = prompts.template_sets()
    assert (len(sets["openai"]), len(sets["simple"])) == (80, 7)
    assert len(set(sets["openai"])) == 80 and set(sets["simple"]) < set(sets["openai"])
    for name, texts in sets.items():
        assert texts and all(text.count("{}") == 1 for text in texts), name
    for name, names in prompts.name_sets().items():
        assert name == "imagenet" or name in sets or name == "caltech101_vtab"
        assert len(names) > 1


def test_entries_are_texts_sets_and_files(tmp_path):
    file = tmp_path / "mine.txt"
    file.write_text("a {} drawn.\n{} seen\n\n")
    found = prompts.templates_of(("a {}.", "food101", str(file)), "evals.val.prompts")
    assert found == ("a {}.", "a photo of {}, a type of food.", "a {} drawn.", "{} seen")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "is empty; it needs a text with {} for the class a line"),
        ("\n \n", "is empty"),
        ("a {}\nan animal\n", "line 2 has no {} for the name of the class: 'an animal'"),
        ("a {}\n\nthe {}\n", "line 2 is empty; it needs a text with {}"),
    ],
)
def test_files_of_templates(tmp_path, content, said):
    file = tmp_path / "mine.txt"
    file.write_text(content)
    with pytest.raises(InputError) as caught:
        prompts.templates_of((str(file),), "evals.val.prompts")
    assert str(caught.value).startswith(f"evals.val.prompts: {file}")
    assert said in str(caught.value)


def test_an_entry_that_is_nothing():
    with pytest.raises(InputError) as caught:
        prompts.templates_of(("opnai",), "evals.val.prompts")
    assert str(caught.value).startswith(
        "evals.val.prompts: 'opnai' is neither a published set (did you mean 'openai'?) nor a "
        "file; give a text with {} in it, a file with one a line, or one of openai, simple, "
    )


def test_names_come_from_the_data_a_set_or_a_file(tmp_path):
    key, file = "evals.val.class_names", tmp_path / "names.txt"
    assert prompts.class_names_of(None, ("ice_cream", "pie"), key) == ("ice cream", "pie")
    assert prompts.class_names_of("pcam", ("0", "1"), key)[0] == "lymph node"
    file.write_text("kite\ncrane\ncrane\n")
    assert prompts.class_names_of(str(file), ("a", "b", "c"), key) == ("kite", "crane", "crane")
    # Labels are numbers, of which the data need not have the last.
    assert prompts.class_names_of(str(file), ("0", "1"), key) == ("kite", "crane", "crane")
    for of_data in (("a", "b"), ("0", "1", "2", "3")):
        with pytest.raises(InputError, match=f"has 3 names, and the data has {len(of_data)} class"):
            prompts.class_names_of(str(file), of_data, key)
    file.write_text("\n")
    with pytest.raises(InputError, match="is empty; it needs the name of a class a line"):
        prompts.class_names_of(str(file), ("a",), key)
    with pytest.raises(InputError, match=r"did you mean 'imagenet'\?.* or one of imagenet, "):
        prompts.class_names_of("imagenett", ("a",), key)


def test_names_are_listed_in_a_text_a_file_or_a_set(tmp_path):
    assert prompts.listed_names("cat, big dog", "k") == ("cat", "big dog")
    assert prompts.listed_names("eurosat", "k") == prompts.name_sets()["eurosat"]
    assert len(prompts.listed_names("imagenet", "k")) == 1000  # two of its names are there twice
    path = tmp_path / "a,b.txt"
    path.write_text("cat\nbig dog\n")
    assert prompts.listed_names(str(path), "k") == ("cat", "big dog")
    assert prompts.listed_names("big cat, ", "k") == ("big cat",)
    with pytest.raises(InputError, match="k: name 2 of 'cat,,' is empty"):
        prompts.listed_names("cat,,", "k")
    path.write_text("cat\ndog\ncat\n")
    with pytest.raises(InputError, match="txt, line 3 is 'cat', and so is line 1; a class is nam"):
        prompts.listed_names(str(path), "k")
    with pytest.raises(InputError, match="^k: name 2 is 'cat', and so is name 1; a class is named"):
        prompts.listed_names("cat, cat", "k")
    assert prompts.listed_texts("a cat, asleep", "k") == ("a cat, asleep",)
    assert prompts.listed_texts(str(path), "k") == ("cat", "dog", "cat")
    with pytest.raises(InputError, match="k is empty; it needs a text"):
        prompts.listed_texts(" ", "k")
