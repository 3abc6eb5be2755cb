"""Models by their name on the hub: what is fetched of them, and what is told where it fails."""

import os
import re
import subprocess
import sys

import huggingface_hub
import pytest
from huggingface_hub import errors

import big_vit_lite as bvl
from big_vit_lite.config import InputError
from big_vit_lite.weights import hub


def test_only_the_files_that_are_needed_are_fetched(monkeypatch, tmp_path):
    asked = []

    def download(repository, revision=None, allow_patterns=None):
        asked.append((repository, revision, allow_patterns))
        (tmp_path / "model.safetensors").write_bytes(b"")
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert hub.fetch("openai/any@v1.0") == tmp_path
    [(repository, revision, patterns)] = asked
    assert (repository, revision) == ("openai/any", "v1.0")
    assert {"config.json", "preprocessor_config.json", "model.safetensors"} < set(patterns)
    assert not any(pattern.startswith("pytorch_model") for pattern in patterns)
    (tmp_path / "model.safetensors").unlink()

    def old(repository, revision=None, allow_patterns=None):
        if "pytorch_model.bin" in allow_patterns:
            (tmp_path / "pytorch_model.bin").write_bytes(b"")
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", old)
    assert hub.fetch("org/old") == tmp_path
    (tmp_path / "pytorch_model.bin").unlink()
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(tmp_path))
    with pytest.raises(InputError, match="org/old: the hub, or its cache .* holds none of model"):
        bvl.load("org/old")


def http(kind):
    return kind.__new__(kind)  # its constructor wants a response


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (http(errors.GatedRepoError), "only to who accepts its conditions: do so at https://"),
        (http(errors.RevisionNotFoundError), "org/name has no revision 'v2': see the branches"),
        (http(errors.RepositoryNotFoundError), "no file or folder here and no model on the hub"),
        (
            errors.LocalEntryNotFoundError("outgoing traffic has been disabled"),
            r"org/name is not here, not in the hub's cache, .*LocalEntryNotFoundError: outgoing.*"
            "go online, or give a local folder",
        ),
        (RuntimeError("no route"), r"cannot be fetched \(RuntimeError: no route\): go online"),
    ],
)
def test_the_hubs_refusals_say_what_to_do(error, told, monkeypatch):
    def refuse(*_, **__):
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(InputError, match=told):
        bvl.load("org/name@v2")


def test_what_the_library_says_first_is_told_whole(monkeypatch):
    first = "Cannot find a snapshot for v1.0 of the model, and outgoing traffic is disabled"

    def refuse(*_, **__):
        raise errors.LocalEntryNotFoundError(f"{first}. To enable it, set 'HF_HUB_OFFLINE=0'" * 9)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    told = re.escape(f"fetched (LocalEntryNotFoundError: {first}): go online, or give a local")
    with pytest.raises(InputError, match=told):
        bvl.load("org/name")

    def long(*_, **__):
        raise RuntimeError("words " * 99)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", long)
    with pytest.raises(InputError, match=r"\(RuntimeError: (words ){32}\.\.\.\): go online"):
        bvl.load("org/name")


def test_without_the_hubs_library_its_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(InputError, match=r'pip install "big_vit_lite\[hub\]", or give a local'):
        bvl.load("org/name")


def test_offline_with_an_empty_cache_is_one_sentence(tmp_path):
    """The library itself, in a process where nothing else has imported parts of it."""
    code = """
import big_vit_lite as bvl
try:
    bvl.load("openai/clip-vit-base-patch32")
except ValueError as error:
    print(type(error).__name__, error)
"""
    offline = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=offline, capture_output=True, text=True, timeout=120)
    told = "InputError openai/clip-vit-base-patch32 is not here, not in the hub's cache, and cannot"
    assert done.stdout.startswith(told), done.stdout + done.stderr
    assert done.stdout.strip().endswith("go online, or give a local folder.")
