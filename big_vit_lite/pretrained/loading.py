"""load: from a file, a checkpoint of ours or a hub's name to a model that answers."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from big_vit_lite import weights
from big_vit_lite.config import InputError
from big_vit_lite.data import text as text_transforms
from big_vit_lite.data import transforms
from big_vit_lite.pretrained import checkpoints, hub, texts
from big_vit_lite.pretrained.model import Pretrained
from big_vit_lite.weights.files.source import SUFFIXES


def load(
    source: str | Path,
    layout: str | None = None,
    known: Mapping[str, Any] | None = None,
    *,
    transform: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    text: str | None = None,
    vocabulary: str | Path | None = None,
) -> Pretrained:
    """A model with parameters, preprocessing and tokenizer, ready to encode.

    Of a masked autoencoder it is the encoder; weights.load gives the decoder of pixels, too.

    Args:
        source: a file of published weights or a folder as the hub has it; a run's --workdir, its
            checkpoints/ or one checkpoint in it, here or on a store, of which the averaged weights
            are taken where there are any; or a name on the Hugging Face hub, "org/name" or
            "org/name@revision" (extra hub). What is here goes before the hub.
        layout, known: for published weights, see weights.load.
        transform, mean, std: of images, in place of what the source says: a chain such as
            "decode|resize(224, 'bicubic')", and statistics of pixels in [0, 1].
        text: the whole text transform, such as "lower|tokenize('bytes')|truncate(64)|pad(64)".
        vocabulary: file of the tokenizer that the text transform names, where it lies elsewhere: a
            tokenizer.json, spiece.model, merges.txt or bpe_simple_vocab_16e6.txt.gz. None: one
            beside the weights, or for CLIP that of an installed package.

    Raises:
        InputError: nothing is there, the hub cannot be reached, the weights do not fit or do not
            say what model they are of, or an argument is wrong.
    """
    found = _found(source, layout, known, None if vocabulary is None else str(vocabulary))
    text = text or found.text
    if text is not None and vocabulary is not None:
        text = texts.with_vocabulary(text, str(vocabulary))
    _check_text(text, found.sections)
    sections = checkpoints.side_by_side(found.sections)
    return Pretrained(
        model=sections.build(),
        params=jax.tree.map(jnp.asarray, found.params),
        sections=found.sections,
        preprocessing=_preprocessing(found, transform, mean, std),
        text=text,
        class_names=found.class_names,
        loss=found.loss,
        source=str(found.path),
        fingerprint=found.fingerprint,
    )


def _found(source: str | Path, layout, known, vocabulary: str | None) -> checkpoints.Found:
    name = str(source)
    here = Path(name).expanduser()
    if weights.holds_weights(here) or (here.is_dir() and _weights_in(here)):
        return _published(here, layout, known, vocabulary)
    if not here.is_dir() and "://" not in name:
        if not hub.NAME.fullmatch(name):
            raise InputError(
                f"{name} is not there: give a file or folder of published weights, a run's "
                "--workdir or checkpoint, or a name on the hub such as "
                '"openai/clip-vit-base-patch32".'
            )
        return _published(hub.fetch(name), layout, known, vocabulary)
    if layout is not None or known is not None:
        raise InputError(
            f"{name} holds no published weights, for which layout= and known= are: leave them out."
        )
    return checkpoints.read(name)


def _weights_in(folder: Path) -> bool:
    return any(path.suffix in SUFFIXES for path in folder.iterdir())


def _published(path: Path, layout, known, vocabulary: str | None) -> checkpoints.Found:
    loaded = weights.load(path, layout, known).encoder()
    return checkpoints.Found(
        sections=loaded.sections,
        params=loaded.params,
        preprocessing=loaded.preprocessing,
        text=texts.published(loaded, vocabulary),
        fingerprint=None,
        class_names=_class_names(loaded),
        loss="softmax",
        path=loaded.path,
    )


def _class_names(loaded: weights.Loaded) -> tuple[str, ...] | None:
    """Names in the config.json beside weights, as transformers (id2label) and timm have them."""
    classes, path = loaded.sections.model.classes or 0, loaded.path.parent / "config.json"
    if loaded.sections.text is not None or not classes or not path.is_file():
        return None
    about = json.loads(path.read_text())
    cfg = about.get("pretrained_cfg") or {}
    names = about.get("label_names") or cfg.get("label_names") or about.get("id2label") or ()
    if isinstance(names, dict):
        names = [names.get(str(i)) for i in range(len(names))]
    told = all(isinstance(n, str) and n != f"LABEL_{i}" for i, n in enumerate(names))
    return tuple(names) if told and len(names) == classes else None


def _preprocessing(found, transform, mean, std) -> weights.Preprocessing | None:
    """What the source says, with what was given in its place.

    Raises:
        InputError: a wrong transform, or one of the three without the others where the source says
            nothing.
    """
    said = found.preprocessing
    if transform is None and mean is None and std is None:
        return said
    given = {"transform": transform, "mean": mean, "std": std}
    missing = [f"{name}=" for name, value in given.items() if value is None]
    if said is None and missing:
        raise InputError(
            f"{found.path} does not say how images were preprocessed: give {' and '.join(missing)} "
            "as well."
        )
    if transform is not None:
        transforms.parse(transform)
    channels = found.sections.model.channels
    for name in ("mean", "std"):
        if given[name] is not None and len(given[name]) not in (1, channels):
            raise InputError(
                f"{name}= has {len(given[name])} numbers, and the images {channels} channels: give "
                "one for each."
            )
    return weights.Preprocessing(
        transform or said.transform, tuple(mean or said.mean), tuple(std or said.std)
    )


def _check_text(text: str | None, sections: weights.Sections) -> None:
    """Raises InputError for a transform that is none, or makes more tokens than the tower reads."""
    if text is None or sections.text is None:
        return
    length = text_transforms.length(text)
    if sections.text.length is not None and length > sections.text.length:
        raise InputError(
            f"text= {text!r} makes {length} tokens, and the text tower reads {sections.text.length}"
            f": end it with truncate({sections.text.length})|pad({sections.text.length})."
        )
