"""Text transforms: the grammar and its refusals, and what each operation does."""

import html
import random
import re
import string

import numpy as np
import pytest

from big_vit_lite import checks, config
from big_vit_lite.config import InputError
from big_vit_lite.data import text, transforms
from big_vit_lite.data.examples import Draws, Examples
from big_vit_lite.data.sources.base import BadExample, Source
from big_vit_lite.data.text import TextFault
from big_vit_lite.data.text.parse import OPS

AT_END = "|tokenize('bytes', start=False, end=False)|truncate(80)|pad(80)"


def said(operations, caption, seed=0):
    """What text operations make of a caption, read back from its bytes."""
    ids = text.parse(operations + AT_END)(caption, np.random.default_rng(seed))
    return bytes(ids[ids < 256].tolist()).decode()


# Operations


def test_lower():
    assert said("lower", "ÀB c_D ΑΒ Ж!") == "àb c_d αβ ж!"


def test_canonicalize_is_that_of_siglip():
    assert said("canonicalize", "  A_photo,\tof a\n(Cat's) {} TAIL!! ") == "a photo of a cats tail"
    assert said("canonicalize", string.punctuation) == ""
    assert said("canonicalize", "¡Über—Straße! “Ж”") == "¡über—straße “ж”"
    assert said("canonicalize(keep='{}')", "A {}, {big}-ish {}!") == "a {} bigish {}"
    assert said("canonicalize(keep='-')|canonicalize(keep='-')", "T-Shirt_X") == "t-shirt x"


def test_clean_is_that_of_clip():
    import ftfy

    rng = random.Random(0)
    parts = ["Ã©", "&amp;lt;", "&eacute;", "\u2003", "\x85", "“", "ﬁ", "Ａ", " ", "\n", "a", "\x1c"]
    for _ in range(200):
        caption = "".join(rng.choice(parts) for _ in range(8))
        wanted = html.unescape(html.unescape(ftfy.fix_text(caption))).strip()
        assert said("clean", caption) == re.sub(r"\s+", " ", wanted).strip(), repr(caption)
    assert said("clean", "cafÃ©  &amp;amp; more") == "café & more"


def test_template():
    assert said("template('a photo of a {}, {}')", "cat") == "a photo of a cat, cat"
    assert said("template('{} {0} {x} %s')", "{}") == "{} {0} {x} %s"
    drawn = [said("template('a {}', 'the {}', 'one {}')", "cat", seed) for seed in range(300)]
    counts = [drawn.count(words) for words in ("a cat", "the cat", "one cat")]
    assert sum(counts) == 300
    assert min(counts) > 70
    # One template draws nothing: what comes after it sees the same draws with and without.
    rng = np.random.default_rng(0)
    text.parse("template('a {}')" + AT_END)("cat", rng)
    assert rng.random() == np.random.default_rng(0).random()


def test_drop_words():
    caption = " a red  cat\tsleeps "
    assert said("drop_words(0)", caption) == "a red cat sleeps"
    drawn = [said("drop_words(0.3)", caption, seed).split() for seed in range(400)]
    for word in caption.split():
        assert 0.6 < sum(word in words for words in drawn) / 400 < 0.8
    assert all(words == [w for w in caption.split() if w in words] for words in drawn)
    single = [said("drop_words(1)", caption, seed) for seed in range(200)]
    assert all(single.count(word) > 25 for word in caption.split())
    assert said("drop_words(0.5)", "") == "" and said("drop_words(0.5)", " ") == " "
    whole = text.parse("drop_words(1)|template('a {}', 'the {}')" + AT_END)
    for transform, wanted in (
        (whole.without_chance(), "a big cat"),
        (whole.without_templates(), "big cat"),
    ):
        ids = transform("big cat", np.random.default_rng(0))
        assert bytes(ids[ids < 256].tolist()).decode() == wanted


def test_cut_words():
    caption = " the  snowboarder\tsees  cake "
    assert said("cut_words(0)", caption) == "the snowboarder sees cake"
    drawn = [said("cut_words(0.3)", caption, seed) for seed in range(400)]
    assert all(
        words.replace(" ", "") == caption.replace(" ", "").replace("\t", "") for words in drawn
    )
    for word in ("snowboarder", "sees", "cake"):
        assert 0.6 < sum(word in words.split() for words in drawn) / 400 < 0.8
    assert all("the" in words.split() for words in drawn)  # three letters stay together
    # Every place between the second letter and the last but one is as likely as another.
    places = [len(said("cut_words(1)", "snowboarder", seed).split()[0]) for seed in range(800)]
    assert sorted(set(places)) == list(range(2, 10))
    assert all(60 < places.count(at) < 140 for at in set(places))
    assert said("cut_words(1)", "cake sees") == "ca ke se es"
    whole = text.parse("cut_words(1)" + AT_END)
    for transform in (whole.without_chance(), whole.without_templates()):
        ids = transform("big cake", np.random.default_rng(0))
        assert bytes(ids[ids < 256].tolist()).decode() == "big cake"


def test_truncate_keeps_the_end_token_of_texts_that_were_cut():
    def ids(operations, caption):
        return text.parse(operations)(caption, None).tolist()

    a, start, end, pad = 97, 257, 258, 256
    assert ids("tokenize('bytes')|truncate(4)|pad(5)", "aa") == [start, a, a, end, pad]
    assert ids("tokenize('bytes')|truncate(4)|pad(5)", "aaa") == [start, a, a, end, pad]
    assert ids("tokenize('bytes')|truncate(4, keep_end=False)|pad(4)", "aaa") == [start, a, a, a]
    assert ids("tokenize('bytes', end=False)|truncate(3)|pad(3)", "aaa") == [start, a, a]
    assert ids("tokenize('bytes')|truncate(1)|pad(2)", "aaa") == [end, pad]
    assert ids("tokenize('bytes', end='.')|truncate(2)|pad(2)", "aaa") == [start, 46]


def test_pad_refuses_longer_texts():
    transform = text.parse("tokenize('bytes')|pad(6)")
    assert transform("four", None).tolist()[-1] == 258
    with pytest.raises(TextFault) as error:
        transform("fives", None)
    assert str(error.value) == (
        "the caption has 7 tokens, more than pad(6) takes; put truncate(6) before it"
    )


def test_halves_of_characters_are_joined_or_replaced():
    assert said("lower", "\ud83d\ude00 \ud83d!") == "\U0001f600 \ufffd!"


# The grammar


@pytest.mark.parametrize(
    ("sound", "length"),
    [
        ("tokenize('bytes')|pad(64)", 64),
        (
            "lower|canonicalize|template('a photo of a {}')|tokenize('bytes')|truncate(64)|pad(64)",
            64,
        ),
        ("tokenize('bytes')\n|truncate(n=32, keep_end=False)|pad(n=77, id=0)", 77),
        (
            "clean()|tokenize(tokenizer='bytes', start=False, end=True)|truncate(16)|pad(16, 'a')",
            16,
        ),
    ],
)
def test_sound_texts_and_their_lengths(sound, length):
    assert text.check(sound) == []
    transform = text.parse(sound)
    assert (transform.length, transform.text) == (length, sound)
    row = transform("Hello, World", np.random.default_rng(0))
    assert (row.shape, row.dtype) == ((length,), np.int32)
    assert row.max() < transform.vocab_size


EXAMPLE = "write for example lower|tokenize('bytes')|truncate(64)|pad(64)"


@pytest.mark.parametrize(
    ("wrong", "fault"),
    [
        ("lowr|tokenize('bytes')|pad(9)", "unknown operation 'lowr'; did you mean lower?"),
        ("flip", "unknown operation 'flip'; there are lower, canonicalize, clean, template"),
        ("tokenize('bytes'", "not readable; write operations such as lower|tokenize('bytes')|"),
        ("'lower'", "\"'lower'\" is not an operation, such as lower or pad(64)"),
        ("", f"tokenize is missing; {EXAMPLE}"),
        ("lower|pad(64)", f"tokenize is missing; {EXAMPLE}"),
        ("tokenize('bytes')|tokenize('bytes')|pad(9)", f"tokenize comes once; {EXAMPLE}"),
        ("tokenize('bytes')", "captions must be equally long; end with pad(64)"),
        ("tokenize('bytes')|truncate(9)", "captions must be equally long; end with pad(64)"),
        ("tokenize('bytes')|pad(9)|truncate(9)", "captions must be equally long; end with pad"),
        ("tokenize('bytes')|lower|pad(9)", "lower is for text; put it before tokenize"),
        ("pad(9)|tokenize('bytes')", "pad is for tokens; put it after tokenize"),
        (
            "tokenize('bytes')|truncate(9)|pad(8)",
            "truncate leaves 9 tokens, more than pad(8) takes",
        ),
        ("tokenize|pad(9)", "tokenize: missing a required argument: 'tokenizer'; write tokenize("),
        ("tokenize(3)|pad(9)", "tokenize: a tokenizer is bytes, clip or a file, not 3; write"),
        (
            "tokenize('byte')|pad(9)",
            "'byte' is no tokenizer: there are bytes, clip, and files that",
        ),
        ("tokenize('bytes', end=1)|pad(9)", "end is True, False, a token or None, not 1"),
        ("tokenize('bytes')|truncate(0)|pad(9)", "truncate: n is a whole number from 1 on, not 0"),
        ("tokenize('bytes')|truncate(9, 1)|pad(9)", "keep_end is True or False, not 1"),
        ("tokenize('bytes')|pad", "pad: missing a required argument: 'n'; write pad(n, id=None)"),
        ("tokenize('bytes')|pad(9, -1)", "pad: id is a whole number from 0 on, not -1"),
        ("tokenize('bytes')|pad(9, True)", "pad: id is a whole number from 0 on, not True"),
        ("template|tokenize('bytes')|pad(9)", "template: give at least one text with {} in it"),
        ("template('a', 'b {}')|tokenize('bytes')|pad(9)", "is a text with {} in it, not 'a'"),
        (
            "drop_words(2)|tokenize('bytes')|pad(9)",
            "drop_words: p is a number between 0 and 1, not 2",
        ),
        (
            "cut_words('a')|tokenize('bytes')|pad(9)",
            "cut_words: p is a number between 0 and 1, not 'a'",
        ),
        ("canonicalize(keep=3)|tokenize('bytes')|pad(9)", "canonicalize: keep is a text, not 3"),
    ],
)
def test_faults_name_the_operation_and_what_to_write(wrong, fault):
    (found,) = text.check(wrong)
    assert fault in found
    with pytest.raises(InputError) as error:
        text.parse(wrong, "data.train.text")
    assert str(error.value) == f"data.train.text {wrong!r}: {found}"


def test_tokens_that_a_vocabulary_has_not():
    for wrong, fault in (
        ("tokenize('bytes', end='<eos>')|pad(9)", "tokenize: bytes has no token '<eos>'"),
        ("tokenize('bytes')|pad(9, 259)", "pad: 259 is no token of bytes, which has 259"),
    ):
        with pytest.raises(InputError, match=re.escape(f": {fault}")):
            text.parse(wrong)


def test_all_faults_are_reported_at_once():
    wanted = "tokenize: no.json is not there; name the vocabulary's file"
    assert text.missing("tokenize('no.json')|pad(9)") == wanted
    assert text.missing("tokenize('bytes')|pad(9)") is None
    assert len(text.check("lowr|tokenize('bite')|pad(0)")) == 3
    assert len(text.check("pad(3)|tokenize('bytes')|lower")) == 2


def test_odd_texts_and_captions_raise_nothing_but_faults():
    rng = random.Random(0)
    parts = [
        *OPS,
        "|",
        "(",
        ")",
        "'bytes'",
        "64",
        ",",
        "=",
        "'{}'",
        "n",
        "None",
        "-",
        " ",
        "\n",
        "\0",
    ]
    for _ in range(1500):
        odd = "".join(rng.choice(parts) for _ in range(rng.randrange(12)))
        faults = text.check(odd)
        assert all("\n" not in fault for fault in faults)
        if faults:
            with pytest.raises(InputError):
                text.parse(odd)
        else:
            text.parse(odd)
    whole = text.parse("clean|lower|canonicalize|tokenize('bytes')|truncate(20)|pad(20)")
    for _ in range(1500):
        caption = "".join(chr(int(rng.random() ** 4 * 0x110000)) for _ in range(rng.randrange(30)))
        assert whole(caption, None).shape == (20,)


def test_a_config_with_a_wrong_text_is_refused_at_its_key():
    train = {"source": "synthetic", "transform": "", "text": "lower|pad(3)"}
    run = config.Run(steps=1, data={"batch_size": 1, "train": train})
    (fault,) = checks.transforms(run)
    assert (fault.key, fault.value) == ("data.train.text", "lower|pad(3)")
    assert fault.wanted == f"tokenize is missing; {EXAMPLE}"
    train["text"] = "tokenize('bytes')|pad(3)"
    assert (
        list(checks.transforms(config.Run(steps=1, data={"batch_size": 1, "train": train}))) == []
    )
    train["text"] = ""
    assert (
        list(checks.transforms(config.Run(steps=1, data={"batch_size": 1, "train": train}))) == []
    )


class Captioned(Source):
    """Images with one caption each."""

    class_names = ()
    captions = ("short", "much too long", "fits, too")

    def __len__(self):
        return 3

    def __getitem__(self, i):
        return {"image": np.zeros((2, 2, 1), np.uint8), "captions": (self.captions[i],)}

    def labels(self):
        return np.zeros(3, int)

    def name_of(self, i):
        return f"row {i}"


def test_captions_reach_the_batch_and_too_long_ones_are_named():
    transform = text.parse("tokenize('bytes', start=False)|pad(10)")
    examples = Examples(Captioned(), transforms.parse(""), 0, text=transform)
    assert examples.keys["text"] == ((10,), np.int32)
    for i in (0, 2):
        example = examples.example(i, 0, Draws(0))
        assert np.array_equal(example["text"], transform(Captioned.captions[i], None))
    with pytest.raises(BadExample) as error:
        examples.example(1, 0, Draws(0))
    assert str(error.value) == (
        "row 1: the caption has 14 tokens, more than pad(10) takes; put truncate(10) before it; "
        "repair it or take it out of the data"
    )


def test_what_is_drawn_at_random_and_where_a_vocabulary_lies_is_no_other_reading():
    chain = "lower|tokenize('{}'{})|truncate(9)|pad({})"
    plain = chain.format("a/pieces.json", "", 9)
    assert text.same_reading("drop_words(0.1)|cut_words(0.2)|" + plain, plain)
    assert text.same_reading(chain.format("b/pieces.json", "", 9), plain)
    others = [chain.format("a/pieces.json", *more) for more in ((", end=False", 9), ("", 10))]
    for other in (*others, plain.removeprefix("lower|"), "template('a {}')|" + plain):
        assert not text.same_reading(other, plain)
