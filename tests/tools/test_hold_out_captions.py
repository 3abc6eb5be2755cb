"""tools/hold_out_captions.py: relatives stay on one side, and no byte changes."""

import importlib.util
import io
import tarfile
from pathlib import Path

import pytest

from big_vit_lite import config

ROOT = Path(__file__).parents[2]
spec = importlib.util.spec_from_file_location("held", ROOT / "tools" / "hold_out_captions.py")
tool = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tool)

CAPTIONS = ["judge", "man judge", "judge dark skin tone", "woman judge light skin tone", "apple",
            "pear", "dark chocolate", "man", "woman running", "man running"]  # fmt: skip
DROP, SAME = r"\b(light|dark) skin tone\b", r"\b(man|woman)\b"


def pack(path, captions, first=0):
    with tarfile.open(path, "w") as archive:
        for number, caption in enumerate(captions, first):
            for ending, content in (("png", b"p%d" % number), ("txt", caption.encode())):
                header = tarfile.TarInfo(f"./a/{number}.{ending}")
                header.size = len(content)
                archive.addfile(header, io.BytesIO(content))


def members(path):
    with tarfile.open(path) as archive:
        return {member.name: archive.extractfile(member).read() for member in archive}


@pytest.fixture
def options(tmp_path):
    pack(tmp_path / "train-00000.tar", CAPTIONS[:4])
    pack(tmp_path / "train-00001.tar", CAPTIONS[4:], 4)
    pack(tmp_path / "val-00000.tar", ["grape"])
    return ["--path", str(tmp_path), "--out", str(tmp_path / "parts")]


def test_relatives_are_equal_but_for_what_is_named():
    drop, same = tool.expression(DROP), tool.expression(SAME)
    assert tool.relatives("woman judge  light skin tone", drop, same) == "* judge"
    assert tool.relatives("dark chocolate man", drop, same) == "dark chocolate *"
    assert tool.relatives("woman judge light skin tone", None, None).startswith("woman judge l")


@pytest.mark.parametrize("seed", range(4))
def test_whole_groups_go_and_nothing_is_lost(options, tmp_path, seed, capsys):
    tool.main([*options, "--examples", "4", "--drop", DROP, "--same", SAME, "--seed", str(seed)])
    fit, tune = (members(tmp_path / "parts" / f"{p}-00000.tar") for p in ("fit", "tune"))
    there = members(tmp_path / "train-00000.tar"), members(tmp_path / "train-00001.tar")
    assert sorted([*fit.items(), *tune.items()]) == sorted(
        pair for shard in there for pair in shard.items()
    )
    groups = [
        {tool.relatives(text.decode(), tool.expression(DROP), tool.expression(SAME))
         for name, text in part.items() if name.endswith(".txt")}
        for part in (fit, tune)
    ]  # fmt: skip
    assert not groups[0] & groups[1]
    assert 4 <= len(tune) // 2 <= 5  # groups of two are the largest
    assert list(fit) == [name for shard in there for name in shard if name in fit]
    assert f"fit has {len(fit) // 2} examples, tune {len(tune) // 2}" in capsys.readouterr().out


def test_seeds_differ_and_large_groups_stay(options, tmp_path):
    found = set()
    for seed in range(4):
        tool.main([*options, "--examples", "2", "--seed", str(seed)])
        found.add(tuple(members(tmp_path / "parts" / "tune-00000.tar").values()))
    assert len(found) > 1
    tool.main([*options, "--examples", "99", "--drop", DROP, "--same", SAME, "--largest", "1"])
    held = {text.decode() for text in members(tmp_path / "parts" / "tune-00000.tar").values()}
    assert {text for text in held if not text.startswith("p") or text == "pear"} == {
        "apple", "pear", "dark chocolate", "man"
    }  # fmt: skip


def test_faults(options, tmp_path, capsys):
    def said(*more):
        assert config.exit_code(tool.main, [*options, *more]) == 2
        return capsys.readouterr().err

    assert "--examples" in said()
    assert '--drop = "(": wants a regular expression (' in said("--examples", "1", "--drop", "(")
    assert f"--path: {tmp_path} has no test-*.tar" in said("--examples", "1", "--split", "test")
    assert "./a/0 has no member .cls; see --caption" in said("--examples", "1", "--caption", "cls")
    pack(tmp_path / "train-00002.tar", CAPTIONS[4:5], 4)
    twice = "train-00002.tar: ./a/4.png stands there twice, or in two shards; give each its own"
    assert twice in said("--examples", "1")
