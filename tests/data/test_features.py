"""features: vectors computed before, read from every format in place of images."""

import io
import json
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from big_vit_lite import checks, config, data
from big_vit_lite.config import Data, InputError, Split
from big_vit_lite.data import records, transforms
from big_vit_lite.data.transforms.op import ImageFault

TEXT = "lower|tokenize('bytes')|truncate(16)|pad(16)"
VECTORS = np.random.default_rng(0).normal(0, 10, (9, 5)).astype(np.float16)


def npy(array, version=None):
    file = io.BytesIO()
    np.lib.format.write_array(file, np.asarray(array), version)
    return file.getvalue()


def apply(content, n=5):
    return transforms.parse(f"features({n})")(content, None)


@pytest.mark.parametrize("kind", ["<f2", ">f2", "<f4", ">f4"])
@pytest.mark.parametrize("version", [(1, 0), (2, 0)])
def test_every_bit_of_the_stored_numbers_arrives(kind, version):
    vector = np.random.default_rng(1).normal(size=300).astype(kind)
    vector[0] = np.finfo(kind).smallest_subnormal
    made = apply(npy(vector, version), 300)
    assert list(made) == ["features"]
    assert made["features"].dtype == np.dtype(np.float32)
    assert np.array_equal(made["features"], vector.astype(np.float64))


WRONG = [
    (b"", "the bytes are no .npy file: b''"),
    (b"\xff\xd8\xff\xe0 a photograph", "the bytes are no .npy file: b'\\xff\\xd8"),
    (npy(VECTORS[0])[:7], "the bytes are no .npy file"),
    (npy(VECTORS[0])[:40], "the header of the .npy file cannot be read ("),
    (npy(VECTORS[0]).replace(b"descr", b"dxscr"), "the header of the .npy file cannot be read ("),
    (
        npy(VECTORS[0])[:-1],
        "the .npy file is damaged: 10 bytes of numbers should follow its header, and 9 do",
    ),
    (npy(VECTORS[0]) + b"\0", "10 bytes of numbers should follow its header, and 11 do"),
    (
        npy(VECTORS[0, :4]),
        "the .npy file holds 4 float16, and features(5) wants 5 float16 or float32",
    ),
    (npy(VECTORS[:1]), "the .npy file holds 1 x 5 float16, and"),
    (npy(np.float32(3)), "the .npy file holds one float32, and"),
    (npy(VECTORS[0].astype(np.float64)), "the .npy file holds 5 float64, and"),
    (npy(np.arange(5)), "the .npy file holds 5 int64, and"),
    (npy(np.float32([1, 2, np.nan, 4, np.inf])), "feature 2 is nan, which is not finite"),
    (npy(np.float16([1, 2, 3, -np.inf, 4])), "feature 3 is -inf, which is not finite"),
]


@pytest.mark.parametrize(("content", "fault"), WRONG)
def test_wrong_files_are_told_apart(content, fault):
    with pytest.raises(ImageFault) as error:
        apply(content)
    assert fault in str(error.value)


def test_a_file_that_runs_code_when_unpickled_is_refused():
    file = io.BytesIO()
    np.save(file, np.array([print], object), allow_pickle=True)
    with pytest.raises(ImageFault, match="holds 1 object, and features"):
        apply(file.getvalue())


def test_specs_and_grammar():
    transform = transforms.parse("features(768)")
    assert transform.specs() == {"features": ((768,), np.float32)}
    assert not transform.decodes
    for wrong, fault in (
        ("features", "features: missing a required argument: 'n'; write features(n)"),
        ("features(0)", "features: n is a whole number from 1 on, not 0"),
        ("decode|features(8)", "features stands alone; it reads what was computed before"),
        ("features(8)|flip", "features stands alone; it reads what was computed before"),
        ("views(a='features(8)')", "features cannot stand in a view, which is one image"),
        ("views(features='flip')", "no view is called features, which batches hold already"),
    ):
        (found,) = transforms.check(wrong)
        assert fault in found
    train = {"source": "digits", "transform": "features(8)"}
    run = config.Run(steps=1, data={"batch_size": 1, "train": train})
    (fault,) = checks.images(run)
    assert fault.wanted == "makes features, but task.name classification reads one image"
    with pytest.raises(InputError, match=r"features\(8\) reads .npy files, and this source holds"):
        data.train_stream(run.data, 0)


def tar(folder):
    with tarfile.open(folder / "train-00000.tar", "w") as archive:
        for i, vector in enumerate(VECTORS):
            for ending, content in (("npy", npy(vector)), ("txt", b"Row %d" % i)):
                member = tarfile.TarInfo(f"{i:03d}.{ending}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return {"source": "tar", "image_key": "npy"}


def parquet(folder):
    columns = {
        "vector": [npy(vector) for vector in VECTORS],
        "caption": [f"Row {i}" for i in range(len(VECTORS))],
    }
    pq.write_table(pa.table(columns), folder / "train-00000-of-00001.parquet")
    return {"source": "parquet", "image_key": "vector"}


def arrayrecord(folder):
    from array_record.python.array_record_module import ArrayRecordWriter

    writer = ArrayRecordWriter(str(folder / "train-00000-of-00001.arrayrecord"), "group_size:1")
    for i, vector in enumerate(VECTORS):
        writer.write(records.encode({"vector": npy(vector), "caption": f"Row {i}"}))
    writer.close()
    (folder / "schema.json").write_text('{"encoding": "msgpack", "image": "vector"}')
    return {"source": "arrayrecord"}


def table(folder):
    for i, vector in enumerate(VECTORS):
        np.save(folder / f"{i}.npy", vector)
    rows = [{"path": f"{i}.npy", "caption": f"Row {i}"} for i in range(len(VECTORS))]
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return {"source": "table"}


@pytest.mark.parametrize("make", [tar, parquet, arrayrecord, table], ids=lambda m: m.__name__)
def test_each_format_gives_features_with_their_captions(tmp_path, make):
    options = {"path": str(tmp_path), "split": "train", "transform": "features(5)", "text": TEXT}
    split = Split(**options, **make(tmp_path))
    stream = data.train_stream(Data(batch_size=3, train=split, prefetch_mib=1), 0)
    assert {k: (s.shape, s.dtype) for k, s in stream.spec.items()} == {
        "features": ((3, 5), np.float32), "text": ((3, 16), np.int32)
    }  # fmt: skip
    seen = []
    with stream.iterate(0, 3) as batches:
        for i, batch in enumerate(batches):
            for features, told in zip(
                np.asarray(batch["features"]),
                stream.captions(i, np.asarray(batch["text"])),
                strict=True,
            ):
                seen.append(int(told.removeprefix("row ")))
                assert np.array_equal(features, VECTORS[seen[-1]].astype(np.float32))
    assert sorted(seen) == [*range(9)]
    held = data.eval_stream(split, 4).host_batch(2)
    assert held["mask"].tolist() == [True, False, False, False]
    assert np.array_equal(held["features"][0], VECTORS[8].astype(np.float32))
    assert not held["features"][1:].any()


def test_a_bad_vector_is_one_bad_example(tmp_path):
    options = table(tmp_path)
    (tmp_path / "4.npy").write_bytes(npy(VECTORS[4])[:-2])
    split = Split(path=str(tmp_path), transform="features(5)", text=TEXT, **options)
    block = data.eval_stream(split, 9).host_block(0)
    assert block.arrays["mask"].tolist() == [i != 4 for i in range(9)]
    ((name, fault),) = block.skipped
    assert name.endswith("line 5 (4.npy)")
    assert fault == (
        f"{name}: the .npy file is damaged: 10 bytes of numbers should follow its header, and 8 "
        "do; repair it or take it out of the data"
    )
