"""classify and zero_shot: what they say is what the loaded model says, in every form of output."""

import base64
import errno
import html.parser
import io
import json

import cv2
import jax
import numpy as np
import pytest
from PIL import Image
from predict.conftest import ODD
from pretrained_models import assert_close

from big_vit_lite.config import InputError
from big_vit_lite.evals import prompts
from big_vit_lite.predict import main, options, outputs
from big_vit_lite.weights import sections

LABELS = ("cat", "dog", "house by the sea")
TEMPLATES = ("a photo of a {}.", "the {} we saw, in a bad drawing")


class Page(html.parser.HTMLParser):
    """Tags, addresses and texts of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.sources, self.texts = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.sources += [value for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data):
        self.texts.append(data)


def test_classes_are_those_of_the_model(here, predict, records, model_of):
    out = predict("classify", "runs/vit", "photos", "--top", 2, "--batch_size", 8,
                  "--json", "c.jsonl", "--html", "c.html")  # fmt: skip
    read = records(here / "c.jsonl")
    paths = sorted(str(p.relative_to(here)) for p in here.glob("photos/**/*.[jp]*g"))
    assert [record["image"] for record in read] == paths and len(paths) == 9
    wanted = model_of("runs/vit").classify(paths, top=2)
    for record, best in zip(read, wanted, strict=True):
        assert [line["class"] for line in record["best"]] == [name for name, _ in best]
        assert_close([line["probability"] for line in record["best"]], [p for _, p in best])
    assert len({record["best"][0]["class"] for record in read}) > 1
    for path, best in zip(paths, wanted, strict=True):
        [line] = [line for line in out.splitlines() if line.startswith(path)]
        assert line.split()[-2:] == [best[0][0], f"{best[0][1]:.2%}"]
    page = Page((here / "c.html").read_text())
    assert "b" not in page.tags and f"photos/{ODD}" in page.texts
    assert len(page.sources) == 9  # the thumbnails, and nothing that is elsewhere
    for source in page.sources:
        head, _, data = source.partition(",")
        image = Image.open(io.BytesIO(base64.b64decode(data)))
        assert head == "data:image/jpeg;base64" and max(image.size) <= 160
    assert not list(here.glob("*.part"))


def test_a_batch_of_one_is_the_same_and_json_takes_the_tables_place(here, predict, model_of):
    out = predict("classify", "runs/vit", "photos/0.jpg", "--json", "-", "--threads", 1)
    [record] = [json.loads(line) for line in out.splitlines()]
    wanted = model_of("runs/vit").classify([f"photos/{i}.jpg" for i in (*range(5), *range(4))])[0]
    assert [line["class"] for line in record["best"]] == [name for name, _ in wanted]
    assert_close([line["probability"] for line in record["best"]], [p for _, p in wanted])


def ensemble(model):
    """Features of LABELS by the definition, the unit mean of unit features; and the means."""
    texts = [template.replace("{}", label) for label in LABELS for template in TEMPLATES]
    made = np.asarray(model.encode_text(texts + texts[:2]), np.float64)[: len(texts)]
    means = made.reshape(len(LABELS), len(TEMPLATES), -1).mean(1)
    return means / np.linalg.norm(means, axis=1, keepdims=True), means


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_labels_are_scored_by_the_mean_of_their_texts(name, here, predict, records, model_of):
    (here / "templates.txt").write_text("\n".join(TEMPLATES) + "\n")
    (here / "labels.txt").write_text("\n".join(LABELS))
    text = {}
    if name == "siglip":
        length = model_of(name).sections.text.length
        text = {"text": f"lower|tokenize('bytes')|truncate({length})|pad({length})"}
    predict("zero_shot", name, "photos", "--labels", "labels.txt", "--templates", "templates.txt",
            "--json", "z.jsonl", *[word for k, v in text.items() for word in (f"--{k}", v)],
            "--batch_size", 8)  # fmt: skip
    model, read = model_of(name, **text), records(here / "z.jsonl")
    classes, means = ensemble(model)
    image = np.asarray(model.encode_image([record["image"] for record in read]), np.float64)
    cosines = image @ classes.T
    joint, _ = model.model.apply({"params": model.params})
    logits = float(joint.scale) * cosines
    if name == "siglip":
        chances = 1 / (1 + np.exp(-logits - float(joint.bias)))
        assert np.abs(chances.sum(1) - 1).min() > 1e-3
    else:
        chances = np.asarray(jax.nn.softmax(logits))
    for row, record in enumerate(read):
        order = np.argsort(-cosines[row])
        assert [line["class"] for line in record["best"]] == [LABELS[i] for i in order]
        assert_close([line["cosine"] for line in record["best"]], cosines[row, order], 3e-6)
        assert_close([line["probability"] for line in record["best"]], chances[row, order], 3e-5)
    # The nearest wrong rule, means that are not brought to length 1, is far off.
    assert np.abs(image @ means.T - cosines).max() > 1e-3


def test_labels_in_the_command_line(predict, records, here):
    predict("zero_shot", "clip", "photos/0.jpg", "--labels", " cat , dog", "--json", "a.jsonl",
            "--templates", "a {} of clay")  # fmt: skip
    [record] = records(here / "a.jsonl")
    assert {line["class"] for line in record["best"]} == {"cat", "dog"}


def test_one_label_is_asked_for_alone(predict, records, here, model_of):
    length = model_of("siglip").sections.text.length
    chain = f"lower|tokenize('bytes')|truncate({length})|pad({length})"
    predict("zero_shot", "siglip", "photos/0.jpg", "--labels", "cat,", "--json", "a.jsonl",
            "--text", chain, "--templates", "a {}")  # fmt: skip
    [record] = records(here / "a.jsonl")
    logit = model_of("siglip", text=chain).logits("photos/0.jpg", "a cat")[0, 0]
    assert [line["class"] for line in record["best"]] == ["cat"]
    assert_close(record["best"][0]["probability"], 1 / (1 + np.exp(-logit)), 1e-5)


def test_labels_of_the_same_name_are_told_of_as_they_are_listed(predict, monkeypatch, capsys):
    birds = {"birds": ("crane", "crane", "kite")}
    monkeypatch.setattr(prompts, "name_sets", lambda: birds)
    capsys.readouterr()
    assert main(["zero_shot", "clip", "photos/0.jpg", "--labels", "birds", "--json", "-"]) == 0
    out, err = capsys.readouterr()
    said = "--labels: classes with the same name: 'crane' (0, 1); they get the same score\n"
    assert err.startswith(said) and "never the first" not in err
    found = [(x["class"], x["cosine"]) for x in json.loads(out)["best"]]
    assert sorted(name for name, _ in found) == ["crane", "crane", "kite"]
    [first, second] = [cosine for name, cosine in found if name == "crane"]
    assert abs(first - second) < 1e-6


def test_class_names_are_given(predict, records, here, model_of):
    (here / "names.txt").write_text("one\ntwo\nthree\n")
    predict(
        "classify", "runs/vit", "photos/0.jpg", "--class_names", "names.txt", "--json", "a.jsonl"
    )
    [record] = records(here / "a.jsonl")
    known = dict(zip(("cat", "dog", "owl"), ("one", "two", "three"), strict=True))
    [wanted] = model_of("runs/vit").classify("photos/0.jpg")
    assert [line["class"] for line in record["best"]] == [known[name] for name, _ in wanted]


def test_known_takes_pairs_of_numbers():
    [known] = [option for option in options.MODEL if option.name == "known"]
    assert known.type("grid=(2,3), activation=quick,side=[4, 5],heads=12") == {
        "grid": (2, 3), "activation": "quick", "side": [4, 5], "heads": 12,
    }  # fmt: skip


def test_what_load_asks_for_is_told_as_options():
    with pytest.raises(InputError) as asked:
        sections.Known("a.npz").need("heads", "how many heads it has")
    told = options.as_options(str(asked.value))
    assert told.endswith('would cost accuracy in silence: load it with --known "heads=...".')
    with pytest.raises(InputError) as asked:
        sections.square(15, "a.npz")
    assert options.as_options(str(asked.value)).endswith('with --known "grid=(rows, columns)".')
    for said, wanted in (
        ("give mean= and std= as well.", "give --mean and --std as well."),
        ("which layout= and known= are: leave", "which --layout and --known are: leave"),
        ('a.npz: known has "x", and', 'a.npz: --known has "x", and'),
        ("class_names: 'x' is neither", "--class_names: 'x' is neither"),
        ("/text=a/b.npz is not known: x", "/text=a/b.npz is not known: x"),
        ("--transform 'decode|resize(8)'", "--transform 'decode|resize(8)'"),
    ):
        assert options.as_options(said) == wanted


def test_results_go_to_a_store(here, predict, store):
    pytest.importorskip("gcsfs", reason="gcsfs is not installed (extra: gcs)")
    store.write("in/0.jpg", (here / "photos" / "0.jpg").read_bytes())
    predict("classify", "runs/vit", "gs://bucket/in", "--json", "gs://bucket/found.jsonl")
    record = json.loads(store.objects["found.jsonl"][1])
    assert record["image"] == "gs://bucket/in/0.jpg" and len(record["best"]) == 3
    told = predict("classify", "runs/vit", "gs://bucket/in", "--json", "gs://bucket/found.jsonl",
                   code=2)  # fmt: skip
    assert told.startswith("--json: gs://bucket/found.jsonl is there already")


def test_unreadable_images_end_it_or_are_named_and_counted(here, predict, records, capsys):
    whole = (here / "photos" / "2.jpg").read_bytes()
    (here / "photos" / "2.jpg").write_bytes(whole[: len(whole) // 2])
    (here / "photos" / "more" / "6.jpg").write_text("<html>")
    told = predict("classify", "runs/vit", "photos", "--json", "c.jsonl", code=2)
    assert told == (
        "photos/2.jpg cannot be used: the image is truncated: a JPEG without its end marker; "
        "repair it or take it away, or leave out all such images with --skip_unreadable\n"
    )
    assert not (here / "c.jsonl").exists() and not list(here.glob("*.part"))
    main_out = ["classify", "runs/vit", "photos", "--json", "c.jsonl", "--skip_unreadable",
                "--batch_size", "8"]  # fmt: skip
    capsys.readouterr()
    assert main(main_out) == 0
    err = capsys.readouterr().err
    assert "left out photos/2.jpg: the image is truncated" in err
    assert "left out photos/more/6.jpg: the bytes are not an image" in err
    assert "9/9 images, 2 left out" in err
    assert len(records(here / "c.jsonl")) == 7


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        ("", "there is no command; the commands are classify, zero_shot, embed, similar"),
        ("clasify", "'clasify' is no command; did you mean classify?"),
        ("zero-shot", "'zero-shot' is no command; did you mean zero_shot?"),
        ("classify", "MODEL: is missing: a file, a run or a name on the hub"),
        ("classify runs/vit", "there is no INPUT: name images, or folders of images"),
        ("classify runs/vit nowhere", "nowhere is not there: name an image, a folder of images"),
        ("classify runs/vit empty", "empty holds no images (.jpg,"),
        ("classify runs/vit photos/none*", "photos/none* holds no images"),
        ("classify runs/vit photos photos/0.jpg", "photos/0.jpg is among the images twice"),
        ("classify runs/vit raw", "1 of the images are of a kind that cannot be read, the first is "
         "raw/a.HEIC: convert them to JPEG, or leave them out with --skip_unreadable"),
        ("classify runs/vit photos --top 0", '--top = "0": wants a whole number from 1 on'),
        ("classify runs/vit photos --tpo 1", "--tpo: there is no such option; did you mean --top?"),
        ("classify runs/vit photos -x", "-x: no option, they begin with --"),
        ("classify runs/vit photos --json labels.txt", "--json: labels.txt is there already: remove"
         " it, or name another file"),
        ("classify runs/vit photos --html no/x.html", "--html: the folder no is not there"),
        ("classify runs/vit photos --html -", "--html wants a file; - is for --json"),
        ("classify runs/vit photos --json a --html a", "--json and --html both name a: give two"),
        ("classify runs/vit photos --json s3://a/b", "--json = s3://a/b: wants a folder of this"),
        ("classify nowhere photos", "nowhere is not there: give a file or folder of published"),
        ("classify clip photos", "has two towers and no classes of its own: take zero_shot with "
         "--labels"),
        ("classify dino photos", "has no head for classes: take embed"),
        ("classify bare photos", "has no head for classes"),
        ("embed bare photos --out a.npy", "does not say how images were preprocessed: give "
         "--transform (such as"),
        ("embed bare photos --out a.npy --mean 0.5,x", '--mean = "0.5,x": wants numbers with'),
        ("embed bare photos --out a.npy --mean ,", '--mean = ",": wants numbers with commas'),
        ("embed bare photos --out a.npy --std 0,0,0", '--std = "0,0,0": wants numbers above 0: '
         "pixels are divided by them"),
        ("embed bare photos --out a.npy --mean 0.5", "preprocessed: give --transform and --std as"),
        ("embed clip photos --out a.npy --known depth=3", '--known has "depth", and this layout'),
        ("embed runs/vit photos --out a.npy --layout timm", "holds no published weights, for which "
         "--layout and --known are: leave them out"),
        ("classify runs/vit photos --class_names cat,dog", "--class_names has 2 names, and the head"
         " of"),
        ("classify runs/vit photos --class_names imagnet", "--class_names: 'imagnet' is neither a "
         "published set (did you mean 'imagenet'?)"),
        ("classify clip photos --class_names imagenet", "has no head for classes, which "
         "--class_names would name: leave it out"),
        ("zero_shot clip photos --labels cat,dog --vocabulary no.txt", "no.txt is not there; name"),
        ("zero_shot siglip photos --labels cat,dog --vocabulary no.txt", "does not say how texts "
         "become tokens, so that --vocabulary has no place: give the whole transform as --text in"),
        ("zero_shot dino photos --labels cat,dog --text lower", "is an image tower alone and reads "
         "no texts, for which --text would be: leave out what is for texts"),
        ("zero_shot clip photos", "--labels: is missing: Names of the classes"),
        ("zero_shot runs/vit photos --labels cat,dog", "is an image tower alone and reads no texts:"
         " take classify, which names its own classes, or name a pair"),
        ("zero_shot siglip photos --labels cat,dog", "does not say how texts become tokens, or "
         "there is no vocabulary beside it: give --vocabulary"),
        ("zero_shot clip photos --labels none.txt", "--labels: 'none.txt' is neither a published "
         "set nor a file; give names with commas between them (one alone"),
        ("zero_shot clip photos --labels void.txt", "--labels: void.txt is empty; it needs the name"
         " of a class a line"),
        ("zero_shot clip photos --labels twice.txt", "--labels: twice.txt, line 3 is 'cat', and so "
         "is line 1; a class is named once"),
        ("zero_shot clip photos --labels cat", "--labels: 'cat' is neither a published set nor a "
         'file; give names with commas between them (one alone as "cat,"), a file'),
        ("zero_shot clip photos --labels ,", "--labels: name 1 of ',' is empty"),
        ("zero_shot clip photos --labels cat,,dog", "--labels: name 2 of 'cat,,dog' is empty"),
        ("zero_shot clip photos --labels cat,cat", "--labels: name 2 is 'cat', and so is name 1"),
        ("zero_shot clip photos --labels labels.txt --templates opnai", "--templates: 'opnai' is "
         "neither a published set (did you mean 'openai'?) nor a file; give a text with {} in it"),
        ("zero_shot clip photos --labels labels.txt --templates labels.txt", "--templates: "
         "labels.txt, line 1 has no {} for the name of the class: 'cat'"),
        ("classify runs/vit photos --transform decode|random_resized_crop(8)", "--transform "
         "'decode|random_resized_crop(8)' draws at random, and an image has one answer: take out"),
        ("classify runs/vit photos --transform decode|resize_small(8)", "makes (8, 11, 3) of "
         "photos/2.jpg and (8, 10, 3) of images before it: give a --transform that ends in one"),
        ("embed clip photos --out a.txt", '--out = "a.txt": wants a local file that ends in .npy'),
        ("embed clip photos --out gs://b/a.npy", "wants a local file that ends in .npy or"),
        ("embed clip photos --out no/a.npy", "--out: the folder no is not there"),
        ("embed clip photos --out mine.npy", "--out: mine.npy is there already and was not written "
         "by this command, or is damaged: remove it, or name another file"),
        ("embed clip photos --out a.npy --known activation", "wants NAME=VALUE with commas"),
        ("embed clip photos --out a.npy --layout transformers-vit", "is not laid out as"),
    ],
)  # fmt: skip
def test_wrong_input_is_one_sentence(argv, told, here, predict):
    (here / "empty").mkdir()
    (here / "raw").mkdir()
    (here / "raw" / "a.HEIC").write_bytes(b"x")
    (here / "labels.txt").write_text("cat\ndog\n")
    (here / "void.txt").write_text("\n")
    (here / "twice.txt").write_text("cat\ndog\ncat\n")
    np.save("mine.npy", np.zeros((2, 3)))
    error = predict(*argv.split(), code=2)
    assert told in error and len(error.splitlines()) == 1, error
    assert "Traceback" not in error


def test_a_page_is_not_larger_than_a_browser_shows():
    with pytest.raises(InputError, match="a page with 5,001 thumbnails is more than a browser sho"):
        outputs.check({"html": "a.html"}, 5001)
    outputs.check({"html": "a.html"}, 5000)


def test_what_cannot_be_written_is_told_of(predict, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(outputs.os, "replace", full)
    told = predict("classify", "runs/vit", "photos", "--json", "a.jsonl", code=1)
    assert told.splitlines()[-1] == "a.jsonl cannot be written (No space left on device)"


def test_help_is_for_every_command(predict, capsys):
    for name in ("classify", "zero_shot", "embed", "similar"):
        assert name in predict("--help")
        with pytest.raises(SystemExit) as left:
            predict(name, "--help")
        assert left.value.code == 0
        text = capsys.readouterr().out
        assert text.startswith(f"usage: python -m big_vit_lite.predict {name} MODEL ")
        assert "--batch_size N" in text and max(map(len, text.splitlines())) <= 100


def test_images_come_from_patterns_and_urls(here, predict, records):
    import fsspec

    memory = fsspec.filesystem("memory")
    ok, grey = cv2.imencode(".png", np.zeros((9, 9), np.uint8))
    memory.pipe("/predict/a/b.png", grey.tobytes())
    predict("classify", "runs/vit", "photos/{1,0}.jpg", "photos/mo*",
            "memory://predict", "--json", "a.jsonl")  # fmt: skip
    names = [record["image"].removeprefix("photos/") for record in records(here / "a.jsonl")]
    assert names == [
        "1.jpg",
        "0.jpg",
        "more/5.png",
        "more/6.jpg",
        "more/7.jpg",
        "memory://predict/a/b.png",
    ]
    memory.rm("/predict", recursive=True)
