"""Choice tasks: which caption fits, where the wrong one differs by a word or by their order.

Of one image and some captions (SugarCrepe, Hsieh 2023) the right caption must score higher than
every other. Of two images and two captions (Winoground, Thrush 2022), with s(c, i) the score:

    text   s(c0, i0) > s(c1, i0)  and  s(c1, i1) > s(c0, i1)
    image  s(c0, i0) > s(c0, i1)  and  s(c1, i1) > s(c1, i0)
    group  both

Ties lose. Chance is 1 / captions, and 1/4, 1/4 and 1/6.
"""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from big_vit_lite import config, data
from big_vit_lite.evals.choices_file import Choice, read_choices
from big_vit_lite.evals.features import Features
from big_vit_lite.evals.ranking import TIE
from big_vit_lite.evals.zero_shot import tokenized


def prepare(setting) -> tuple[Any, "Evaluation"]:
    """The stream of the images and the evaluation of a run's evaluation; see evals.Setting.

    Raises:
        InputError: a file that cannot be read, or a caption that the text transform cannot take.
    """
    options, key = setting.options, f"evals.{setting.name}"
    choices = read_choices(options.file, options.images, key)
    paths = list(dict.fromkeys(image for choice in choices for image in choice.images))
    if options.transform is not None:
        transform, where = options.transform, key
    else:
        transform, where = setting.run.data.val.transform, "data.val"
    stream = data.file_stream(
        paths, transform, setting.batch_size, setting.mesh, setting.run.data, where
    )
    return stream, Evaluation(setting.shared_features(), choices, paths, f"{key}.file")


class Evaluation:
    """Accuracy of choices; see the module.

    Args:
        paths: of the images of the stream, in its order.
        key: the field of the config that names the choices, for error texts.
    """

    def __init__(
        self, features: Features, choices: Sequence[Choice], paths: Sequence[str], key: str
    ):
        self._features, self._choices = features, choices
        self._captions = list(dict.fromkeys(c for choice in choices for c in choice.captions))
        self._tokens = tokenized(features.task.text, self._captions, ("{}",), key)
        self._image_at = {path: i for i, path in enumerate(paths)}
        self._caption_at = {caption: i for i, caption in enumerate(self._captions)}
        self.notes = self._alike(key)

    def _alike(self, key: str) -> list[str]:
        """A line about choices that nobody can get right, if there are any."""
        read = {caption: self._tokens[i].tobytes() for caption, i in self._caption_at.items()}
        lost = [c for c in self._choices if len({read[x] for x in c.captions}) < len(c.captions)]
        if not lost:
            return []
        return [
            f"{key}: {len(lost):,} of {len(self._choices):,} choices have captions that are the "
            f"same to the text tower, as they are cut or their words unknown, and count as wrong: "
            f"{lost[0].name}, say"
        ]

    def run(
        self,
        params: Any,
        stream,
        predictions: Path | None = None,
        skipped: Callable[[tuple], None] = lambda found: None,
    ) -> dict[str, float]:
        """Shares of choices that are right: accuracy of those with one image, text, image and group
        of those with two, and CATEGORY/accuracy and so on where there are categories.

        Args:
            predictions: a file that gets a JSON line a choice: name, category, captions, scores (a
                row an image), and what is right.
            skipped: gets images that cannot be used; choices with them count nowhere.

        Raises:
            RunError: as features.check_seen, or no choice is left.
        """
        images, _ = self._features.of_images(params, stream, skipped)
        texts = self._features.of_texts(params, self._tokens, stream).astype(np.float64)
        row = {int(index): k for k, index in enumerate(images.index)}
        lines, outcomes = [], {}
        for choice in self._choices:
            rows = [row.get(self._image_at[image]) for image in choice.images]
            if None in rows:
                continue
            captions = texts[[self._caption_at[c] for c in choice.captions]]
            scores = images.features[rows].astype(np.float64) @ captions.T
            right = judge(scores, choice.answer)
            lines.append(_line(choice, scores, right))
            for name, value in right.items():
                outcomes.setdefault(name, []).append(value)
                if choice.category:
                    category = re.sub(r"[\s/]+", "_", choice.category)
                    outcomes.setdefault(f"{category}/{name}", []).append(value)
        if not lines:
            raise config.RunError(
                f"none of the {len(self._choices)} choices can be judged: each has an image that "
                "cannot be used."
            )
        if predictions is not None:
            with predictions.open("w") as file:
                file.writelines(json.dumps(line) + "\n" for line in lines)
        return {name: float(np.mean(values)) for name, values in outcomes.items()}


def judge(scores: Float[np.ndarray, "images captions"], answer: int = 0) -> dict[str, bool]:
    """What is right by scores of one or two images; ties lose, and so does NaN."""

    def higher(a: float, b: float) -> bool:
        return bool(a > b + TIE)

    if len(scores) == 1:
        others = np.delete(scores[0], answer)
        return {"accuracy": all(higher(scores[0, answer], other) for other in others)}
    (c0i0, c1i0), (c0i1, c1i1) = scores
    text = higher(c0i0, c1i0) and higher(c1i1, c0i1)
    image = higher(c0i0, c0i1) and higher(c1i1, c1i0)
    return {"text": text, "image": image, "group": text and image}


def _line(choice: Choice, scores: np.ndarray, right: dict[str, bool]) -> dict:
    shown = [[round(float(s), 6) if np.isfinite(s) else None for s in row] for row in scores]
    return {
        "name": choice.name,
        "category": choice.category,
        "captions": choice.captions,
        "scores": shown,
        "right": right,
    }
