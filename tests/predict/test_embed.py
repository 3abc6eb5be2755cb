"""embed: vectors are the model's, whatever happens on the way to them."""

import dataclasses
import errno
import io
import itertools
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pyarrow.parquet as pq
import pytest
from pictures import photo
from PIL import Image
from pretrained_models import assert_close

from big_vit_lite.data import files, prepared
from big_vit_lite.predict import compiled, embed, finishing, main, reading
from big_vit_lite.predict.rows import Rows, npy_header

ROOT = Path(__file__).parents[2]


@pytest.fixture
def paths(here):
    return sorted(str(p.relative_to(here)) for p in here.glob("photos/**/*.[jp]*g"))


@pytest.fixture
def wanted(model_of, paths):
    return np.asarray(model_of("dino").encode_image(paths))


def test_vectors_are_the_models_in_either_format(here, predict, paths, wanted, monkeypatch):
    """On one device and on eight, over which a batch is split."""
    assert np.abs(wanted[1:] - wanted[:-1]).max(1).min() > 1e-3  # every image has its own
    out = predict("embed", "dino", "photos", "--out", "a.npy", "--batch_size", 8)
    n, e = wanted.shape
    assert out == f"a.npy: {n} vectors of {e} float32\n"
    found = np.load("a.npy")
    assert found.dtype == np.float32 and Path("a.npy.paths.txt").read_text().splitlines() == paths
    assert_close(found, wanted)
    monkeypatch.setattr(jax, "local_devices", jax.devices)
    predict("embed", "dino", "photos", "--out", "a.parquet", "--dtype", "float16")
    table = pq.read_table("a.parquet")
    assert table.column("path").to_pylist() == paths
    half = np.array(table.column("embedding").to_pylist(), np.float16)
    assert len(jax.local_devices()) == 8
    assert_close(half, found, 1e-3)
    assert (half == found.astype(np.float16)).mean() > 0.99  # but for where rounding turns
    about = json.loads(Path("a.npy.json").read_text())
    assert {k: about[k] for k in ("model", "dtype", "dimension", "rows", "left_out")} == {
        "model": "dino/model.safetensors",
        "dtype": "float32",
        "dimension": e,
        "rows": n,
        "left_out": 0,
    }
    held = json.loads(table.schema.metadata[b"big_vit_lite"])
    assert held["fingerprint"] == about["fingerprint"] and held["paths"] == about["paths"]
    assert sorted(p.name for p in here.glob("a.*")) == [
        "a.npy", "a.npy.json", "a.npy.paths.txt", "a.parquet",
    ]  # fmt: skip


def test_it_compiles_once_though_the_last_batch_is_short(here, predict, paths, monkeypatch):
    seen = []
    real = jax.jit

    def counting(function, **options):
        def traced(*args):
            seen.append(args[0].shape)
            return function(*args)

        return real(traced, **options)

    monkeypatch.setattr(compiled.jax, "jit", counting)
    predict("embed", "dino", "photos", "--out", "a.npy", "--batch_size", 8)
    assert len(paths) % 8 and [shape[0] for shape in seen if len(shape) == 4] == [8]


def test_images_are_read_only_a_little_ahead(here, model_of, paths, monkeypatch):
    read, real = [], files.read
    monkeypatch.setattr(files, "read", lambda path: read.append(path) or real(path))
    images = reading.Images(model_of("dino"), paths * 50, threads=2)
    batches = images.batches(4)
    for number in (1, 2, 3):
        batch = next(batches)
        assert batch.pixels.shape[0] == 4 and batch.seen == 4 * number
        time.sleep(0.05)
        assert len(read) <= 4 * number + reading.AHEAD * 4 + 1
    batches.close()


def test_an_unreadable_image_ends_it_and_what_is_before_is_kept(here, predict, paths, wanted):
    bad = here / "photos" / "more" / "6.jpg"
    whole = bad.read_bytes()
    bad.write_bytes(whole[:200])
    place = paths.index("photos/more/6.jpg")
    told = predict("embed", "dino", "photos", "--out", "a.npy", code=2)
    assert "photos/more/6.jpg cannot be used: the image is truncated" in told
    assert told.endswith(f"The {place} vectors before it are kept: start again\n")
    assert not Path("a.npy").exists()
    about = predict("similar", "dino", "photos/0.jpg", "--embeddings", "a.npy", code=2)
    assert about == "--embeddings: a.npy is not finished: run its embed command again\n"
    bad.write_bytes(whole)
    assert main(["embed", "dino", "photos", "--out", "a.npy"]) == 0
    assert_close(np.load("a.npy"), wanted)
    assert not Path("a.npy.partial").exists()


def test_images_left_out_are_named_listed_and_counted(here, predict, paths, wanted, capsys):
    for name in ("0.jpg", "more/7.jpg"):
        (here / "photos" / name).write_bytes(b"no image")
    capsys.readouterr()
    assert main(["embed", "dino", "photos", "--out", "a.npy", "--skip_unreadable"]) == 0
    out, err = capsys.readouterr()
    assert out == "a.npy: 7 vectors of 32 float32, 2 left out\n"
    listed = Path("a.npy.skipped.txt").read_text().splitlines()
    assert [line.split(":")[0] for line in listed] == ["photos/0.jpg", "photos/more/7.jpg"]
    assert all(f"left out {line}" in err for line in listed)
    bad = ("photos/0.jpg", "photos/more/7.jpg")
    good = [i for i, path in enumerate(paths) if path not in bad]
    assert_close(np.load("a.npy"), wanted[good])
    assert Path("a.npy.paths.txt").read_text().splitlines() == [paths[i] for i in good]
    for path in here.glob("photos/**/*.*g"):
        path.write_bytes(b"no image")
    told = predict("embed", "dino", "photos", "--out", "b.npy", "--skip_unreadable", code=1)
    assert "none of the 9 images can be read" in told and not Path("b.npy.partial").exists()


# Stopped and started again.

SLOW = """
import sys, time
from big_vit_lite.data import files
from big_vit_lite.predict import main, rows
rows.EVERY_S = 0.0
real = files.read
def read(path):
    time.sleep(0.02)
    return real(path)
files.read = read
sys.exit(main(sys.argv[1:]))
"""


def committed(work):
    try:
        lines = (work / "journal").read_bytes().split(b"\n")[:-1]
        return json.loads(lines[-1])["seen"] if lines else 0
    except FileNotFoundError:
        return 0


def test_killed_in_the_middle_it_goes_on(here, model_of, tmp_path, capsys):
    """kill -9 of a real process; nothing that was committed is computed again."""
    many = tmp_path / "many"
    many.mkdir()
    for i in range(160):
        Image.fromarray(photo(20, 20, seed=i)).save(many / f"{i:03}.png")
    (tmp_path / "slow.py").write_text(SLOW)
    command = [sys.executable, "slow.py", "embed", "dino", "many", "--out", "a.npy",
               "--batch_size", "4", "--threads", "1"]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    environment["XLA_FLAGS"] = "--xla_backend_optimization_level=0"
    work = tmp_path / "a.npy.partial"
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    began = time.monotonic()
    while committed(work) < 40:
        assert process.poll() is None and time.monotonic() - began < 240
        time.sleep(0.005)
    process.kill()
    process.wait()
    before = committed(work)
    assert 40 <= before < 160
    with (work / "vectors").open("ab") as file:
        file.write(b"torn")
    with (work / "journal").open("ab") as file:
        file.write(b'{"seen": 99')
    assert main(command[2:]) == 0
    assert f"goes on from image {before + 1} of 160" in capsys.readouterr().err
    paths = [f"many/{i:03}.png" for i in range(160)]
    assert Path("a.npy.paths.txt").read_text().splitlines() == paths
    found = np.load("a.npy")
    model = model_of("dino")
    parts = [paths[i : i + 8] for i in range(0, 160, 8)]
    assert_close(found, np.concatenate([np.asarray(model.encode_image(part)) for part in parts]))
    assert not work.exists()


class Killed(BaseException):
    """Ends the command as a kill would: nothing catches it."""


@pytest.mark.parametrize("out", ["a.npy", "a.parquet"])
def test_killed_at_any_step_of_the_end_it_goes_on(out, here, predict, monkeypatch):
    """Each step that changes the disk is the last one of a process, in turn."""
    (here / "photos" / "3.jpg").write_bytes(b"no image")
    argv = ["embed", "dino", "photos", "--out", out, "--skip_unreadable"]
    predict(*argv)
    wanted = {p.name: p.read_bytes() for p in here.glob(f"{out}*") if p.is_file()}
    for path in here.glob(f"{out}*"):
        path.unlink()
    steps = [(os, "replace"), (finishing, "remove"), (finishing.prepared, "sync")]
    for last in itertools.count():
        left = [last]
        with monkeypatch.context() as patch:
            for module, name in steps:
                real = getattr(module, name)

                def counted(*args, real=real, left=left, **options):
                    if not left[0] and "journal" not in str(args):
                        raise Killed
                    left[0] -= 1
                    return real(*args, **options)

                patch.setattr(module, name, counted)
            try:
                assert main(argv) == 0
                died = False
            except Killed:
                died = True
        if not died:
            break
        assert main(argv) == 0
        assert {p.name: p.read_bytes() for p in here.glob(f"{out}*") if p.is_file()} == wanted
        assert not (here / f"{out}.partial").exists()
        for path in here.glob(f"{out}*"):
            path.unlink()
    assert last >= 4


def test_the_header_is_equally_long_for_any_number_of_rows():
    sizes = {len(npy_header(n, 768, "float16")) for n in (0, 9, 10**6, 10**12)}
    assert len(sizes) == 1
    content = npy_header(2, 3, "float32") + np.arange(6, dtype=np.float32).tobytes()
    np.testing.assert_array_equal(np.load(io.BytesIO(content)), [[0, 1, 2], [3, 4, 5]])


def test_it_does_not_go_on_with_anything_else(here, predict, paths, model_of):
    (here / "photos" / "zz.jpg").write_bytes(b"no image")
    argv = ["embed", "dino", "photos", "--out", "a.npy"]
    predict(*argv, code=2)  # unfinished
    begun = "--out: a.npy.partial was begun otherwise: "
    told = predict("embed", "clip", *argv[2:], code=2)
    old, new = (embed.identity.fingerprint(model_of(name)) for name in ("dino", "clip"))
    assert told.startswith(
        f"{begun}the model was dino/model.safetensors ({old}) and is clip/model.safetensors ({new})"
    )
    assert told.endswith("; name another file, or remove this one\n")
    told = predict(*argv, "--transform", "decode|resize(16)", code=2)
    assert f"{begun}--transform was decode|resize_small(" in told and "is decode|resize(16)" in told
    told = predict(*argv, "--std", "0.5,0.5,0.25", code=2)
    assert f"{begun}--std was 0.2" in told and "and is 0.5,0.5,0.25" in told
    assert "--dtype was float32 and is float16" in predict(*argv, "--dtype", "float16", code=2)
    (here / "photos" / "2.jpg").rename(here / "photos" / "2b.jpg")
    told = predict(*argv, code=2)
    assert "the list of images was " in told
    assert "(image 3 was photos/2.jpg and is photos/2b.jpg)" in told
    (here / "photos" / "2b.jpg").rename(here / "photos" / "2.jpg")
    (here / "photos" / "zz.jpg").unlink()
    told = predict(*argv, code=2)
    assert "the number of images was 10 and is 9" in told
    assert "image 10 was photos/zz.jpg and is none" in told


def test_what_is_complete_is_not_computed_again(here, predict, capsys, monkeypatch):
    argv = ["embed", "dino", "photos", "--out", "a.npy"]
    predict(*argv)
    before = Path("a.npy").stat().st_mtime_ns
    monkeypatch.setattr(compiled, "answers", None)
    assert main(argv) == 0
    assert "a.npy is complete already: 9 vectors of 32 float32\n" in capsys.readouterr().err
    assert Path("a.npy").stat().st_mtime_ns == before
    told = predict("embed", "clip", *argv[2:], code=2)
    assert told.startswith("--out: a.npy was made otherwise: the model was dino/model.safetensors")
    (here / "photos" / "0.jpg").unlink()
    assert "the number of images was 9 and is 8" in predict(*argv, code=2)


def test_the_same_weights_under_another_name_are_the_same(here, predict, model_of):
    (here / "other").symlink_to(here / "dino")
    fingerprint = embed.identity.fingerprint
    assert fingerprint(model_of("other")) == fingerprint(model_of("dino"))
    changed = jax.tree.map(lambda x: x, model_of("dino").params)
    leaf = changed["Transformer"]["encoder_norm"]
    leaf["bias"] = leaf["bias"].at[0].add(1e-6)
    other = dataclasses.replace(model_of("dino"), params=changed)
    assert fingerprint(other) != fingerprint(model_of("dino"))


def test_a_second_process_and_full_disks_are_told_of(here, predict, monkeypatch):
    argv = ["embed", "dino", "photos", "--out", "a.npy"]
    work = here / "a.npy.partial"
    work.mkdir()
    with prepared.locked(work):
        told = predict(*argv, code=2)
    assert told == "--out: another process is writing a.npy\n"
    real = Rows.commit

    def full(self):
        if self._waiting[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(self)

    with monkeypatch.context() as patch:
        patch.setattr(Rows, "commit", full)
        told = predict(*argv, code=1)
    assert told.splitlines()[-1] == (
        "a.npy cannot be written (the disk is full): start again when it can, what is written is "
        "kept in a.npy.partial"
    )
    usage = embed.shutil.disk_usage(here)._replace(free=10)
    with monkeypatch.context() as patch:
        patch.setattr(embed.shutil, "disk_usage", lambda path: usage)
        assert "MiB more, and . has 0 MiB free" in predict(*argv, code=2)
    predict(*argv)
    assert len(np.load("a.npy")) == 9


def test_names_that_are_no_line_of_a_file_are_refused(here, predict):
    (here / "photos" / "a\nb.jpg").write_bytes((here / "photos" / "0.jpg").read_bytes())
    told = predict("embed", "dino", "photos", "--out", "a.parquet", code=2)
    assert told == "the name of 'photos/a\\nb.jpg' has a line break: rename the file\n"
    (here / "photos" / "a\nb.jpg").unlink()
    os.rename(b"photos/0.jpg", b"photos/\xff.jpg")
    told = predict("classify", "runs/vit", "photos", code=2)
    assert told == "the name of 'photos/\\udcff.jpg' is no UTF-8: rename the file\n"


def test_damaged_work_is_told_of(here, predict):
    argv = ["embed", "dino", "photos", "--out", "a.npy"]
    (here / "photos" / "zz.jpg").write_bytes(b"no image")
    predict(*argv, code=2)
    os.truncate("a.npy.partial/vectors", 10)
    told = "a.npy.partial/vectors is shorter than it was: remove a.npy.partial, start again\n"
    assert predict(*argv, code=2) == told
    Path("a.npy.partial/journal").unlink()
    assert predict(*argv, code=2) == "a.npy.partial is damaged: remove it, and start again\n"
    Path("a.npy.partial/settings.json").write_text("{")
    assert predict(*argv, code=2) == "a.npy.partial is damaged: remove it, and start again\n"
