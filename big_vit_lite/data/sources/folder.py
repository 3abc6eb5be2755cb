"""A folder of images with one sub-folder per class, as ImageNet is usually unpacked."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from jaxtyping import Int

from big_vit_lite.config import InputError, RunError
from big_vit_lite.data.sources.base import Example, Source

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp")


class Folder(Source):
    """Images in PATH[/SPLIT]/CLASS/**; classes and files in sorted order.

    A class folder without images keeps its label, so that a small validation folder numbers its
    classes as the training folder does. Names that begin with a dot are skipped.

    Raises:
      InputError: nothing at the path, no class folders, or no images.
    """

    def __init__(self, path: str, split: str | None, where: str = "data.train"):
        self._root = _root(Path(path).expanduser(), split, where)
        self.class_names = tuple(_folders(self._root))
        if not self.class_names:
            raise InputError(_no_classes(self._root, where))
        files, labels = [], []
        for label, name in enumerate(self.class_names):
            found = _images(self._root / name)
            files += found
            labels += [label] * len(found)
        if not files:
            raise InputError(
                f"{where}.path: the class folders of {self._root} hold no images "
                f"({', '.join(EXTENSIONS)})"
            )
        self._files, self._labels = files, np.array(labels, np.int64)

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, i: int) -> Example:
        try:
            data = (self._root / self._files[i]).read_bytes()
        except OSError as error:
            raise RunError(
                f"{self.name_of(i)}: cannot be read ({error.strerror}); "
                "restore the file or start again without it"
            ) from error
        return {"image": data, "label": int(self._labels[i])}

    def labels(self) -> Int[np.ndarray, " n"]:
        return self._labels

    def name_of(self, i: int) -> str:
        return str(self._root / self._files[i])


def _root(path: Path, split: str | None, where: str) -> Path:
    if not path.is_dir():
        kind = "is not a folder" if path.exists() else "does not exist"
        raise InputError(f"{where}.path: {path} {kind}; give the folder of class folders")
    if not split:
        return path
    if not (path / split).is_dir():
        names = ", ".join(_folders(path)[:10]) or "none"
        raise InputError(f"{where}.split: {path} has no folder {split!r}; its folders are: {names}")
    return path / split


def _folders(path: Path) -> list[str]:
    with os.scandir(path) as entries:
        return sorted(e.name for e in entries if e.is_dir() and not e.name.startswith((".", "__")))


def _no_classes(root: Path, where: str) -> str:
    with os.scandir(root) as entries:
        images = sum(e.name.lower().endswith(EXTENSIONS) for e in entries)
    if images:
        return (
            f"{where}.path: {root} holds {images} images but no class folders; "
            "put the images of each class into a folder named after it"
        )
    return f"{where}.path: {root} is empty; it needs one folder of images per class"


def _images(folder: Path) -> list[str]:
    """Paths relative to the parent of `folder`, sorted: short strings, for a million of them."""
    found = []
    for directory, names, files in os.walk(folder, followlinks=True):
        names[:] = [n for n in names if not n.startswith((".", "__"))]
        relative = os.path.relpath(directory, folder.parent)
        found += [
            os.path.join(relative, f)
            for f in files
            if f.lower().endswith(EXTENSIONS) and not f.startswith(".")
        ]
    return sorted(found)
