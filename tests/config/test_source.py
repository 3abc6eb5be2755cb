"""Config files: arguments, and one sentence for whatever is wrong with a file."""

import re

import pytest

from big_vit_lite import config
from big_vit_lite.config import source


def test_arguments_are_typed_by_their_defaults():
    defaults = {"variant": "B/16", "tiny": False, "seed": 0, "lr": 1e-3, "path": None}
    arg = config.parse_arg("variant=B/32,tiny, seed=3,lr=2e-3,path=a:b=c", **defaults)
    assert vars(arg) == {
        "variant": "B/32",
        "tiny": True,
        "seed": 3,
        "lr": 2e-3,
        "path": "a:b=c",
    }
    assert vars(config.parse_arg(None, **defaults)) == defaults
    assert vars(config.parse_arg("", **defaults)) == defaults
    assert config.parse_arg("tiny=false", tiny=True).tiny is False


def test_every_wrong_argument_is_named():
    with pytest.raises(config.InputError) as caught:
        config.parse_arg(
            "varient=S/16,seed=x,variant,tiny=maybe,zzz", variant="", seed=0, tiny=False
        )
    assert str(caught.value).splitlines() == [
        'config argument "varient": unknown; did you mean "variant"?',
        'config argument "seed=x": seed wants a whole number',
        'config argument "variant": variant wants a value, as in name=value',
        'config argument "tiny=maybe": tiny wants true or false',
        'config argument "zzz": unknown (known: variant, seed, tiny)',
    ]


def test_file_and_argument(file):
    run = config.load(f"{file}:variant=mu/4,tiny,seed=2")
    assert (run.model.variant, run.steps, run.seed) == ("mu/4", 4, 2)
    assert run.evals["val"].every == "2 epochs"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a/b.py", ("a/b.py", None)),
        ("a/b.py:", ("a/b.py", "")),
        ("a/b.py:x=c:d,y", ("a/b.py", "x=c:d,y")),
        ("C:/a/b.py:x", ("C:/a/b.py", "x")),
    ],
)
def test_split_source(text, parts):
    path, arg = source.split_source(text)
    assert (path.as_posix(), arg) == parts


def test_what_a_run_wrote_is_no_config_file(tmp_path):
    written = tmp_path / "config.json"
    written.write_text("{}")
    with pytest.raises(config.InputError, match=r'config.json" is no Python file; give one such'):
        config.load(str(written))


def test_missing_file_names_the_nearest_shipped_one(tmp_path):
    with pytest.raises(config.InputError, match=r'config file ".*none.py" does not exist; give a'):
        config.load(str(tmp_path / "none.py"))
    with pytest.raises(config.InputError, match="is a folder"):
        config.load(str(tmp_path))
    shipped = source.shipped()
    names = [re.sub(r".*/", "", name) for name in shipped]
    assert names == sorted(names) and {"quickstart.py", "clip_b32.py"} <= set(names)
    assert not any(name.startswith("_") for name in names)
    with pytest.raises(config.InputError) as caught:
        config.load(shipped[names.index("quickstart.py")].replace("quickstart", "quikstart"))
    wanted = shipped[names.index("quickstart.py")]
    assert f'did you mean "{wanted}"?' in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = 1\n\ny = zzz\n", ":3: NameError: name 'zzz' is not defined"),
        ("def get_config(arg=None):\n    return {}['lr']\n", ":2: KeyError: 'lr'"),
        ("def get_config(:\n", ":1: invalid syntax"),
        ("import no_such_package\n", ":1: ModuleNotFoundError: No module named 'no_such_package'"),
        ("x = 1\n", ": wants a function get_config(arg) that returns a ConfigDict"),
        (
            "def get_config():\n    return 3\n",
            ": get_config must return a ConfigDict, but returned int",
        ),
        (
            "import ml_collections as m\ndef get_config():\n    return m.ConfigDict().optim\n",
            ":3: AttributeError: \"'optim'\"",
        ),
    ],
)
def test_a_broken_file_is_one_sentence(tmp_path, text, said):
    file = tmp_path / "broken.py"
    file.write_text(text)
    with pytest.raises(config.InputError) as caught:
        config.load(str(file))
    assert str(caught.value) == f"{file}{said}"


def test_get_config_without_an_argument(tmp_path, values):
    file = tmp_path / "plain.py"
    file.write_text(f"def get_config():\n    return {values!r}\n")
    assert config.load(str(file)) == config.load(values)
    with pytest.raises(config.InputError, match=r'takes no argument, but ":tiny" was given'):
        config.load(f"{file}:tiny")


def test_wrong_argument_names_the_file(file):
    with pytest.raises(config.InputError) as caught:
        config.load(f"{file}:tyny")
    assert str(caught.value) == f'{file}: config argument "tyny": unknown; did you mean "tiny"?'


def test_shared_sections_of_a_file_are_separate():
    import ml_collections as mlc

    shared = mlc.ConfigDict({"source": "digits", "transform": "decode"})
    values = mlc.ConfigDict({"steps": 1, "data": {"batch_size": 1, "train": shared, "val": shared}})
    run = config.load(values, {"data.val.part": "[:5]"})
    assert (run.data.train.part, run.data.val.part) == ("", "[:5]")


def test_references_in_a_file_are_followed():
    import ml_collections as mlc

    values = mlc.ConfigDict({"steps": mlc.FieldReference(7)})
    values.data = {"batch_size": 1, "train": {"source": "digits", "transform": "decode"}}
    values.seed = values.get_ref("steps") * 2
    assert config.load(values).seed == 14
