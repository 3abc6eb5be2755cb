"""What a run must share with what it reads: captions, vocabularies, classes, features of images;
and what its processes must share with each other.

Each check is of something that fits by its shapes and would mean something else.
"""

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from big_vit_lite import config, data, optim, parallel
from big_vit_lite.config.errors import show

OWN = re.compile(r"(data|evals)\..*path")
"""What each process may have of its own: data can lie elsewhere on each host."""


def check_processes(run: config.Run) -> None:
    """Raises InputError, in all processes of a run, unless they have one config.

    Other learning rates would train on without a word, other lengths wait for each other for ever.
    """
    first, *others = map(config.Run.from_json, parallel.gather("config", run.to_json()))
    for process, other in enumerate(others, 1):
        for key, here, there in config.differences(first, other):
            if not OWN.fullmatch(key):
                raise config.InputError(
                    f"{key} is {show(here)} in process 0 and {show(there)} in process "
                    f"{process}: give all processes the same command, config file and version."
                )


def check_lengths(examples: int, steps: int) -> None:
    """Raises InputError, in all processes of a run, unless all found as much to train on."""
    first, *others = parallel.gather("lengths", [examples, steps])
    for process, other in enumerate(others, 1):
        if other != first:
            raise config.InputError(
                f"process 0 found {first[0]:,} training examples, for {first[1]:,} steps, and "
                f"process {process} {other[0]:,}, for {other[1]:,}: all want a copy of the same "
                "data."
            )


def check_batch(run: config.Run, sizes: Sequence[int]) -> None:
    """Raises InputError if a batch wants more pairs of a source than it has: it would hold some
    twice, and a loss that tells each pair from all others has no way to tell those apart.

    Args:
        sizes: examples of data.train and of each member of data.mix.
    """
    if run.task.name == "classification":
        return
    batch, splits = run.data.batch_size, training_splits(run)
    total = sum(split.weight for _, split in splits)
    for (key, split), examples in zip(splits, sizes, strict=True):
        rows = math.floor(batch * split.weight / total)
        if rows <= examples:
            continue
        share = f", of which {rows:,} are of {key}" if len(splits) > 1 else ""
        advice = f"at most {examples:,}, better a tenth of that"
        if len(splits) > 1:
            advice = "a smaller batch, or that source less weight"
        raise config.InputError(
            f"data.batch_size is {batch:,}{share} and {key} has {examples:,} examples: a batch "
            "would hold pairs several times, each as a wrong answer to itself; give "
            f"{advice}."
        )


def check_text(run: config.Run, task) -> None:
    """Raises InputError unless the text tower can read what data.train.text makes.

    An id beyond the table would give NaN, and another end token another feature, without a word.
    """
    if run.text is None:
        return
    text, tower = task.text, run.text
    if text.vocab_size > tower.vocabulary:
        raise config.InputError(
            f"data.train.text makes ids below {text.vocab_size:,}, and text.vocabulary is "
            f"{tower.vocabulary:,}; set text.vocabulary={text.vocab_size}."
        )
    for transform, split in training_splits(run):
        other = data.text.parse(split.text, f"{transform}.text")
        if _tokens_of(other) != _tokens_of(text):
            raise config.InputError(
                f"{transform}.text and data.train.text make other tokens of a text, another number "
                "of them, or begin, end or pad texts otherwise; all texts of a run want one "
                "tokenizer, one length, and one start, end and padding."
            )
    if tower.pad_id is not None and tower.pad_id != text.pad_id:
        raise config.InputError(
            f"text.pad_id is {tower.pad_id}, but data.train.text pads with token {text.pad_id}; "
            f"set text.pad_id={text.pad_id}."
        )
    if tower.pool != "end":
        return
    if text.end_id is None:
        raise config.InputError(
            "text.pool end reads the token that ends a text, and data.train.text adds none; write "
            "tokenize(..., end=True), or set text.pool to last, gap or map."
        )
    read = text.vocab_size - 1 if tower.end_id is None else tower.end_id
    if read != text.end_id:
        raise config.InputError(
            f"text.pool end reads token {read}, but data.train.text ends texts with token "
            f"{text.end_id}; set text.end_id={text.end_id}."
        )


def _tokens_of(text) -> tuple:
    return text.fingerprint, text.length, text.start_id, text.end_id, text.pad_id


def check_vocabulary(task, meta: dict, whose: str = "the checkpoint") -> None:
    """Raises InputError if texts become other tokens here than when the towers were trained: the
    same words in the config can mean another file."""
    stored = meta.get("text")
    if stored is None or stored["fingerprint"] == task.text.fingerprint:
        return
    ours = task.text
    advice = "put that file back"
    if stored["transform"] != ours.text:
        advice = f"it read texts as {stored['transform']!r}: name the vocabulary it has there"
    raise config.InputError(
        f"{whose} was trained with the vocabulary {stored['fingerprint'][:12]}, and "
        f"data.train.text, {ours.text!r}, reads {ours.fingerprint[:12]}; {advice}."
    )


def check_marks(task, meta: dict, whose: str) -> None:
    """Raises InputError if texts begin, end or are padded otherwise than when the towers of a
    checkpoint were trained: pools read those tokens."""
    stored = meta.get("text") or {}
    names = ("start_id", "end_id", "pad_id")
    wrong = [
        f"{name} {ours} here and {stored[name]} there"
        for name in names
        if name in stored and (ours := getattr(task.text, name)) != stored[name]
    ]
    if wrong:
        raise config.InputError(
            f"{whose} was trained on texts with other tokens around them: {', '.join(wrong)}; "
            f"have data.train.text as it was, {stored['transform']!r}."
        )


def check_teacher(run: config.Run, task, meta: dict) -> None:
    """Raises InputError if a run would go on with another teacher than it had: one whose own run
    has gone on, say."""
    stored = meta.get("teacher")
    if stored is not None and task.teacher.identity != stored["identity"]:
        raise config.InputError(
            f"the run in this workdir learns from the checkpoint {stored['path']}, and "
            f"task.teacher {run.task.teacher} now holds another one, {task.teacher.path}; put that "
            "one back, or start anew in another --workdir."
        )


def check_class_names(run: config.Run, class_names: Sequence[str], meta: dict) -> None:
    """Raises InputError unless a classifier was trained on these classes, in this order."""
    if run.task.name != "classification":
        return
    stored, ours = meta["class_names"], list(class_names)
    if stored != ours:
        raise config.InputError(
            f"the checkpoint knows {len(stored)} classes ({', '.join(stored[:3])} ...), data.train "
            f"has {len(ours)} ({', '.join(ours[:3])} ...); use data with the same classes in order."
        )


def check_locked(run: config.Run, abstract_params: Any) -> None:
    """Raises InputError unless an image tower of which the data holds features stays as it is: no
    gradient reaches it, and decay alone would wear it away."""
    factors = optim.multipliers(abstract_params, run.optim.lr_rules, "optim.lr_rules")
    leaves = jax.tree_util.tree_leaves_with_path(factors["img"])
    moving = [parallel.path_name(path) for path, x in leaves if np.any(np.asarray(x) != 0)]
    if moving:
        raise config.InputError(
            f"data.train holds features of images, which give img/{moving[0]} no gradient, and "
            'weight decay would wear it away: lock the tower, optim.lr_rules=(("^img/", 0.0), '
            '(".*", 1.0)).'
        )


def check_statistics(run: config.Run, abstract_params: Any) -> None:
    """Raises InputError unless batch norms that the rules lock are frozen: they would go on taking
    the statistics of each batch, and change the stored ones."""
    if run.model.batch_norm != "batch":
        return
    factors = optim.multipliers(abstract_params, run.optim.lr_rules, "optim.lr_rules")
    marked = zip(*map(jax.tree.leaves, (factors, optim.statistics(abstract_params))), strict=True)
    if any(statistic and np.all(np.asarray(factor) == 0) for factor, statistic in marked):
        raise config.InputError(
            "optim.lr_rules lock batch norms of the image tower, and model.batch_norm is batch, "
            "with which these would go on changing; set model.batch_norm=frozen."
        )


def check_new(run: config.Run, of_features: bool) -> None:
    """Raises InputError where a run without `init` could only have meant to have one: its data
    holds features of a tower, or its batch norms are frozen before they have seen anything."""
    if of_features:
        check_features(run, None)
    if run.model.variant.startswith("RN") and run.model.batch_norm == "frozen":
        raise config.InputError(
            "model.batch_norm is frozen and there is no init: batch norms would keep statistics of "
            "no image; set model.batch_norm=batch, or name trained parameters in init."
        )


def check_features(run: config.Run, tower: Mapping[str, Any] | None) -> None:
    """Raises InputError where features of images were made otherwise than this run says, as far as
    the folder that holds them tells.

    Args:
        tower: the run's image tower by path, layers side by side; None: a new one.
    """
    for key, split in training_splits(run):
        made = data.made_by(split)
        if made is None:
            continue
        if tower is None:
            raise config.InputError(
                f"{key} holds features of the image tower {made['tower']}, and this run has a new "
                "one: name that tower in init."
            )
        ours = {
            "mean": ("data.mean", list(run.data.mean)),
            "std": ("data.std", list(run.data.std)),
            "projections": ("joint.projections", run.joint.projections),
        }
        for name, (field, value) in ours.items():
            if made.get(name, value) != value:
                raise config.InputError(
                    f"{field} is {value}, and the features of {key} were computed with "
                    f"{made[name]}; set it so, or compute them anew."
                )
        if not parallel.several() and digest(tower) not in str(made["tower"]):
            raise config.InputError(
                f"{key} holds features of the image tower {made['tower']}, and init = "
                f"{run.init!r} is another one: name that tower, or compute them anew."
            )


def training_splits(run: config.Run) -> list[tuple[str, config.Split]]:
    """data.train and what is mixed into it, with their keys."""
    mixed = ((f"data.mix.{name}", split) for name, split in run.data.mix.items())
    return [("data.train", run.data.train), *mixed]


def digest(leaves: Mapping[str, Any]) -> str:
    """Of arrays by path: 16 hex digits."""
    found = hashlib.sha256()
    for name, leaf in sorted(leaves.items()):
        found.update(f"{name} {leaf.shape}\n".encode())
        found.update(np.ascontiguousarray(leaf))
    return found.hexdigest()[:16]
