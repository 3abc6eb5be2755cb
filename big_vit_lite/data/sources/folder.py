"""A folder of images with one sub-folder per class, as ImageNet is usually unpacked."""

from __future__ import annotations

import difflib

import numpy as np
from jaxtyping import Int

from big_vit_lite.config import InputError
from big_vit_lite.data import files
from big_vit_lite.data.sources.base import BadExample, Example, Source

EXTENSIONS = (
    ".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif", ".ppm"
)  # fmt: skip
UNREAD = (".heic", ".heif", ".jp2", ".jxl", ".dng", ".cr2", ".cr3", ".nef", ".arw")
"""Photographs that no decoder here reads; leaving them out in silence would be a loss."""
SPLITS = {"train", "training", "val", "valid", "validation", "test", "testing"}


class Folder(Source):
    """Images in PATH[/SPLIT]/CLASS/**; classes and files in sorted order.

    A class folder without images keeps its label, so that a small validation folder numbers its
    classes as the training folder does. Object stores have no such folders: there, and wherever a
    split lacks a class, give `names`. Names that begin with a dot are skipped.

    Args:
      path: a local folder or a URL.
      names: all classes in the order of their numbers; None: the class folders, sorted.

    Raises:
      InputError: nothing at the path, no class folders, splits where classes should be, a class
        that `names` lacks, no images, or photographs of a kind that cannot be read.
    """

    def __init__(
        self,
        path: str,
        split: str | None,
        names: tuple[str, ...] | None = None,
        where: str = "data.train",
    ):
        self._root = root = _root(files.normal(path), split, where)
        folders, loose = files.children(root)
        if not folders:
            raise InputError(_no_classes(root, loose, where))
        if not split and names is None and _are_splits(root, folders):
            raise InputError(
                f"{where}.split is not set: {root} holds the splits {', '.join(folders)}; "
                f"name one, for example --config.{where}.split={folders[0]}"
            )
        self.class_names = tuple(folders) if names is None else names
        number = {name: i for i, name in enumerate(self.class_names)}
        for name in folders:
            if name not in number:
                near = difflib.get_close_matches(name, self.class_names, n=1)
                hint = f" (did you mean {near[0]!r}?)" if near else ""
                raise InputError(
                    f"{where}.class_names does not name the class folder "
                    f"{files.join(root, name)}{hint}"
                )
        listed = _files(root, folders)
        found = [(name, file) for name, file in listed if file.lower().endswith(EXTENSIONS)]
        if unread := [file for _, file in listed if file.lower().endswith(UNREAD)]:
            raise InputError(
                f"{where}.path: {root} holds {len(unread)} photographs of a kind that cannot be "
                f"read, the first is {unread[0]}; convert them to JPEG or move them elsewhere"
            )
        if not found:
            raise InputError(
                f"{where}.path: the class folders of {root} hold no images "
                f"({', '.join(EXTENSIONS)})"
            )
        # Short strings relative to the root, for a million of them.
        self._files = [file for _, file in found]
        self._labels = np.array([number[name] for name, _ in found], np.int64)

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, i: int) -> Example:
        try:
            data = files.read(self.name_of(i))
        except OSError as error:
            raise BadExample(
                f"{self.name_of(i)}: cannot be read ({files.why(error)}); "
                "restore the file or start again without it"
            ) from error
        return {"image": data, "label": int(self._labels[i])}

    def labels(self) -> Int[np.ndarray, " n"]:
        return self._labels

    def name_of(self, i: int) -> str:
        return files.join(self._root, self._files[i])


def _root(path: str, split: str | None, where: str) -> str:
    if not files.is_dir(path):
        kind = "is not a folder" if files.exists(path) else "does not exist"
        raise InputError(f"{where}.path: {path} {kind}; give the folder of class folders")
    if not split:
        return path
    folders, _ = files.children(path)
    if split not in folders:
        names = ", ".join(folders[:10]) or "none"
        raise InputError(f"{where}.split: {path} has no folder {split!r}; its folders are: {names}")
    return files.join(path, split)


def _are_splits(root: str, folders: list[str]) -> bool:
    """Whether these look like splits with class folders inside, not like classes."""
    if not {name.lower() for name in folders} <= SPLITS:
        return False
    return all(files.children(files.join(root, name))[0] for name in folders)


def _no_classes(root: str, loose: list[str], where: str) -> str:
    images = sum(name.lower().endswith(EXTENSIONS) for name in loose)
    if images:
        return (
            f"{where}.path: {root} holds {images} images but no class folders; "
            "put the images of each class into a folder named after it"
        )
    return f"{where}.path: {root} is empty; it needs one folder of images per class"


def _files(root: str, folders: list[str]) -> list[tuple[str, str]]:
    """(class folder, path relative to the root) of every file; one listing of a store."""
    if files.is_url(root):
        listed = [(file.split("/", 1)[0], file) for file in files.walk(root) if "/" in file]
        return sorted(listed, key=lambda item: item[0])  # as locally: a class whole, then the next
    return [
        (name, files.join(name, file))
        for name in folders
        for file in files.walk(files.join(root, name))
    ]
