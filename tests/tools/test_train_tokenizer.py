"""tools/train_tokenizer.py: the vocabulary of a config's own captions, read back by the package."""

import importlib.util
import io
import tarfile
from pathlib import Path

import pytest

from big_vit_lite import config
from big_vit_lite.data import tokenizers

pytest.importorskip("tokenizers")
ROOT = Path(__file__).parents[2]
spec = importlib.util.spec_from_file_location("vocabulary", ROOT / "tools" / "train_tokenizer.py")
tool = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tool)

CONFIG = """
import ml_collections as mlc

def get_config(arg=None):
    text = "lower|drop_words(1)|template('no {}')|tokenize('v.json')|pad(64)"
    train = dict(source="table", path="FILE", part="[:2]", transform="decode", text=text)
    return mlc.ConfigDict(dict(steps=1, data=dict(batch_size=1, train=train)))
"""


@pytest.fixture
def options(tmp_path):
    table = tmp_path / "captions.csv"
    rows = ["1.jpg,A red cat", "1.jpg,a red dog!", "2.jpg,a Red bat", "3.jpg,a green hat"]
    table.write_text("\n".join(["path,caption", *rows]))
    for name in ("1.jpg", "2.jpg", "3.jpg"):
        (tmp_path / name).write_bytes(b"never decoded")
    (tmp_path / "run.py").write_text(CONFIG.replace("FILE", str(table)))
    return ["--config", str(tmp_path / "run.py"), "--out", str(tmp_path / "made" / "v.json")]


def test_words_of_the_part_that_trains_most_frequent_first(options, capsys):
    tool.main(options)
    made = tokenizers.load(options[3])
    assert capsys.readouterr().out == (
        f"{options[3]}: 11 tokens; text.vocabulary=11 or more, text.pad_id=0\n"
    )
    assert (made.vocab_size, made.pad_id, made.start, made.end) == (11, 0, (1,), (2,))
    assert made.adds == (True, True)
    assert {made.token_id(word) for word in ("a", "red", "no")} == {4, 5, 6}  # no: the template's
    assert made.encode("a red green hat") == [made.token_id("a"), made.token_id("red"), 3, 3]


def test_rare_words_and_the_smallest_vocabulary(options, tmp_path):
    tool.main([*options, "--least", "2"])
    assert tokenizers.load(options[3]).vocab_size == 7
    other = str(tmp_path / "small.json")
    tool.main([*options[:3], other, "--size", "5"])
    assert tokenizers.load(other).vocab_size == 5


def test_pieces_reach_words_never_seen(options):
    tool.main([*options, "--kind", "bpe", "--least", "2"])
    made = tokenizers.load(options[3])
    assert len(made.encode("red")) == 1 and made.token_id("red</w>") in made.encode("red")
    assert 3 not in made.encode("bad rat") and len(made.encode("bad")) > 1
    assert made.encode("x") == [3]


def test_pieces_are_the_same_at_the_end_of_a_word_and_in_its_middle(options):
    tool.main([*options, "--kind", "pieces", "--least", "2"])
    made = tokenizers.load(options[3])
    assert made.encode("redred") == 2 * made.encode("red") and len(made.encode("red")) == 1
    tool.main([*options, "--kind", "bpe", "--least", "2"])
    tokenizers.load.cache_clear()
    made = tokenizers.load(options[3])
    assert made.encode("redred") != 2 * made.encode("red")


def test_faults(options, capsys):
    assert config.exit_code(tool.main, [*options, "--kind", "letters"]) == 2
    assert '--kind = "letters": wants one of words, bpe, pieces' in capsys.readouterr().err
    assert config.exit_code(tool.main, [*options, "--size", "0"]) == 2
    assert '--size = "0": wants a whole number from 1 on' in capsys.readouterr().err
    config_without = Path(options[1])
    config_without.write_text(config_without.read_text().replace("text=text", "text=''"))
    assert config.exit_code(tool.main, options) == 2
    assert "data.train.text is empty: the config reads no captions" in capsys.readouterr().err


def test_mixed_captions_count_and_what_cannot_be_read_is_left_out(options, tmp_path, capsys):
    shard = tmp_path / "t-0.tar"
    with tarfile.open(shard, "w") as tar:
        for name, held in (("a.jpg", b"x"), ("a.txt", b"a purple cow"), ("b.jpg", b"x")):
            entry = tarfile.TarInfo(name)
            entry.size = len(held)
            tar.addfile(entry, io.BytesIO(held))
    mix = [f"--config.data.mix.more.{name}={value}" for name, value in (
        ("source", "tar"), ("path", str(shard)), ("transform", "decode"),
        ("text", "lower|tokenize('v.json')|pad(64)"))]  # fmt: skip
    tool.main([*options, *mix])
    assert "left out: " in (said := capsys.readouterr().err) and "b" in said
    made = tokenizers.load(options[3])
    assert {made.token_id("purple"), made.token_id("red")}.isdisjoint({None, 3})
    with pytest.raises(config.InputError, match="more than data.skip_limit = 0 examples"):
        tool.main([*options, *mix, "--config.data.skip_limit=0"])
