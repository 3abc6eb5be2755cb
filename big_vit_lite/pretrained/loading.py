"""load: from a file, a checkpoint of ours or a hub's name to a model that answers."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from big_vit_lite import weights
from big_vit_lite.config import InputError
from big_vit_lite.data import text as text_transforms
from big_vit_lite.data import transforms
from big_vit_lite.pretrained import checkpoints, classes, texts
from big_vit_lite.pretrained.model import Pretrained

_SOURCES = (
    "a file or folder of published weights, a run's --workdir or checkpoint, or a name on the hub "
    'such as "openai/clip-vit-base-patch32"'
)


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
    class_names: str | Path | Sequence[str] | None = None,
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
        class_names: of a classifier, in the order of its logits, in place of what the source says:
            a published set such as "imagenet", a file with one a line, or the names.

    Raises:
        InputError: nothing is there, the hub cannot be reached, the weights do not fit or do not
            say what model they are of, or an argument is wrong.
    """
    found = _found(source, layout, known, None if vocabulary is None else str(vocabulary))
    names = found.class_names
    if class_names is not None:
        names = classes.named(class_names, found.sections, found.path)
    sections = checkpoints.side_by_side(found.sections)
    return Pretrained(
        model=sections.build(),
        params=jax.tree.map(jnp.asarray, found.params),
        sections=found.sections,
        preprocessing=_preprocessing(found, transform, mean, std),
        text=_text(found, text, vocabulary),
        class_names=names,
        loss=found.loss,
        source=str(found.path),
        fingerprint=found.fingerprint,
    )


def _found(source: str | Path, layout, known, vocabulary: str | None) -> checkpoints.Found:
    name = str(source)
    if not name.strip():
        raise InputError(f"the model's name is empty: give {_SOURCES}.")
    if (published := weights.locate(name)) is not None:
        return _published(published, layout, known, vocabulary)
    if not Path(name).expanduser().is_dir() and "://" not in name:
        raise InputError(f"{name} is not there: give {_SOURCES}.")
    if layout is not None or known is not None:
        raise InputError(
            f"{name} holds no published weights, for which layout= and known= are: leave them out."
        )
    return checkpoints.read(name)


def _published(path: Path, layout, known, vocabulary: str | None) -> checkpoints.Found:
    loaded = weights.load(path, layout, known).encoder()
    return checkpoints.Found(
        sections=loaded.sections,
        params=loaded.params,
        preprocessing=loaded.preprocessing,
        text=texts.published(loaded, vocabulary),
        fingerprint=None,
        class_names=loaded.class_names,
        loss=classes.loss(loaded),
        path=loaded.path,
        fault=loaded.preprocessing_fault,
    )


def _preprocessing(found, transform, mean, std) -> weights.Preprocessing | None:
    """What the source says, with what was given in its place.

    Raises:
        InputError: a wrong transform, or one of the three without the others where the source says
            nothing.
    """
    said = found.preprocessing
    if transform is None and mean is None and std is None:
        if found.fault:
            raise InputError(found.fault)
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
    numbers = {
        name: getattr(said, name) if given[name] is None else _numbers(name, given[name], channels)
        for name in ("mean", "std")
    }
    return weights.Preprocessing(said.transform if transform is None else transform, **numbers)


def _numbers(name: str, given: Any, channels: int) -> tuple[float, ...]:
    """One for each channel.

    Raises:
        InputError: another number of them, or what no pixels have.
    """
    try:
        numbers = tuple(float(x) for x in np.ravel(np.asarray(given, np.float64)))
    except (TypeError, ValueError):
        raise InputError(
            f"{name}= {given!r} is no list of numbers: give one for each channel."
        ) from None
    if len(numbers) not in (1, channels):
        raise InputError(
            f"{name}= has {len(numbers)} numbers, and the images {channels} channels: give one for "
            "each."
        )
    if not all(math.isfinite(x) and (x > 0 or name == "mean") for x in numbers):
        wanted = "finite" if name == "mean" else "finite and above 0"
        raise InputError(
            f"{name}= {', '.join(f'{x:g}' for x in numbers)}: pixels are "
            f"{'shifted' if name == 'mean' else 'divided'} by it: give numbers that are {wanted}."
        )
    return checkpoints.each(numbers, channels)


def _text(found: checkpoints.Found, text: str | None, vocabulary: str | Path | None) -> str | None:
    """The text transform, that which is given before the source's own.

    Raises:
        InputError: there is no text tower, or what is given is no transform, has a vocabulary that
            is not there, or makes other tokens than the tower reads.
    """
    given = [
        f"{name}=" for name, x in (("text", text), ("vocabulary", vocabulary)) if x is not None
    ]
    tower = found.sections.text
    if given and tower is None:
        raise InputError(
            f"{found.path} is an image tower alone and reads no texts, for which "
            f"{' and '.join(given)} would be: leave out what is for texts."
        )
    chain = found.text if text is None else text
    if vocabulary is not None:
        if chain is None:
            raise InputError(
                f"{found.path} does not say how texts become tokens, so that vocabulary= has no "
                "place: give the whole transform as text= instead."
            )
        chain = texts.with_vocabulary(chain, str(vocabulary))
    if tower is None or chain is None:
        return None
    length = text_transforms.length(chain)
    if tower.length is not None and length > tower.length:
        raise InputError(
            f"text= {chain!r} makes {length} tokens, and the text tower reads {tower.length}: end "
            f"it with truncate({tower.length})|pad({tower.length})."
        )
    if given:  # the source's own is read when a text is
        texts.parse(chain, tower, found.fingerprint)
    return chain
