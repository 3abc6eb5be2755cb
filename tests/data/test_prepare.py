"""tools/prepare: the same examples come back, the same bytes from any number of workers, nothing
half-written stays, nothing is lost silently."""

import errno
import importlib.util
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
from pictures import photo
from PIL import Image as Pillow

from big_vit_lite import data
from big_vit_lite.config import Data, InputError, RunError, Split, exit_code
from big_vit_lite.data import prepare, prepared, shard_writers, sources, transforms
from big_vit_lite.data.reencode import Reencode

ROOT = Path(__file__).parents[2]
TOOL = ROOT / "tools" / "prepare.py"


def encoded(image, extension=".jpg"):
    return cv2.imencode(extension, image)[1].tobytes()


@pytest.fixture
def tool():
    spec = importlib.util.spec_from_file_location("prepare_tool", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def photos(tmp_path):
    """23 JPEGs of 12x16 to 34x38 in the class folders ant, bee and cow."""
    folder = tmp_path / "photos"
    for i in range(23):
        file = folder / ("ant", "bee", "cow")[i % 3] / f"{i:02d}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encoded(photo(12 + i, 16 + i, seed=i)))
    return folder


def run(tool, *words):
    return exit_code(tool.main, list(map(str, words)))


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def examples(source):
    return [source[i] for i in range(len(source))]


def back(out, to="arrayrecord", split="train", **options):
    return sources.build(Split(source=to, path=str(out), split=split, transform="", **options))


# Round trips.


def _tar(tmp_path, photos):
    file = tmp_path / "set-000.tar"
    with tarfile.open(file, "w") as opened:
        for i, path in enumerate(sorted(photos.rglob("*.jpg"))):
            for ending, content in (
                ("jpg", path.read_bytes()),
                ("cls", b"%d" % (i % 3)),
                ("txt", b"caption %d" % i),
            ):
                info = tarfile.TarInfo(f"{i:05d}.{ending}")
                info.size = len(content)
                opened.addfile(info, io.BytesIO(content))
    return {"source": "tar", "path": str(file), "caption_key": "txt", "label_key": "cls"}


def _table(tmp_path, photos):
    file = tmp_path / "table.jsonl"
    rows = [
        {"path": str(path), "label": path.parent.name, "caption": [f"c {path.stem}", "also"]}
        for path in sorted(photos.rglob("*.jpg"))
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"source": "table", "path": str(file), "caption_key": "caption", "label_key": "label"}


def _folder(tmp_path, photos):
    return {"source": "folder", "path": str(photos)}


@pytest.mark.parametrize("to", ["arrayrecord", "parquet"])
@pytest.mark.parametrize("make", [_folder, _table, _tar])
def test_what_was_prepared_is_what_the_source_holds(tool, tmp_path, photos, make, to):
    options = make(tmp_path, photos)
    words = [word for key, value in options.items() for word in (f"--{key}", value)]
    out = tmp_path / "out"
    assert run(tool, *words, "--to", to, "--out", out, "--shards", 4) == 0
    text = "lower" if "caption_key" in options else ""
    whole = sources.build(Split(transform="", text=text, **options))
    keys = {"text": text, "label_key": "label"} if text else {}
    source = back(out, to, **keys)
    assert examples(source) == examples(whole)
    assert ("captions" in source[0]) == bool(text)
    assert source.class_names == whole.class_names
    assert source.labels().tolist() == whole.labels().tolist()
    assert len(sorted(out.glob("train-*-of-00004.*"))) == 4
    assert run(tool, "--verify", "--out", out) == 0
    if make is _folder:
        first = (
            pq.read_table(next(iter(sorted(out.glob("*.parquet"))))) if to == "parquet" else None
        )
        assert first is None or first["image"][0].as_py()["path"] == "ant/00.jpg"


def test_training_sees_the_same_batches(tool, tmp_path, photos):
    assert run(tool, "--source", "folder", "--path", photos, "--out", tmp_path / "out") == 0

    def batch(step, **options):
        split = Split(transform="decode|random_resized_crop(8)|flip", **options)
        stream = data.train_stream(Data(batch_size=8, train=split), seed=3)
        return stream.host_batch(step)

    for step in (0, 5):
        theirs = batch(step, source="folder", path=str(photos))
        ours = batch(step, source="arrayrecord", path=str(tmp_path / "out"))
        assert theirs.keys() == ours.keys()
        assert all(np.array_equal(theirs[key], ours[key]) for key in theirs)


@pytest.mark.parametrize("to", ["arrayrecord", "parquet"])
def test_pixels_become_lossless_png(tool, tmp_path, to):
    words = ["--source", "digits", "--part", "[:200]", "--to", to, "--out", tmp_path / "out"]
    assert run(tool, *words, "--shards", 3) == 0
    source, digits = back(tmp_path / "out", to), sources.build(Split(source="digits", transform=""))
    decode = transforms.parse("decode(1)")
    assert len(source) == 200
    assert source.class_names == digits.class_names
    for i in range(200):
        assert np.array_equal(decode(source[i]["image"], None), digits[i]["image"])
        assert source[i]["label"] == digits[i]["label"]


def test_a_seed_shuffles_over_all_shards_and_loses_nothing(tool, tmp_path, photos):
    words = ["--source", "folder", "--path", photos, "--shards", 3]
    for seed in (1, 2):
        assert run(tool, *words, "--out", tmp_path / str(seed), "--shuffle_seed", seed) == 0
    plain = examples(sources.build(Split(source="folder", path=str(photos), transform="")))
    orders = [
        [plain.index(example) for example in examples(back(tmp_path / str(seed)))]
        for seed in (1, 2)
    ]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(23))
    assert orders[0] != orders[1]
    assert {row % 3 for row in orders[0][:8]} != {0}


# Bytes.


@pytest.mark.parametrize("to", ["arrayrecord", "parquet"])
def test_the_bytes_do_not_depend_on_the_number_of_workers(tool, tmp_path, photos, to):
    (photos / "bee" / "bad.jpg").write_bytes(b"\xff\xd8 no image")
    found = []
    for workers in (1, 3):
        out = tmp_path / f"out{workers}"
        words = ["--source", "folder", "--path", photos, "--resize_small", 14, "--shuffle_seed", 7]
        words += ["--shards", 5, "--to", to, "--workers", workers, "--out", out]
        assert run(tool, *words) == 0
        found.append(contents(out))
    assert found[0] == found[1]
    assert len(found[0]) == (9 if to == "arrayrecord" else 7)


def test_resizing_shrinks_what_is_larger_and_leaves_the_rest_untouched(tool, tmp_path, photos):
    words = ["--source", "folder", "--path", photos, "--resize_small", 20, "--quality", 90]
    assert run(tool, *words, "--out", tmp_path / "out") == 0
    whole = sources.build(Split(source="folder", path=str(photos), transform=""))
    for stored, made in zip(examples(whole), examples(back(tmp_path / "out")), strict=True):
        pixels = transforms.parse("decode")(stored["image"], None)
        if min(pixels.shape[:2]) <= 20:
            assert made["image"] == stored["image"]
            continue
        small = transforms.parse("resize_small(20)")(pixels, None)
        options = [cv2.IMWRITE_JPEG_QUALITY, 90]
        wanted = cv2.imencode(".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR), options)[1]
        assert made["image"] == wanted.tobytes()


def test_images_are_written_anew_only_where_something_is_asked():
    image = photo(10, 20, seed=1)
    jpeg = encoded(image)
    assert Reencode()(jpeg) == jpeg
    assert Reencode(exif=True)(jpeg) == jpeg
    assert Reencode(unchecked=True)(b"no image") == b"no image"
    png = Reencode(format="png")(jpeg)
    decode = transforms.parse("decode")
    assert Pillow.open(io.BytesIO(png)).format == "PNG"
    assert np.array_equal(decode(png, None), decode(jpeg, None))
    webp = Reencode(format="webp", quality=80)(jpeg)
    assert Pillow.open(io.BytesIO(webp)).format == "WEBP"
    assert len(webp) < len(Reencode(format="webp", quality=100)(jpeg))
    assert np.array_equal(decode(Reencode()(image), None), image)


def test_exif_turns_the_image_for_good():
    image = photo(10, 20, seed=1)
    exif = Pillow.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    Pillow.fromarray(image).save(file, "JPEG", quality=95, exif=exif)
    stored = file.getvalue()
    upright = transforms.parse("decode(exif=True)")(stored, None)
    made = Reencode(exif=True, format="png")(stored)
    assert upright.shape == (20, 10, 3)
    assert np.array_equal(transforms.parse("decode")(made, None), upright)
    assert Pillow.open(io.BytesIO(Reencode(exif=True)(stored))).format == "JPEG"


def test_shards_have_about_the_size_that_was_asked_for(tool, tmp_path):
    words = ["--source", "synthetic", "--examples", 300, "--image_size", "(64,64)"]
    assert run(tool, *words, "--shard_mib", 1, "--out", tmp_path / "out") == 0
    sizes = [path.stat().st_size for path in (tmp_path / "out").glob("train-*")]
    assert len(sizes) >= 2
    assert sum(sizes) / len(sizes) < 1.2 * 2**20
    assert max(sizes) < 1.3 * 2**20


# Stopped, started again, spoilt.


def test_killed_it_goes_on_to_the_same_bytes(tmp_path):
    words = ["--source", "synthetic", "--examples", "900", "--image_size", "(96,96)"]
    words += ["--shards", "30", "--workers", "2"]
    command = [sys.executable, str(TOOL), *words]
    whole, out = tmp_path / "whole", tmp_path / "out"
    subprocess.run([*command, "--out", str(whole)], check=True, capture_output=True)
    process = subprocess.Popen([*command, "--out", str(out)], stderr=subprocess.DEVNULL)
    while len(list(out.glob("train-*"))) < 8 and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    shards = list(out.glob("train-*"))
    assert 8 <= len(shards) < 30
    assert all(path.read_bytes() == (whole / path.name).read_bytes() for path in shards)
    with pytest.raises(RunError, match=r"'train' is unfinished; start it again"):
        prepared.verify(out)
    kept = {path: path.stat().st_mtime_ns for path in out.glob("train-*")}
    done = subprocess.run([*command, "--out", str(out)], check=True, capture_output=True, text=True)
    assert f"{len(kept)} of 30 shards are there already" in done.stderr
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items())
    assert contents(out) == contents(whole)


def test_it_may_stop_at_every_rename(tmp_path, photos, monkeypatch):
    (photos / "bee" / "bad.jpg").write_bytes(b"x")
    split = Split(source="folder", path=str(photos), transform="")

    def make(out, stop_at=None):
        calls, replace = [], os.replace

        def counted(*args):
            calls.append(args)
            if len(calls) == stop_at:
                raise KeyboardInterrupt
            replace(*args)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "replace", counted)
            prepare.prepare(split, prepare.Options(out, shards=3), lambda line: None)
        return len(calls)

    renames = make(tmp_path / "whole")
    assert renames == 1 + 3 * 2 + 4
    for stop_at in range(1, renames + 1):
        out = tmp_path / f"out{stop_at}"
        with pytest.raises(KeyboardInterrupt):
            make(out, stop_at)
        make(out)
        assert contents(out) == contents(tmp_path / "whole")


def test_a_shard_that_was_lost_or_changed_is_found_and_written_again(
    tool, tmp_path, photos, capsys
):
    words = ["--source", "folder", "--path", photos, "--out", tmp_path / "out", "--shards", 3]
    assert run(tool, *words) == 0
    before = contents(tmp_path / "out")
    shards = sorted((tmp_path / "out").glob("train-*"))
    data = bytearray(shards[0].read_bytes())
    data[len(data) // 2] ^= 1
    shards[0].write_bytes(data)
    shards[2].unlink()
    capsys.readouterr()
    assert run(tool, "--verify", "--out", tmp_path / "out") == 1
    assert capsys.readouterr().err == (
        f"{shards[0]} has changed; delete it and prepare or copy it again\n"
        f"{shards[2]} cannot be read (No such file or directory); prepare or copy it again\n"
    )
    shards[0].write_bytes(data[:-10])
    assert run(tool, *words) == 0
    error = capsys.readouterr().err
    assert f"{shards[0]} has changed since it was written, and is written again" in error
    assert "1 of 3 shards are there already" in error
    assert contents(tmp_path / "out") == before


def test_other_options_are_refused_by_name(tool, tmp_path, photos, capsys):
    words = ["--source", "folder", "--path", photos, "--out", tmp_path / "out"]
    assert run(tool, *words, "--shuffle_seed", 1, "--quality", 90) == 0
    before = contents(tmp_path / "out")
    capsys.readouterr()
    assert run(tool, *words, "--resize_small", 8) == 2
    assert capsys.readouterr().err == (
        f"--out: 'train' in {tmp_path}/out was prepared otherwise: quality was 90 and is 95, "
        "resize_small was none and is 8, shuffle_seed was 1 and is none; give the same options, "
        "or another --out\n"
    )
    (photos / "cow" / "new.jpg").write_bytes(encoded(photo()))
    assert run(tool, *words, "--shuffle_seed", 1, "--quality", 90) == 2
    assert "number of examples was 23 and is 24; give" in capsys.readouterr().err
    assert contents(tmp_path / "out") == before
    assert run(tool, *words, "--shuffle_seed", 1, "--quality", 90, "--to", "parquet") == 2
    assert run(tool, "--source", "digits", "--out", tmp_path / "out", "--name", "val") == 2
    assert "names 3 other classes than this split's 10; give --class" in capsys.readouterr().err


def test_splits_share_a_folder(tool, tmp_path, photos):
    out = tmp_path / "out"
    words = ["--source", "folder", "--path", photos, "--out", out]
    (photos / "ant" / "bad.jpg").write_bytes(b"\xff\xd8 no image")
    assert run(tool, *words, "--part", "[:10]", "--name", "val") == 0
    assert run(tool, *words, "--part", "[10:]") == 0
    assert (len(back(out)), len(back(out, split="val"))) == (14, 9)
    assert json.loads((out / "schema.json").read_text())["records"] == {"train": 14, "val": 9}
    assert len((out / "skipped.txt").read_text().splitlines()) == 1
    assert prepared.verify(out)[0] == 3


def test_files_of_others_are_not_touched(tool, tmp_path, photos, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (out / "train-00000-of-00001.arrayrecord").write_bytes(b"mine")
    assert run(tool, "--source", "folder", "--path", photos, "--out", out) == 2
    assert "was not written by this tool; give an empty folder" in capsys.readouterr().err
    assert contents(out) == {"train-00000-of-00001.arrayrecord": b"mine"}


def test_a_second_process_is_kept_out(tool, tmp_path, photos, capsys):
    work = tmp_path / "out" / ".prepare-train"
    work.mkdir(parents=True)
    with prepared.locked(work):
        assert run(tool, "--source", "folder", "--path", photos, "--out", tmp_path / "out") == 2
    assert "another process is preparing" in capsys.readouterr().err


# Bad examples.


def test_bad_images_are_counted_named_and_left_out(tool, tmp_path, photos, capsys):
    (photos / "bee" / "aa.jpg").write_bytes(b"")
    (photos / "cow" / "bb.jpg").write_bytes(encoded(photo())[:-20])
    out = tmp_path / "out"
    words = ["--source", "folder", "--path", photos, "--out", out]
    assert run(tool, *words, "--shards", 3) == 0
    captured = capsys.readouterr()
    assert captured.out == f"{out}: 23 examples of train, 2 left out ({out}/skipped.txt)\n"
    lines = (out / "skipped.txt").read_text().splitlines()
    assert lines[0] == f"{photos}/bee/aa.jpg: the image is empty (zero bytes)"
    assert lines[1].startswith(f"{photos}/cow/bb.jpg: the image is truncated")
    assert all(f"left out {line} (" in captured.err for line in lines)
    assert len(back(out)) == 23
    assert back(out).labels().tolist() == [0] * 8 + [1] * 8 + [2] * 7
    again = tmp_path / "again"
    assert run(tool, *words[:-1], again, "--skip_limit", 1, "--workers", 1) == 1
    error = capsys.readouterr().err
    assert "With it 2 examples cannot be used, and --skip_limit is 1; repair the data" in error
    assert not list(again.glob("train-*"))
    assert run(tool, *words[:-1], again, "--skip_limit", 2) == 0
    assert run(tool, *words[:-1], tmp_path / "all", "--unchecked") == 0
    assert len(back(tmp_path / "all")) == 24


def test_nothing_usable_is_a_failure(tool, tmp_path, capsys):
    for name in "ab":
        (tmp_path / "photos" / name).mkdir(parents=True)
        (tmp_path / "photos" / name / "x.jpg").write_bytes(b"x")
    out = tmp_path / "out"
    assert run(tool, "--source", "folder", "--path", tmp_path / "photos", "--out", out) == 1
    assert "none of the examples could be used" in capsys.readouterr().err


# Full disks.


def test_too_little_space_is_told_before_anything_is_written(tool, tmp_path, photos, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=5_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    options = prepare.Options(tmp_path / "out")
    with pytest.raises(
        InputError, match=r"has 0\.0 MiB free and the shards need about 0\.0 MiB: 0"
    ):
        prepare.prepare(Split(source="folder", path=str(photos), transform=""), options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("to", ["arrayrecord", "parquet"])
def test_a_disk_that_fills_up_leaves_nothing_half_written(tool, tmp_path, photos, monkeypatch, to):
    out = tmp_path / "out"
    words = ["--source", "folder", "--path", photos, "--shards", 4, "--to", to]
    written = []

    def write(self, example, name):
        written.append(name)
        if len(written) == 14:
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(self, example, name)

    kind = {"arrayrecord": "ArrayRecordShard", "parquet": "ParquetShard"}[to]
    original = getattr(shard_writers, kind).write
    monkeypatch.setattr(getattr(shard_writers, kind), "write", write)
    split = Split(source="folder", path=str(photos), transform="")
    options = prepare.Options(out, format=to, shards=4)
    with pytest.raises(RunError) as error:
        prepare.prepare(split, options, lambda line: None)
    name = f"train-00002-of-00004.{to}"
    assert str(error.value).startswith(f"{out}/{name}: the disk is full; the rest needs about 0.0")
    assert str(error.value).endswith("and start again: finished shards are kept")
    assert len(list(out.glob("train-*"))) == 2
    assert not list(out.rglob("*.part"))
    monkeypatch.undo()
    assert run(tool, *words, "--out", out) == 0
    assert run(tool, *words, "--out", tmp_path / "whole") == 0
    assert contents(out) == contents(tmp_path / "whole")


def test_what_else_a_disk_may_refuse_names_the_shard(tmp_path, photos, monkeypatch):
    def write(self, example, name):
        raise RuntimeError("write() failed: Input/output error; writing x")

    monkeypatch.setattr(shard_writers.ArrayRecordShard, "write", write)
    split = Split(source="folder", path=str(photos), transform="")
    with pytest.raises(
        RunError, match=r"-00000-of-00001.arrayrecord: cannot be written \(write\(\)"
    ):
        prepare.prepare(split, prepare.Options(tmp_path / "out"), lambda line: None)


@pytest.mark.parametrize("to", ["arrayrecord", "parquet"])
def test_a_real_full_disk(tmp_path, to):
    """A file system of 2 MiB, where this process may make one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("a small disk can be mounted by root only")
    try:
        split = Split(source="synthetic", examples=400, image_size=(64, 64), transform="")
        with pytest.raises(InputError, match=r"has 2\.0 MiB free and the shards need about [3-6]"):
            prepare.prepare(split, prepare.Options(disk / "out", format=to, shards=20))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(prepare._Preparation, "_require_space", lambda *args: None)
            with pytest.raises(
                RunError, match=r"/train-000..-of-00020\.\w+: the disk is full; the"
            ):
                prepare.prepare(split, prepare.Options(disk / "out", format=to, shards=20))
        assert list((disk / "out").glob("train-*"))
        assert not list((disk / "out").rglob("*.part"))
    finally:
        subprocess.run(["umount", str(disk)], check=True)


# The command.


def test_all_faults_come_together_under_the_names_of_options(tool, tmp_path, capsys):
    words = ["--source", "foldr", "--part", "x", "--quality", 400, "--shards", 2, "--shard_mib", 3]
    assert run(tool, *words, "--to", "tar", "--out", "gs://bucket/x", "--resize_smal", 5) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(" ")[0].rstrip(":") for line in lines] == [
        "--quality",
        "--to",
        "--resize_smal",
        "--out",
        "--shard_mib",
        "--source",
        "--part",
    ]
    assert 'did you mean "folder"?' in lines[5]
    assert "wants a local folder; copy it to the store" in lines[3]
    words = ["--source", "digits", "--split", "a/b", "--out", tmp_path / "out"]
    assert run(tool, *words) == 2
    assert capsys.readouterr().err == '--name = "a/b": wants letters, digits, dots and dashes\n'
    assert run(tool, "--source", "tar", "--out", tmp_path / "out") == 2
    assert capsys.readouterr().err.startswith("--path is not set: give a tar file, the folder of")
    assert run(tool, "--verify", "--out", tmp_path) == 2
    assert "has no checksums.json; nothing was prepared there" in capsys.readouterr().err


def test_pixels_that_no_image_file_holds_are_refused(tool, tmp_path, capsys):
    words = ["--source", "synthetic", "--channels", 2, "--out", tmp_path / "out"]
    assert run(tool, *words) == 2
    assert capsys.readouterr().err == (
        "images of 2 channels cannot be stored as png; only those of 1 (grey) and 3 (RGB) can\n"
    )
    assert not (tmp_path / "out").exists()


def test_a_folder_that_may_not_be_written_is_one_sentence(
    tool, tmp_path, photos, capsys, monkeypatch
):
    words = ["--source", "folder", "--path", photos, "--out"]
    file = tmp_path / "file"
    file.write_text("")
    assert run(tool, *words, file) == 2
    assert capsys.readouterr().err == f"--out: {file} is a file; give a folder\n"

    def refuse(path, *args, **kwargs):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "mkdir", refuse)
    assert run(tool, *words, tmp_path / "out") == 1
    error = capsys.readouterr().err
    assert error.startswith(f"{tmp_path}/out/.prepare-train: cannot be written (Permission denied)")


def test_a_terminal_gets_a_bar(tool, tmp_path, photos):
    """In a pseudo-terminal: the bar, the lines about bad images above it, and the last line."""
    import pty

    (photos / "bee" / "aa.jpg").write_bytes(b"")
    ours, theirs = pty.openpty()
    command = [sys.executable, str(TOOL), "--source", "folder", "--path", str(photos)]
    process = subprocess.Popen(
        [*command, "--out", str(tmp_path / "out")], stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    text = b""
    try:
        while chunk := os.read(ours, 4096):
            text += chunk
    except OSError:  # what Linux says when the other end is closed
        pass
    os.close(ours)
    assert process.wait() == 0
    assert b"24/24" in text
    assert b"left out" in text
    assert b"23 examples of train, 1 left out" in text
