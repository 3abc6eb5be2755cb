"""Files of weights read without torch: every kind, every type, and what is no file of weights."""

import json
import os
import pickle
import zipfile

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file
from weights import torch_format
from weights.torch_format import Raw

from big_vit_lite.config import InputError
from big_vit_lite.weights.files import open_source
from big_vit_lite.weights.files.stored import float32


def arrays(seed=0):
    rng = np.random.default_rng(seed)
    return {
        "a.weight": rng.standard_normal((3, 4)).astype(np.float32),
        "b": rng.standard_normal((2, 1, 5)).astype(ml_dtypes.bfloat16),
        "c.half": rng.standard_normal(6).astype(np.float16),
        "scalar": np.array(2.5, np.float32),
        "count": np.array([3, 5]),
    }


def assert_holds(path, wanted):
    source = open_source(path)
    assert source.shapes == {name: x.shape for name, x in wanted.items()}
    for name, x in wanted.items():
        assert source.arrays[name].dtype == x.dtype, name
        found = source.arrays[name].read()
        assert found.dtype == x.dtype
        np.testing.assert_array_equal(found, x)
        np.testing.assert_array_equal(float32(source.arrays[name]), x.astype(np.float32))


def test_a_header_as_long_as_a_pickle_begins_is_no_pickle(tmp_path):
    """Its length leads the file: in one of 32 files its lowest byte is that of a pickle, 0x80."""
    path = tmp_path / "model.safetensors"
    for n in range(0, 256, 8):
        save_file(arrays(), path, metadata={"format": "pt", "note": "x" * n})
        if path.read_bytes()[0] == 0x80:
            break
    assert path.read_bytes()[:1] == b"\x80"
    for name in ("model.safetensors", "model.bin"):
        assert_holds(path.rename(tmp_path / name), arrays())
        path = tmp_path / name


def refused(path) -> str:
    with pytest.raises(InputError) as error:
        source = open_source(path)
        for stored in source.arrays.values():
            stored.read()
    text = str(error.value)
    assert "\n" not in text and str(path.parent) in text
    return text


def test_safetensors(tmp_path):
    save_file(arrays(), tmp_path / "model.safetensors")
    assert_holds(tmp_path / "model.safetensors", arrays())
    assert_holds(tmp_path, arrays())  # found in its folder


def test_safetensors_in_shards(tmp_path):
    names = list(arrays())
    shards = {"1.safetensors": names[:2], "2.safetensors": names[2:]}
    for shard, held in shards.items():
        save_file({name: arrays()[name] for name in held}, tmp_path / shard)
    index = {"weight_map": {name: shard for shard, held in shards.items() for name in held}}
    file = tmp_path / "model.safetensors.index.json"
    file.write_text(json.dumps(index))
    assert_holds(tmp_path, arrays())
    file.write_text(json.dumps({"weight_map": index["weight_map"] | {"d": "1.safetensors"}}))
    assert "says that d is in 1.safetensors, and it is not" in refused(file)
    file.write_text(json.dumps({"weight_map": {"a": "../1.safetensors"}}))
    assert "names the shard ../1.safetensors, which is not beside it" in refused(file)
    file.write_text("[]")
    assert "is no index of shards" in refused(file)


def as_published(x):
    """NumPy writes bfloat16 as two bytes without a type."""
    return x.view("V2") if x.dtype == ml_dtypes.bfloat16 else x


def test_npz_with_bfloat16_as_void(tmp_path):
    wanted = {"params/" + name.replace(".", "/"): x for name, x in arrays().items()}
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "vit.npz", **{k: as_published(x) for k, x in wanted.items()})
        assert_holds(tmp_path / "vit.npz", wanted)


def test_npz_with_objects_is_not_unpickled(tmp_path):
    np.savez(tmp_path / "vit.npz", a=np.array([{"x": 1}], dtype=object))
    assert "a is a pickled Python object, not an array" in refused(tmp_path / "vit.npz")
    np.savez(tmp_path / "vit.npz", a=np.zeros(3, "V3"))
    assert "a has 3 bytes a value and no type" in refused(tmp_path / "vit.npz")


@pytest.mark.parametrize("wrap", [(), ("model",), ("state_dict",), ("teacher",), ("x", "model")])
@pytest.mark.parametrize("save", [torch_format.save_archive, torch_format.save_legacy])
def test_torch(tmp_path, save, wrap):
    root = arrays()
    for name in reversed(wrap):
        root = {"epoch": 3, name: root}
    path = save(tmp_path / "weights.pth", root)
    if "x" in wrap:  # a dict of another name is not searched
        assert "holds no tensors" in refused(path)
    else:
        assert_holds(path, arrays())


@pytest.mark.parametrize("save", [torch_format.save_archive, torch_format.save_legacy])
def test_tensors_beside_a_state_dict_are_not_the_weights(tmp_path, save):
    root = {"epoch": 3, "loss": arrays()["scalar"], "model": arrays(), "rng": arrays()["count"]}
    assert_holds(save(tmp_path / "weights.pth", root), arrays())
    empty = {"model": {}, "a.weight": arrays()["a.weight"]}  # nothing inside: the weights are here
    assert_holds(save(tmp_path / "weights.pth", empty), {"a.weight": arrays()["a.weight"]})


def test_prefixes_of_wrapped_models_are_taken_off(tmp_path):
    root = {f"module.{name}": x for name, x in arrays().items()}
    assert_holds(torch_format.save_archive(tmp_path / "w.pt", root), arrays())
    root["other"] = arrays()["scalar"]
    assert "module.b" in open_source(torch_format.save_archive(tmp_path / "w.pt", root)).arrays


def test_torchscript(tmp_path):
    x = arrays()
    root = {"training": 0, "visual": {"conv1": {"weight": x["b"]}}, "scale": x["scalar"]}
    path = torch_format.save_archive(tmp_path / "ViT-B-32.pt", root, script=True)
    assert_holds(path, {"visual.conv1.weight": x["b"], "scale": x["scalar"]})


def test_tensors_that_are_views_are_read_as_such(tmp_path):
    flat = np.arange(24, dtype=np.float32)
    writer = torch_format.Writer()
    transposed = Raw(writer.view(flat, 2, (3, 4), (1, 5)))
    path = torch_format.save_parts(
        tmp_path / "w.pt", torch_format.pickled(writer.value({"x": transposed})), writer.storages
    )
    assert_holds(path, {"x": flat[2:22].reshape(4, 5).T[:3].copy()})
    for offset, shape, strides in ((2, (3, 4), (1, 8)), (25, (1,), (1,)), (-4, (2,), (1,)),
                                   (0, (2, 2), (1,)), (23, (2,), (-1,))):  # fmt: skip
        writer = torch_format.Writer()
        bad = Raw(writer.view(flat, offset, shape, strides))
        data = torch_format.pickled(writer.value({"x": bad}))
        torch_format.save_parts(tmp_path / "w.pt", data, writer.storages)
        assert "reaches beyond its 24 values" in refused(tmp_path / "w.pt")


class Malicious:
    def __init__(self, call, *args):
        self.call, self.args = call, args

    def __reduce__(self):
        return self.call, self.args


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize(
    ("call", "args", "named"),
    [
        (os.system, ("touch {}",), "system"),
        (eval, ("open('{}', 'w')",), "eval"),
        (open, ("{}", "w"), "open"),
        (getattr, (os, "system"), "getattr"),
    ],
)
def test_a_pickle_with_code_is_refused_and_runs_nothing(tmp_path, protocol, call, args, named):
    target = tmp_path / "touched"
    args = tuple(x.format(target) if isinstance(x, str) else "x" for x in args)
    data = pickle.dumps({"model": Malicious(call, *args)}, protocol=protocol)
    path = torch_format.save_parts(tmp_path / "w.pt", data, [])
    text = refused(path)
    assert f".{named}" in text and "nothing was run" in text and "safetensors" in text
    if protocol > 0:
        (tmp_path / "old.pt").write_bytes(data)
        assert "nothing was run" in refused(tmp_path / "old.pt")
    assert not target.exists()
    if call in (eval, open):  # the same pickle does run where it may
        pickle.loads(data)
        assert target.exists()


def test_settings_beside_the_weights_are_left_alone(tmp_path):
    namespace = Raw(b"cargparse\nNamespace\n)\x81}(X\x01\x00\x00\x00aJ\x01\x00\x00\x00ub")
    path = torch_format.save_archive(tmp_path / "w.pth", {"args": namespace, "model": arrays()})
    assert_holds(path, arrays())
    setting = Raw(b"cargparse\nNamespace\n}(X\x01\x00\x00\x00aJ\x01\x00\x00\x00ub")
    path = torch_format.save_archive(tmp_path / "w.pth", {"args": setting, "model": arrays()})
    assert "no whole torch file" in refused(path)  # attributes of a class, not of an object


@pytest.mark.parametrize("keep", [0, 5, 40, 200, -1])
@pytest.mark.parametrize("kind", ["safetensors", "npz", "archive", "legacy"])
def test_files_that_were_cut_off(tmp_path, kind, keep):
    path = tmp_path / ("w.safetensors" if kind == "safetensors" else "w.bin")
    if kind == "safetensors":
        save_file(arrays(), path)
    elif kind == "npz":
        with open(path, "wb") as file:
            np.savez(file, **{k: as_published(x) for k, x in arrays().items()})
    else:
        getattr(torch_format, f"save_{kind}")(path, arrays())
    path.write_bytes(path.read_bytes()[:keep])
    text = refused(path)
    assert "fetch it again" in text or "fetch the file again" in text or "none of the known" in text
    if kind == "safetensors" and keep:
        assert "is no whole safetensors file" in text


def test_an_archive_with_a_flipped_byte(tmp_path):
    path = torch_format.save_archive(tmp_path / "w.pt", {"x": np.arange(500, dtype=np.float32)})
    data = bytearray(path.read_bytes())
    data[data.index(np.arange(99, 103, dtype=np.float32).tobytes())] ^= 1
    path.write_bytes(data)
    assert "w/data/0 in it is damaged" in refused(path)


def test_a_lost_storage(tmp_path):
    writer = torch_format.Writer()
    data = torch_format.pickled(writer.value({"x": np.zeros(4, np.float32)}))
    path = torch_format.save_parts(tmp_path / "w.pt", data, [])
    assert "lacks w/data/0" in refused(path)
    torch_format.save_parts(tmp_path / "w.pt", data, [np.zeros(3, np.float32)])
    assert "holds 3 values where 4 were announced" in refused(path)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"<!DOCTYPE html><html>", "is a web page, not a file of weights"),
        (b"\n <html lang='en'>", "is a web page, not a file of weights"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1", "a pointer of Git LFS"),
        (b"", "is empty"),
        (b"import os", "none of the known files of weights: safetensors, .npz, or torch's"),
        (pickle.dumps({"a": 1}, 2), "is a Python pickle, but not one of torch.save"),
    ],
)
def test_what_is_no_file_of_weights(tmp_path, content, told):
    (tmp_path / "model.bin").write_bytes(content)
    assert told in refused(tmp_path / "model.bin")


def test_a_zip_of_something_else(tmp_path):
    with zipfile.ZipFile(tmp_path / "w.zip", "w") as archive:
        archive.writestr("readme.txt", "x")
    assert "without torch's data.pkl or NumPy's .npy" in refused(tmp_path / "w.zip")


def test_paths_that_hold_nothing(tmp_path):
    assert "does not exist" in refused(tmp_path / "nothing")
    folder = tmp_path / "folder"
    folder.mkdir()
    assert "holds no file of weights, and none of model.safetensors" in refused(folder)
    for name in ("a.npz", "b.npz"):
        (folder / name).write_bytes(b"")
    assert "holds a.npz, b.npz, and none of" in refused(folder)
    (folder / "config.json").write_text("{")
    assert "config.json is no JSON" in refused(folder / "a.npz")


@pytest.mark.extra
def test_torch_reads_and_writes_the_same_files(tmp_path):
    torch = pytest.importorskip("torch")
    types = {np.dtype(ml_dtypes.bfloat16): torch.bfloat16, np.dtype(np.float16): torch.float16,
             np.dtype(np.int64): torch.int64, np.dtype(np.float32): torch.float32}  # fmt: skip
    wanted = {
        k: torch.from_numpy(x.astype(np.float32)).to(types[x.dtype]) for k, x in arrays().items()
    }
    for save in (torch_format.save_archive, torch_format.save_legacy):
        found = torch.load(save(tmp_path / "w.pt", {"model": arrays()}), weights_only=True)["model"]
        for name, x in wanted.items():
            assert found[name].dtype == x.dtype and torch.equal(found[name], x), name
    for new in (True, False):
        root = {k: torch.nn.Parameter(x, requires_grad=False) for k, x in wanted.items()}
        torch.save({"model": root}, tmp_path / "w.pt", _use_new_zipfile_serialization=new)
        assert_holds(tmp_path / "w.pt", arrays())


@pytest.mark.extra
def test_torchscript_live(tmp_path):
    torch = pytest.importorskip("torch")
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Sequential(torch.nn.LayerNorm(4)))
    traced = torch.jit.trace(model.half().eval(), torch.zeros(2, 3).half())
    torch.jit.save(traced, tmp_path / "w.pt")
    assert_holds(tmp_path / "w.pt", {k: x.numpy() for k, x in model.state_dict().items()})
