"""Published models by their name on the Hugging Face hub: the files that loading needs."""

import re
import textwrap
from pathlib import Path

from big_vit_lite.config import InputError
from big_vit_lite.weights.files.source import SUFFIXES, holds_weights

NAME = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")
"""org/name, or org/name@revision."""
BESIDE = (
    "config.json", "preprocessor_config.json", "open_clip_config.json", "merges.txt",
    "tokenizer.json", "spiece.model", "tokenizer.model",
)  # fmt: skip
WEIGHTS = (
    ("model.safetensors", "model.safetensors.index.json", "model-*-of-*.safetensors"),
    ("open_clip_model.safetensors",),
    ("*.npz",),
    ("pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model-*-of-*.bin"),
    ("open_clip_pytorch_model.bin",),
)
"""One model lies on the hub in several layouts: the first that is there is fetched, no other."""


def locate(source: str | Path) -> Path | None:
    """Where the published weights of a name lie: a file or folder here, or, where nothing of that
    name is here, a folder that the hub gave. None for all else, such as a checkpoint of ours.

    Raises:
        InputError: see `fetch`.
    """
    name = str(source)
    here = Path(name).expanduser()
    if holds_weights(here):
        return here
    if here.is_dir():
        return here if any(path.suffix in SUFFIXES for path in here.iterdir()) else None
    if "://" in name or not NAME.fullmatch(name):
        return None
    return fetch(name)


def fetch(name: str) -> Path:
    """The folder in the hub's cache that holds the model `name`, fetched where it is not there.

    Only weights and what is read beside them are fetched. HF_HOME, HF_HUB_OFFLINE and the other
    variables of huggingface_hub hold.

    Args:
        name: org/name, or org/name@revision with a branch, tag or commit.

    Raises:
        InputError: the library is not installed, there is no such model, it may not be read, or the
            hub cannot be reached and the cache does not hold it.
    """
    try:
        import huggingface_hub.errors
    except ImportError:
        raise InputError(
            f"{name} is not here, and to fetch it from the hub takes huggingface_hub: "
            'pip install "big_vit_lite[hub]", or give a local folder.'
        ) from None
    repository, _, revision = name.partition("@")
    folder = None
    for patterns in WEIGHTS:
        folder = _snapshot(huggingface_hub, repository, revision or None, [*BESIDE, *patterns])
        if holds_weights(folder):
            return folder
    raise InputError(
        f"{name}: the hub, or its cache where the hub cannot be reached, holds none of "
        f"{', '.join(p for patterns in WEIGHTS for p in patterns)}: give a local file of weights."
    )


def _snapshot(library, repository: str, revision: str | None, patterns: list[str]) -> Path:
    errors = library.errors
    page = f"https://huggingface.co/{repository}"
    try:
        return Path(
            library.snapshot_download(repository, revision=revision, allow_patterns=patterns)
        )
    except errors.GatedRepoError:
        raise InputError(
            f"{repository} is given only to who accepts its conditions: do so at {page}, and log "
            "in with `hf auth login`."
        ) from None
    except errors.RevisionNotFoundError:
        raise InputError(
            f"{repository} has no revision {revision!r}: see the branches and tags at {page}."
        ) from None
    except (errors.RepositoryNotFoundError, errors.HFValidationError):
        raise InputError(
            f"{repository} is no file or folder here and no model on the hub: check the spelling "
            f"at {page}, and log in with `hf auth login` if it is private."
        ) from None
    except Exception as error:  # httpx's, requests', the file system's: they have no common base
        # What the library says first; behind it is what to do, which is said here.
        first, *_ = re.split(r"(?<=[.!?])\s", " ".join(str(error).split()))
        reason = textwrap.shorten(first.rstrip("."), 200, placeholder=" ...")
        raise InputError(
            f"{repository} is not here, not in the hub's cache, and cannot be fetched "
            f"({type(error).__name__}: {reason}): go online, or give a local folder."
        ) from None
