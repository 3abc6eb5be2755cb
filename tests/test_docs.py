"""docs/own_data.md is followed literally: its commands run, and what it shows is what they print.

Only lengths and models are smaller: every training gets the config's argument `tiny`. The first
training from each source is whole; of further ones the batches are made, as nothing else differs.
"""

import contextlib
import csv
import importlib.util
import io
import json
import re
import shlex
import tarfile
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pictures import photo

from big_vit_lite import assembly, checks, config, evaluate, parallel, train
from big_vit_lite.data import transforms

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "own_data.md"
CLASSES = ("cat", "dog")


@dataclass
class Block:
    """A fenced block: its language, its text, and the comment above it, if any."""

    language: str
    text: str
    note: str
    line: int
    output: str = field(default="", repr=False)


def blocks() -> list[Block]:
    found, lines = [], PAGE.read_text().splitlines()
    at = 0
    while at < len(lines):
        if lines[at].startswith("```"):
            end = lines.index("```", at + 1)
            note = re.fullmatch(r"<!-- (.*) -->", lines[at - 1])
            text = "\n".join(lines[at + 1 : end])
            found.append(Block(lines[at][3:], text, note[1] if note else "", at + 1))
            at = end
        at += 1
    return found


def encoded(seed: int, side: int = 60) -> bytes:
    return cv2.imencode(".jpg", photo(side, side + 12, seed=seed))[1].tobytes()


def write(file: Path, content: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The layouts that the page names, beside the repository's own folders."""
    root = tmp_path_factory.mktemp("page")
    for name in ("configs", "tools"):
        (root / name).symlink_to(ROOT / name)
    for top, images in (("photos", 24), ("pets/train", 20), ("pets/val", 4)):
        for c, name in enumerate(CLASSES):
            for i in range(images):
                write(root / top / name / f"{i}.jpg", encoded(100 * c + i))
    _tables(root)
    for shard in range(4):
        _shard(root / "shards" / f"train-{shard:05}.tar", range(12 * shard, 12 * shard + 12))
    _hub(root / "hub" / "data")
    yield root
    with contextlib.suppress(FileNotFoundError):
        fsspec.filesystem("memory").rm("/bucket", recursive=True)


def _tables(root: Path) -> None:
    paths = [f"photos/{name}/{i}.jpg" for name in CLASSES for i in range(24)]
    for file, header, delimiter in (
        ("labelled.csv", ("path", "label"), ","),
        ("animals.tsv", ("file", "species"), "\t"),
        ("captions.csv", ("path", "caption"), ","),
    ):
        with open(root / file, "w", newline="") as opened:
            rows = csv.writer(opened, delimiter=delimiter)
            rows.writerow(header)
            for path in paths:
                name = path.split("/")[1]
                rows.writerow((path, name))
                if header[1] == "caption":
                    rows.writerow((path, f"a {name}, and on it a chair"))


def _shard(file: Path, numbers: range) -> None:
    file.parent.mkdir(exist_ok=True)
    with tarfile.open(file, "w") as opened:
        for i in numbers:
            about = {"species": CLASSES[i % 2], "captions": [f"number {i}", "another"]}
            for ending, content in (
                ("jpg", encoded(i)),
                ("cls", b"%d" % (i % 2)),
                ("txt", b"caption %d" % i),
                ("json", json.dumps(about).encode()),
            ):
                info = tarfile.TarInfo(f"{i:06}.{ending}")
                info.size = len(content)
                opened.addfile(info, io.BytesIO(content))


def _hub(root: Path) -> None:
    root.mkdir(parents=True)
    names = {"label": {"names": CLASSES, "_type": "ClassLabel"}}
    about = json.dumps({"info": {"features": names}}).encode()
    for name, shards in (("train", 2), ("test", 1)):
        for shard in range(shards):
            images = [{"bytes": encoded(i, 32), "path": f"{i}.jpg"} for i in range(24)]
            table = pa.table({"img": images, "label": [i % 2 for i in range(24)]})
            table = table.replace_schema_metadata({b"huggingface": about})
            pq.write_table(table, root / f"{name}-{shard:05}-of-{shards:05}.parquet")


def _tfds(root: Path) -> None:
    tfds = pytest.importorskip("tensorflow_datasets", reason="the extra tfds is not installed")

    class Beans(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("0.1.0")

        def _info(self):
            image = tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg")
            label = tfds.features.ClassLabel(names=CLASSES)
            features = tfds.features.FeaturesDict({"image": image, "label": label})
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples(24), "test": self._generate_examples(8)}

        def _generate_examples(self, count):
            for i in range(count):
                yield i, {"image": encoded(i), "label": i % 2}

    tfds.display_progress_bar(False)
    Beans(data_dir=root / "tfds", file_format="array_record").download_and_prepare()


def _cut(root: Path) -> None:
    file = root / "photos" / "cat" / "2.jpg"
    file.write_bytes(file.read_bytes()[:300])


def _run(root: Path) -> None:
    first = min((root / "runs").iterdir())
    first.rename(root / "runs" / "mine")


SETUPS = {
    "photos/cat/2.jpg is cut in half": _cut,
    "a run in runs/mine": _run,
    "tfds/beans is there": _tfds,
}


def commands(text: str) -> list[list[str]]:
    return [shlex.split(line) for line in text.replace("\\\n", " ").splitlines() if line.strip()]


def tiny(words: list[str]) -> list[str]:
    at = words.index("--config") + 1
    more = "" if words[at].endswith(",tiny") else ",tiny"
    return [*words[:at], words[at] + more, *words[at + 1 :]]


def tool(name: str):
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(words: list[str], whole: bool) -> int:
    """Runs a command as its process would, in this one."""
    match words:
        case ["python", "-m", "big_vit_lite.train", *arguments]:
            return train.main(tiny(arguments)) if whole else make_batches(tiny(arguments))
        case ["python", "-m", "big_vit_lite.evaluate", *arguments]:
            return evaluate.main(tiny(arguments))
        case ["python", file, *arguments]:
            return config.exit_code(tool(Path(file).stem).main, arguments)
    raise AssertionError(f"a command that no reader of the page can run: {shlex.join(words)}")


def make_batches(arguments: list[str]) -> int:
    """A training up to its first step."""
    run = config.command_line(arguments, program="", about="", checks=checks.STATIC).run
    parts = assembly.assemble(run)
    for stream in (parts.batches, *(evaluation.stream for evaluation in parts.evaluations)):
        stream.host_batch(0)
    return 0


def source_of(words: list[str]) -> str:
    found = re.search(r"source=(\w+)", shlex.join(words))
    return found[1] if found else "folder"


def require_sound(words: list[str]) -> None:
    """A command that cannot run here is at least one that would be understood."""
    if words[:3] == ["python", "-m", "big_vit_lite.train"]:
        config.command_line(
            words[3:],
            program="",
            about="",
            options=parallel.OPTIONS,
            checks=(checks.sizes, checks.transforms, checks.images),
        )


def follow(block: Block, root: Path, names: dict, trained: set[str], capfd) -> str:
    """Does what a block says; returns what was printed."""
    wanted_to_fail, text = block.note == "fails", block.text
    if block.note.startswith("setup: "):
        SETUPS[block.note.removeprefix("setup: ")](root)
    if block.note == "store":
        for shard in root.glob("shards/*.tar"):
            fsspec.filesystem("memory").pipe(f"/bucket/shards/{shard.name}", shard.read_bytes())
        text = text.replace("gs://bucket", "memory://bucket")
    capfd.readouterr()
    if block.language == "python":
        exec(compile(text, f"{PAGE.name}:{block.line}", "exec"), names)
    else:
        for words in commands(text):
            whole = block.note not in ("", "store") or source_of(words) not in trained
            failed = run(words, whole) != 0
            assert failed is wanted_to_fail, f"line {block.line}: {shlex.join(words)}"
            if "big_vit_lite.train" in words:
                trained.add(source_of(words))
    return "\n".join(capfd.readouterr())


def require_printed(shown: str, printed: str, line: int) -> None:
    """Every line that is shown was printed, "..." standing for anything."""
    for wanted in shown.splitlines():
        pattern = ".*".join(map(re.escape, wanted.split("...")))
        found = any(re.fullmatch(pattern, said) for said in printed.splitlines())
        assert found, f"line {line}: {wanted!r} is not in\n{printed}"


def test_the_page_can_be_followed(folder, monkeypatch, capfd):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    names: dict = {}
    trained: set[str] = set()
    printed, ran = "", 0
    for block in blocks():
        if block.note.startswith("not run: "):
            for words in commands(block.text) if block.language == "bash" else []:
                require_sound(words)
        elif block.language in ("bash", "python"):
            printed = follow(block, folder, names, trained, capfd)
            ran += 1
            if ran == 1:  # the numbers that the page leaves open
                assert "an epoch is 43 examples of 2 classes (cat, dog); val has 5\n" in printed
        elif block.language == "output":
            require_printed(block.text, printed, block.line)
    assert ran > 20
    assert trained >= {"folder", "table", "tar", "parquet", "tfds", "arrayrecord"}
    assert (folder / "batch.png").is_file()
    assert len((folder / "small" / "skipped.txt").read_text().splitlines()) == 1


def test_recipes_of_the_page_work():
    recipes = [block.text for block in blocks() if block.language == "transform"]
    assert len(recipes) == 7
    for recipe in recipes:
        made = transforms.parse(recipe)(encoded(0, 300), np.random.default_rng(0))
        arrays = made if isinstance(made, dict) else {"image": made}
        assert all(array.size for array in arrays.values())


def test_the_list_of_operations_is_that_of_the_code():
    page = ROOT / "docs" / "transforms.md"
    assert page.read_text() == tool("list_transforms").page(), "run tools/list_transforms.py"


def test_links_of_the_documentation_lead_somewhere():
    for page in [*ROOT.glob("docs/*.md"), ROOT / "README.md"]:
        text = page.read_text()
        headings = [heading.lower() for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE)]
        anchors = {re.sub(r"[^\w -]", "", heading).replace(" ", "-") for heading in headings}
        for target in re.findall(r"\]\(([^)]+)\)", text):
            if target.startswith("#"):
                assert target[1:] in anchors, f"{page.name}: no heading for {target}"
            elif not target.startswith("http"):
                assert (page.parent / target.split("#")[0]).exists(), f"{page.name}: {target}"
