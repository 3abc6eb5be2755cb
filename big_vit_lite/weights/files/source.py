"""From a path to arrays by name: which file of a folder, of which kind, what lies beside it."""

import dataclasses
import json
import zipfile
from pathlib import Path
from typing import Any

from big_vit_lite.config import InputError
from big_vit_lite.weights.files.npz_files import read_npz
from big_vit_lite.weights.files.safetensors_files import read_safetensors, read_shards
from big_vit_lite.weights.files.stored import Stored
from big_vit_lite.weights.files.torch_files import read_torch_archive, read_torch_legacy

NAMES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.bin",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""Files of weights in a folder as the hub has it, the preferred first."""
BESIDE = ("config.json", "preprocessor_config.json", "open_clip_config.json")
SUFFIXES = (".npz", ".safetensors", ".pt", ".pth", ".bin")
KINDS = "safetensors, .npz, or torch's .pt, .pth and .bin"


@dataclasses.dataclass(frozen=True)
class Source:
    """Weights as a file holds them.

    Attributes:
        path: the file, or the index of shards.
        arrays: by the file's own names.
        configs: the JSON files beside it, by name: config.json, preprocessor_config.json,
            open_clip_config.json, those that are there.
    """

    path: Path
    arrays: dict[str, Stored]
    configs: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: stored.shape for name, stored in self.arrays.items()}

    def config(self, name: str) -> dict[str, Any]:
        """A JSON file beside the weights.

        Raises:
            InputError: it is not there.
        """
        if name not in self.configs:
            raise InputError(
                f"{self.path} has no {name} beside it, which says what the weights cannot: "
                "activation, heads, preprocessing. Fetch it into the same folder."
            )
        return self.configs[name]


def holds_weights(path: str | Path) -> bool:
    """Whether a path is of published weights: a file, or a folder that has one by its usual name.

    Our own checkpoints are folders without such files.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        return any((path / name).is_file() for name in NAMES) or bool(list(path.glob("*.npz")))
    return path.is_file() or path.suffix in SUFFIXES


def open_source(path: str | Path) -> Source:
    """Opens a file of weights, an index of shards, or a folder with one of them.

    Raises:
        InputError: nothing is there, or what is there is no file of weights.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        path = _file_of(path)
    if not path.is_file():
        raise InputError(f"{path} does not exist: give a file of weights, or a folder with one.")
    configs = {name: _json(path.parent / name) for name in BESIDE if (path.parent / name).is_file()}
    return Source(path, _read(path), configs)


def _file_of(folder: Path) -> Path:
    for name in NAMES:
        if (folder / name).is_file():
            return folder / name
    others = sorted(p for p in folder.iterdir() if p.suffix in SUFFIXES)
    if len(others) == 1:
        return others[0]
    held = ", ".join(p.name for p in others[:4]) or "no file of weights"
    raise InputError(
        f"{folder} holds {held}, and none of {', '.join(NAMES)}: give the file of weights itself."
    )


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except (ValueError, OSError) as error:
        raise InputError(f"{path} is no JSON ({error}): fetch it again.") from None
    if not isinstance(found, dict):
        raise InputError(f"{path} is JSON, but no object of settings: fetch it again.")
    return found


def _read(path: Path) -> dict[str, Stored]:
    """By what the file begins with; its name says nothing sure."""
    if path.name.endswith(".index.json"):
        reads = read_torch if path.name.startswith("pytorch_model") else read_safetensors
        return read_shards(path, reads)
    with open(path, "rb") as file:
        start = file.read(512)
    text = start.lstrip()[:40].lower()
    if not start:
        raise InputError(f"{path} is empty: fetch it again.")
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        raise InputError(
            f"{path} is a web page, not a file of weights: the download got an error or a login "
            "page; fetch it again, with an access token if the model asks for one."
        )
    if text.startswith(b"version https://git-lfs"):
        raise InputError(
            f"{path} is a pointer of Git LFS, not the file itself: run `git lfs pull` beside it."
        )
    if start.startswith(b"PK"):
        return _read_zip(path)
    # First, as the length of the header, which leads, may begin as a pickle does.
    if start[8:9] == b"{" or path.suffix == ".safetensors":
        return read_safetensors(path)
    if start[:1] == b"\x80":
        return read_torch_legacy(path)
    raise InputError(f"{path} is none of the known files of weights: {KINDS}.")


def read_torch(path: Path) -> dict[str, Stored]:
    """A torch file of either layout."""
    with open(path, "rb") as file:
        archive = file.read(2) == b"PK"
    return _read_zip(path) if archive else read_torch_legacy(path)


def _read_zip(path: Path) -> dict[str, Stored]:
    try:
        with zipfile.ZipFile(path) as archive:
            numpy = any(name.endswith(".npy") for name in archive.namelist())
        return read_npz(path) if numpy else read_torch_archive(path)
    except zipfile.BadZipFile as error:
        raise InputError(
            f"{path} is no whole archive ({error}): it was cut off or damaged on the way; fetch it "
            "again."
        ) from None
