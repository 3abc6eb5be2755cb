"""load: vocabularies, and what is told of wrong or missing images, texts and models."""

import jax
import numpy as np
import pairs
import pytest
from data import test_tokenizers
from pictures import photo
from PIL import Image
from pretrained_models import (
    CLIP,
    TRANSFORM,
    assert_close,
    by_hand,
    clip_model,
    folder_of_models,
    published,
)

import big_vit_lite as bvl
from big_vit_lite import checkpoint, weights
from big_vit_lite.config import InputError


@pytest.fixture
def folder():
    return folder_of_models()


@pytest.fixture
def clip():
    return clip_model()


def test_a_vocabulary_that_is_another_one_is_told_of(tmp_path, folder):
    run = pairs.make_run()
    said = {"config": run.to_json(), "text": {"fingerprint": "0" * 64}, "position_grid": [2, 2]}
    with checkpoint.Keeper(tmp_path / "checkpoints") as keeper:
        keeper.save(4, {"params": pairs.random_params(pairs.make_task(run))}, said)
    with pytest.raises(InputError, match="trained with the vocabulary 000000000000, and .* reads"):
        bvl.load(tmp_path).tokenize("a")
    told = "makes ids below 259, and the text tower knows 99: give the vocabulary"
    path = published(
        tmp_path / "small", "L11-clip", "transformers-clip", text={"vocabulary": 99, "end_id": None}
    )
    length = bvl.load(path).sections.text.length
    chain = f"tokenize('bytes')|truncate({length})|pad({length})"
    with pytest.raises(InputError, match=told):
        bvl.load(path, text=chain).tokenize("a")
    with pytest.raises(InputError, match=f"makes 99 tokens, and the text tower reads {length}"):
        bvl.load(path, text="tokenize('bytes')|pad(99)")


def pieces(path):
    import sentencepiece

    with open(path, "wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(test_tokenizers.SENTENCES),
            model_writer=file,
            vocab_size=60,
            pad_id=0,
            eos_id=1,
            unk_id=2,
            bos_id=-1,
            hard_vocab_limit=False,
            minloglevel=2,
        )
    return sentencepiece.SentencePieceProcessor(model_file=str(path)).encode


def words(path):
    """A tokenizer.json as Gemma's: it would add a start token and no end."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    known = ["<pad>", "<eos>", "<bos>", "<unk>", *["a", "photo", "of", "the", "cat", "!"]]
    made = Tokenizer(models.WordLevel({w: i for i, w in enumerate(known)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", 2)]
    )
    made.save(str(path))
    return lambda text: made.encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize(
    ("vocabulary", "file", "make", "as_read", "pad"),
    [
        (32_000, "spiece.model", pieces, "the cat", 1),
        (256_000, "tokenizer.json", words, "the cat !", 0),
    ],
)
def test_siglip_takes_the_vocabulary_beside_it(vocabulary, file, make, as_read, pad, tmp_path):
    fields = {"vocabulary": vocabulary}
    path = published(tmp_path, "L12-siglip", "transformers-siglip", text=fields)
    with pytest.raises(InputError, match="there is no vocabulary beside it: load it with"):
        bvl.load(path).tokenize("The cat !")
    encode = make(path / file)
    pair = bvl.load(path)
    ids = [*encode(as_read), 1]
    length = pair.sections.text.length
    [tokens] = pair.tokenize("The cat !").tolist()
    assert tokens == ids + [pad] * (length - len(ids))
    (path / file).rename(tmp_path.parent / f"{tmp_path.name}-{file}")
    elsewhere = bvl.load(path, vocabulary=tmp_path.parent / f"{tmp_path.name}-{file}")
    assert elsewhere.tokenize("The cat !").tolist() == [tokens]


def test_what_the_source_does_not_say_is_asked_for(folder, tmp_path):
    fields = {"vocabulary": 259, "end_id": None}
    path = published(tmp_path, "L11-clip", "transformers-clip", transform=None, text=fields)
    pair = bvl.load(path)
    told = r"does not say how images were preprocessed: load it with transform= .*, mean= and std="
    with pytest.raises(InputError, match=told):
        pair.encode_image(folder / "cat.jpg")
    with pytest.raises(InputError, match=r"does not say how texts become tokens, .* vocabulary="):
        pair.encode_text("a cat")
    with pytest.raises(InputError, match="preprocessed: give mean= and std= as well"):
        bvl.load(path, transform=TRANSFORM)
    length = pair.sections.text.length
    chain = f"tokenize('bytes')|truncate({length})|pad({length})"
    given = bvl.load(path, transform=TRANSFORM, mean=CLIP[0], std=CLIP[1], text=chain)
    assert_close(
        given.preprocess(folder / "cat.jpg"), by_hand(folder / "cat.jpg", TRANSFORM, *CLIP)
    )
    arrays = bvl.load(path, transform=TRANSFORM, mean=np.array(CLIP[0]), std=np.float32(0.5))
    assert arrays.preprocessing == weights.Preprocessing(TRANSFORM, CLIP[0], (0.5, 0.5, 0.5))
    for mean, std, told in (
        ((0.5, 0.5), CLIP[1], "mean= has 2 numbers, and the images 3 channels"),
        (
            CLIP[0],
            (0, 0, 0),
            "std= 0, 0, 0: pixels are divided by it: give numbers that are finite and above",
        ),
        (("a",), CLIP[1], r"mean= \('a',\) is no list of numbers: give one for each channel"),
        ((0.5, np.nan, 0.5), 1, "mean= 0.5, nan, 0.5: .* give numbers that are finite"),
    ):
        with pytest.raises(InputError, match=told):
            bvl.load(path, transform=TRANSFORM, mean=mean, std=std)


def test_texts_that_cannot_be_read_are_told_of_at_load(folder):
    for name, options, told in (
        ("clip", {"vocabulary": "nope.txt"}, "nope.txt is not there; name the vocabulary's file"),
        ("clip", {"text": "lower|pad(77)"}, "tokenize is missing"),
        ("clip", {"text": "tokenize(tokenizer='clip')|truncate(77)|pad(77)",
                  "vocabulary": "no.txt"}, "no.txt is not there"),
        ("clip", {"text": "tokenize('bytes')|truncate(78)|pad(78)"}, "^text= .* makes 78 tokens, "
         "and the text tower reads 77"),
        ("dino", {"text": "tokenize('bytes')|pad(9)"}, "dino/.* is an image tower alone and reads "
         "no texts, for which text= would be: leave out"),
        ("dino", {"vocabulary": "merges.txt"}, "for which vocabulary= would be: leave out"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=told):
            bvl.load(folder / name, **options)


def test_a_transform_that_draws_is_refused(folder):
    drawn = bvl.load(folder / "dino", transform="decode|random_resized_crop(16)")
    told = r"^transform= 'decode\|random_resized_crop\(16\)' draws at random, and an image has one"
    for image in (folder / "cat.jpg", photo(24, 30)):
        with pytest.raises(InputError, match=told):
            drawn.encode_image(image)


def test_pillow_images_of_16_bits_are_as_their_files(folder, clip, tmp_path):
    ramp = np.linspace(0, 65535, 24 * 24).astype(np.uint16).reshape(24, 24)
    Image.fromarray(ramp).save(tmp_path / "grey.png")
    opened = Image.open(tmp_path / "grey.png")
    assert opened.mode == "I;16"
    found = clip.preprocess(opened)
    np.testing.assert_array_equal(found, clip.preprocess(tmp_path / "grey.png"))
    assert np.ptp(found) > 3  # from black to white
    clear = Image.fromarray(photo(24, 30)).quantize(16)
    clear.info["transparency"] = 0
    clip.preprocess(clear)
    assert clear.info["transparency"] == 0
    with pytest.raises(InputError, match="image 0 cannot be used: pixels of 32 bits have no known"):
        clip.preprocess(Image.fromarray(ramp.astype(np.float32)))


def test_arrays_that_a_model_does_not_take_are_told_of(folder, clip):
    images, ids = clip.preprocess(folder / "cat.jpg"), clip.tokenize("a cat")
    last = clip.sections.text.vocabulary - 1
    edge = np.where(np.arange(77) == 76, last, ids).astype(np.int32)
    assert np.isfinite(clip.encode_text(edge)).all()
    for call, told in (
        (
            lambda: clip.encode_text(ids[0]),
            r"whole numbers \(b, l\), and these are \(77,\): give a",
        ),
        (lambda: clip.encode_text(edge + 1), r"token id 49,408 is outside .* ids are 0 to 49,407"),
        (
            lambda: clip.logits(images, ids - 1),
            "the token id -1 is outside of the text tower's voc",
        ),
        (lambda: clip.apply(clip.params, images, edge + 1), "the token id 49,408 is outside"),
        (lambda: clip.apply(clip.params, ["cat.jpg"], ids), r"apply takes images .* is list: pre"),
        (lambda: clip.apply(clip.params, photo(16, 16)[None], ids), r"is uint8 \(1, 16, 16, 3\): "),
        (
            lambda: clip.apply(clip.params, images, ["a cat"]),
            "apply takes texts as .* is list: tok",
        ),
        (
            lambda: clip.apply(clip.params, images, ids, capture="blocks"),
            r"capture is a tuple of names: give capture=\('blocks',\)",
        ),
    ):
        with pytest.raises(InputError, match=told):
            call()
    # Within jit no number is known.
    assert np.isnan(jax.jit(clip.encode_text)(edge + 1)).all()


def test_wrong_images_and_texts_are_told_of(folder, clip, tmp_path):
    (tmp_path / "no.jpg").write_bytes(b"no image at all")
    for images, told in (
        (tmp_path / "no.jpg", "no.jpg cannot be used: the bytes are not an image"),
        ("missing.jpg", "missing.jpg cannot be used: No such file"),
        ([], "there is no image: give paths"),
        ([3], "image 0 cannot be used: int is no image; give paths"),
        (np.zeros((16, 16, 3), np.float32), r"floats is taken for .* \(16, 16, 3\)"),
        (np.zeros((16, 16, 3), np.int32), "image 0 cannot be used: pixels are uint8"),
    ):
        with pytest.raises(InputError, match=told):
            clip.encode_image(images)
    with pytest.raises(InputError, match="cannot be preprocessed within jit, vmap or grad: call"):
        jax.jit(clip.encode_image)(np.zeros((1, 16, 16, 3), np.uint8))
    with pytest.raises(InputError, match="texts are a string or a list of strings"):
        clip.tokenize([])
    with pytest.raises(InputError, match="has no classes, but a text tower: give logits"):
        clip.logits(folder / "cat.jpg")
    loose = bvl.load(folder / "dino", transform="decode|resize_small(16)")
    loose_images = [photo(24, 30), photo(24, 60)]
    with pytest.raises(InputError, match="makes images of several sizes .* one at a time"):
        loose.preprocess(loose_images)


def test_places_without_a_model_are_told_of(tmp_path):
    for source, told in (
        (
            "no such",
            'no such is not there: give a file or folder .* "openai/clip-vit-base-patch32"',
        ),
        (tmp_path, "holds no finished checkpoint; give a run's --workdir"),
        ("", "^the model's name is empty: give a file or folder of published weights"),
    ):
        with pytest.raises(InputError, match=told):
            bvl.load(source)
    with pytest.raises(InputError, match="holds no published weights, for which layout= and"):
        bvl.load(tmp_path, layout="timm")
