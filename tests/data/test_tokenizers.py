"""Tokenizers: CLIP's encoding token for token, tokenizer.json, SentencePiece, bytes."""

import gzip
import hashlib
import importlib.util
import io
import itertools
import json
import pathlib
import pickle
import random
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from big_vit_lite.config import InputError
from big_vit_lite.data import text, tokenizers
from big_vit_lite.data.clip_bpe import ClipBPE, clean

GOLDENS = json.loads((pathlib.Path(__file__).parent / "goldens" / "clip_tokens.json").read_text())
SENTENCES = [
    "a photo of a cat",
    "two dogs run over the green grass",
    "the cat and the dog are friends",
    "a painting of a house by the sea",
] * 20


def merges_file(merges):
    """A file as CLIP's, with the known `merges` (rank, first, second) at their places.

    The others are of bytes that UTF-8 never has, and so never apply.
    """
    known = {rank: f"{first} {second}" for rank, first, second in merges}
    unused = [chr(b) for b in (0xC0, 0xC1, *range(0xF5, 0x100))]
    words = ("".join(word) for n in (2, 3, 4, 5) for word in itertools.product(unused, repeat=n))
    others = (f"{word[:-1]} {word[-1]}" for word in words)
    lines = [known.get(rank) or next(others) for rank in range(48_894)]
    return gzip.compress("\n".join(["#version", *lines, "beyond clip"]).encode(), 1)


@pytest.fixture(scope="module")
def clip_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "merges.txt.gz"
    path.write_bytes(merges_file(GOLDENS["merges"]))
    return str(path)


# CLIP


def test_tokens_are_clips_own_on_hard_texts(clip_file):
    encode = tokenizers.load(clip_file).encode
    assert len(GOLDENS["tokens"]) > 140
    for words, tokens in GOLDENS["tokens"]:
        assert encode(words) == tokens, words
    assert max(len(tokens) for _, tokens in GOLDENS["tokens"]) > 1000


def test_clips_vocabulary_and_specials(clip_file):
    tokenizer = tokenizers.load(clip_file)
    assert tokenizer.vocab_size == 49_408
    assert (tokenizer.start, tokenizer.end, tokenizer.pad_id) == ((49_406,), (49_407,), 0)
    assert tokenizer.fingerprint == hashlib.sha256(pathlib.Path(clip_file).read_bytes()).hexdigest()
    assert tokenizer.token_id("cat</w>") == 2368
    assert tokenizer.token_id("no such token") is None


def test_clips_rows_are_started_ended_cut_and_padded(clip_file):
    transform = text.parse(f"tokenize({clip_file!r})|truncate(77)|pad(77)")
    row = transform("a photo of a cat.", None)
    assert row.tolist() == [49406, 320, 1125, 539, 320, 2368, 269, 49407] + [0] * 69
    assert row.dtype == np.int32
    long = transform("a cat " * 60, None)
    assert long.tolist() == [49406] + [320, 2368] * 37 + [320] + [49407]


def test_clips_tokens_are_read_back_as_the_original_joins_words(clip_file):
    transform = text.parse(f"tokenize({clip_file!r})|truncate(77)|pad(77)")
    for words, wanted in (
        ("A photo of a Cat.", "a photo of a cat ."),
        ("Wow!!", "wow !!"),  # "!" pads, too
        ("日本 🐈 naïve", "日本 🐈 naïve"),
        ("", ""),
    ):
        assert transform.caption(transform(words, None)) == wanted
    tokenizer = tokenizers.load(clip_file)
    assert tokenizer.decode(tokenizer.encode("🐈")[:1]) == "\ufffd"


def test_merges_apply_by_rank_from_the_left_all_at_once():
    heading = "#version: 0.2\n"
    tokenizer = ClipBPE((heading + "a a\naa a\nb c</w>\na b\nab c</w>").encode())
    assert tokenizer.vocab_size == 512 + 5 + 2
    a, b, end_a, c = (tokenizer.token_id(s) for s in ("a", "b", "a</w>", "c</w>"))
    aa, aaa, bc = 512, 513, 514
    assert (a, b, end_a, c) == (64, 65, 320, 322)
    assert tokenizer.encode("aaaa") == [aaa, end_a]
    assert tokenizer.encode("aaaaa") == [aa, aa, end_a]
    assert tokenizer.encode("abc") == [a, bc]
    assert tokenizer.encode("a bc") == [end_a, bc]
    assert tokenizer.encode("é") == [0xC3 - 0xAE + 106, 0xA9 - 0xA1 + 94 + 256]


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (b"", "it holds no merges"),
        (b"heading only", "it holds no merges"),
        (b"h\na b\na b c\n", "line 3 is not two symbols, but 'a b c'"),
        (b"h\na b\nab cd\n", "line 3 merges symbols that are not in the vocabulary"),
        (b"h\n\xff\xfe", "it is not text"),
        (gzip.compress(b"h\na b")[:-6], "it is cut off or damaged (Compressed file ended"),
        (gzip.compress(b"h\na b")[:10] + b"\xff" * 20, "it is cut off or damaged (Error -3 while"),
        (b"\x1f\x8b but no gzip", "it is cut off or damaged ("),
    ],
    # gzip writes the time into its header, and workers must agree on names.
    ids=["empty", "heading", "three", "unknown", "bytes", "cut", "damaged", "no gzip"],
)
def test_damaged_vocabularies_are_named(tmp_path, data, fault):
    path = tmp_path / "bpe.txt.gz"
    path.write_bytes(data)
    with pytest.raises(InputError) as error:
        text.parse(f"tokenize({str(path)!r})|pad(8)", "data.train.text")
    assert f": the vocabulary {path} cannot be used: {fault}" in str(error.value)
    assert str(error.value).startswith("data.train.text ")


def test_any_thread_may_encode(clip_file):
    data = pathlib.Path(clip_file).read_bytes()
    alone = ClipBPE(data)
    wanted = [alone.encode(words) for words, _ in GOLDENS["tokens"]]
    shared = ClipBPE(data)
    with ThreadPoolExecutor(8) as pool:
        runs = [
            pool.submit(lambda: [shared.encode(words) for words, _ in GOLDENS["tokens"]])
            for _ in range(8)
        ]
        assert all(run.result() == wanted for run in runs)


def test_plain_text_is_cleaned_as_all_text_is():
    import ftfy

    rng = random.Random(0)
    plain = [chr(c) for c in range(32, 127) if chr(c) != "&"] + ["\t", "\n"]
    for _ in range(300):
        words = "".join(rng.choice(plain) for _ in range(40))
        assert ftfy.fix_text(words) == words
        assert clean(words) == " ".join(words.split())


@pytest.mark.parametrize("package", ["open_clip", "clip"])
def test_clip_finds_the_vocabulary_of_an_installed_package(
    package, clip_file, tmp_path, monkeypatch
):
    folder = tmp_path / package
    folder.mkdir()
    (folder / "__init__.py").write_text("raise AssertionError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(tokenizers, "_CARRIERS", (package,))
    tokenizers.load.cache_clear()
    missing = text.missing("tokenize('clip')|pad(77)")
    assert missing == (
        "tokenize: clip: no installed package carries bpe_simple_vocab_16e6.txt.gz; pip install "
        "--no-deps open_clip_torch (1.5 MB), or name the file: "
        "tokenize('DIR/bpe_simple_vocab_16e6.txt.gz')"
    )
    (folder / tokenizers.CLIP_FILE).write_bytes(pathlib.Path(clip_file).read_bytes())
    assert tokenizers.load("clip").encode("a cat") == [320, 2368]
    tokenizers.load.cache_clear()


@pytest.mark.extra
def test_tokens_are_those_of_the_clip_package_at_hand():
    """Needs the package clip (pip install --no-deps clip-anytorch), whose tokenizer is CLIP's."""
    found = importlib.util.find_spec("clip")
    if found is None:
        pytest.skip("the package clip is not installed")
    path = pathlib.Path(found.origin).parent / "simple_tokenizer.py"
    spec = importlib.util.spec_from_file_location("simple_tokenizer", path)
    simple = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(simple)
    original, ours = simple.SimpleTokenizer(), tokenizers.load("clip")
    wanted = "924691ac288e54409236115652ad4aa250f48203de50a9e4722a6ecd48d6804a"
    assert ours.fingerprint == wanted
    rng = random.Random(0)
    ranges = (range(32, 127), range(0x250), range(0x3000), range(0x1F300, 0x1FA00))
    for points in ranges:
        for _ in range(2000):
            words = "".join(chr(rng.choice(points)) for _ in range(rng.randrange(30)))
            assert ours.encode(words) == original.encode(words), repr(words)
    every = [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    for i in range(0, len(every), 64):  # blanks between them, so that none hides another
        words = " ".join(every[i : i + 64])
        assert ours.encode(words) == original.encode(words), repr(words)


# tokenizer.json


def json_tokenizer(path, template=None, padding=False):
    """A tokenizer.json of whole words, and the library's own tokenizer."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = ["[UNK]", "[PAD]", "[CLS]", "[SEP]", *sorted(set(" ".join(SENTENCES).split()))]
    made = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.add_special_tokens(["[UNK]", "[PAD]", "[CLS]", "[SEP]"])
    if template:
        specials = [(w, made.token_to_id(w)) for w in ("[CLS]", "[SEP]")]
        made.post_processor = processors.TemplateProcessing(
            single=template, special_tokens=specials
        )
    if padding:
        made.enable_padding(pad_id=3, pad_token="[SEP]", length=5)
        made.enable_truncation(4)
    made.save(str(path))
    made.no_padding()
    made.no_truncation()
    return made


@pytest.mark.parametrize(
    ("template", "start", "end"),
    [
        (None, (), ()),
        ("[CLS] $A [SEP]", (2,), (3,)),
        ("$A [SEP]", (), (3,)),
        ("[CLS] [CLS] $A", (2, 2), ()),
    ],
)
def test_a_tokenizer_json_gives_its_librarys_ids(tmp_path, template, start, end):
    path = tmp_path / "tokenizer.json"
    library = json_tokenizer(path, template)
    tokenizer = tokenizers.load(str(path))
    assert (tokenizer.start, tokenizer.end, tokenizer.pad_id) == (start, end, 1)
    assert tokenizer.vocab_size == library.get_vocab_size()
    transform = text.parse(f"tokenize({str(path)!r})|truncate(40)|pad(40)")
    for words in [*SENTENCES[:4], "", "an unknown zebra", "a [SEP] b"]:
        wanted = library.encode(words).ids
        assert transform(words, None).tolist() == wanted + [1] * (40 - len(wanted))


def test_start_and_end_are_found_whatever_a_tokenizer_json_knows(tmp_path):
    """A byte-pair vocabulary drops what it does not know: of "a" nothing is left here."""
    from tokenizers import Tokenizer, models, processors

    library = Tokenizer(models.BPE(vocab={"[CLS]": 0, "[SEP]": 1, "x": 2, "y": 3}, merges=[]))
    library.add_special_tokens(["[CLS]", "[SEP]"])
    library.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 0), ("[SEP]", 1)]
    )
    library.save(str(tmp_path / "tokenizer.json"))
    tokenizer = tokenizers.load(str(tmp_path / "tokenizer.json"))
    assert library.encode("a").ids == [0, 1]
    assert (tokenizer.start, tokenizer.end) == ((0,), (1,))
    transform = text.parse(f"tokenize({str(tmp_path / 'tokenizer.json')!r})|truncate(5)|pad(5, 0)")
    assert transform("xy", None).tolist() == [*library.encode("xy").ids, 0]


def test_tokens_of_a_tokenizer_json_are_read_back(tmp_path):
    path = tmp_path / "tokenizer.json"
    json_tokenizer(path, "[CLS] $A [SEP]")
    transform = text.parse(f"tokenize({str(path)!r})|truncate(40)|pad(40)")
    for words in SENTENCES[:4]:
        assert transform.caption(transform(words, None)) == words
    assert transform.caption(transform("an zebra", None)) == "[UNK] [UNK]"


def test_a_tokenizer_jsons_own_padding_and_truncation_are_left_to_the_transform(tmp_path):
    path = tmp_path / "tokenizer.json"
    json_tokenizer(path, padding=True)
    transform = text.parse(f"tokenize({str(path)!r})|truncate(12)|pad(12)")
    assert transform.pad_id == 3
    assert (transform("two dogs run over the green grass", None) == 3).sum() == 5


# SentencePiece


@pytest.fixture(scope="module")
def pieces(tmp_path_factory):
    """A SentencePiece model of 60 pieces: file and library."""
    return sentence_pieces(tmp_path_factory.mktemp("pieces") / "pieces.model")


def sentence_pieces(path, **ids):
    """A SentencePiece model, and the library's own tokenizer."""
    import sentencepiece

    stream = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES),
        model_writer=stream,
        vocab_size=60,
        **{"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1} | ids,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    path.write_bytes(stream.getvalue())
    return str(path), sentencepiece.SentencePieceProcessor(model_file=str(path))


def test_a_sentencepiece_model_gives_its_librarys_ids(pieces):
    path, library = pieces
    siglip = text.parse(f"canonicalize|tokenize({path!r})|truncate(16)|pad(16, 1)")
    assert siglip.vocab_size == library.vocab_size()
    assert (siglip.start_id, siglip.end_id, siglip.pad_id, siglip.length) == (None, 1, 1, 16)
    words = "A photo, of a_cat!"
    ids = [*library.encode("a photo of a cat"), 1]
    assert siglip(words, None).tolist() == ids + [1] * (16 - len(ids))
    long = siglip("the green house by the sea " * 9, None)
    assert long.tolist() == library.encode("the green house by the sea " * 9)[:15] + [1]
    plain = text.parse(f"tokenize({path!r}, end=False)|truncate(64)|pad(64)")
    ids = library.encode(words)
    assert plain(words, None).tolist() == ids + [0] * (64 - len(ids))


def test_a_start_of_sentence_stands_where_the_transform_asks_for_it(tmp_path):
    """Gemma's vocabulary, which SigLIP 2 reads, has one."""
    path, library = sentence_pieces(tmp_path / "gemma.model", bos_id=3)
    ids = [*library.encode("a cat"), 1]
    for start, before in (("", []), (", start=True", [3]), (", start=False", [])):
        transform = text.parse(f"tokenize({path!r}{start})|truncate(16)|pad(16)")
        assert transform("a cat", None).tolist() == (before + ids + [0] * 16)[:16]
        assert transform.start_id == (3 if before else None)


def test_pieces_are_read_back(pieces):
    path, _ = pieces
    for ops in ("pad(80, 1)", "pad(80)"):  # with what ends a text, too
        transform = text.parse(f"tokenize({path!r})|truncate(80)|{ops}")
        for words in SENTENCES[:4]:
            assert transform.caption(transform(words, None)) == words


def test_tokens_may_be_named(pieces):
    path, library = pieces
    named = text.parse(f"tokenize({path!r}, start='<unk>', end='</s>')|pad(9, '<pad>')")
    assert (named.start_id, named.end_id, named.pad_id) == (2, 1, 0)
    assert named("", None).tolist() == [2, 1] + [0] * 7
    for wrong, fault in (
        (f"tokenize({path!r}, start=True)|pad(9)", f"tokenize: {path} has no start token; give it"),
        (f"tokenize({path!r}, end='<eos>')|pad(9)", f"tokenize: {path} has no token '<eos>'"),
        (f"tokenize({path!r})|pad(9, 'PAD')", f"tokenize: {path} has no token 'PAD'"),
        (
            f"tokenize({path!r})|pad(9, {library.vocab_size()})",
            f"pad: {library.vocab_size()} is no token of {path}, which has {library.vocab_size()}",
        ),
    ):
        assert text.check(wrong) == []
        with pytest.raises(InputError) as error:
            text.parse(wrong)
        assert f": {fault}" in str(error.value)


# Bytes, and what all have in common


def test_bytes_need_nothing():
    transform = text.parse("tokenize('bytes')|truncate(9)|pad(9)")
    assert transform("né", None).tolist() == [257, 110, 195, 169, 258, 256, 256, 256, 256]
    assert transform("x" * 20, None).tolist() == [257] + [120] * 7 + [258]
    assert (transform.vocab_size, transform.fingerprint) == (259, "bytes")
    assert (transform.start_id, transform.end_id, transform.pad_id) == (257, 258, 256)
    bare = text.parse("tokenize('bytes', start=False, end='.')|pad(4, ' ')")
    assert bare("ab", None).tolist() == [97, 98, 46, 32]


@pytest.mark.parametrize("ops", ["", ", start=False", ", end=False", ", end='.'"])
def test_bytes_are_read_back(ops):
    transform = text.parse(f"tokenize('bytes'{ops})|truncate(9)|pad(9)")
    assert transform.caption(transform("né a.b", None)) == "né a.b"
    assert transform.caption(transform("", None)) == ""
    cut = text.parse("tokenize('bytes', end=False)|truncate(3)|pad(3)")
    assert cut.caption(cut("né", None)) == "n\ufffd"


def test_vocabularies_may_lie_on_a_store():
    import fsspec

    with fsspec.open("memory://vocabularies/merges.txt", "wb") as file:
        file.write(b"heading\na b</w>\n")
    transform = text.parse("tokenize('memory://vocabularies/merges.txt')|pad(3)")
    assert transform("ab", None).tolist() == [513, 512, 514]
    with pytest.raises(InputError, match="the vocabulary memory://no.txt cannot be read"):
        text.parse("tokenize('memory://no.txt')|pad(3)")


@pytest.mark.parametrize("ending", ["json", "model"])
def test_files_of_another_kind_are_refused(tmp_path, ending):
    path = tmp_path / f"vocabulary.{ending}"
    kind = {"json": "tokenizer.json", "model": "SentencePiece model"}[ending]
    for data in (b"", b"nonsense"):
        path.write_bytes(data)
        tokenizers.load.cache_clear()
        with pytest.raises(InputError) as error:
            text.parse(f"tokenize({str(path)!r})|pad(3)")
        assert f"the vocabulary {path} cannot be used: it is no {kind} (" in str(error.value)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "libraries", "extra"),
    [
        ("clip", "ftfy and regex", "clip"),
        ("merges.txt.gz", "ftfy and regex", "clip"),
        ("tokenizer.json", "tokenizers", "tokenizers"),
        ("spiece.model", "sentencepiece", "sentencepiece"),
    ],
)
def test_a_library_that_is_not_installed_is_named_with_its_command(
    name, libraries, extra, monkeypatch
):
    monkeypatch.setattr(tokenizers.importlib.util, "find_spec", lambda name: None)
    wanted = f'tokenize: {libraries} must be installed for it: pip install "big_vit_lite[{extra}]"'
    chain = f"tokenize({name!r})|pad(3)"
    assert not text.check(chain)
    assert text.missing(chain) == wanted


def test_a_transform_is_read_again_in_another_process(pieces):
    path, _ = pieces
    transform = text.parse(f"template('a {{}}', 'the {{}}')|tokenize({path!r})|pad(24)")
    again = pickle.loads(pickle.dumps(transform))
    assert again == transform == text.parse(transform.text)
    for seed in range(4):
        both = (t("cat", np.random.default_rng(seed)) for t in (transform, again))
        assert np.array_equal(*both)
