"""What contrastive tasks want of the other sections: every fault in one sentence."""

import pytest

from big_vit_lite import checks, config

TEXT = "lower|tokenize('bytes')|truncate(8)|pad(8)"


@pytest.fixture
def pairs():
    digits = {"source": "digit_pairs", "transform": "decode(channels=1)"}
    return {
        "steps": 100,
        "model": {"variant": "mu/4", "channels": 1},
        "text": {"variant": "mu", "vocabulary": 259, "end_id": 258},
        "task": {"name": "contrastive"},
        "data": {"batch_size": 8, "train": dict(digits, text=TEXT), "val": dict(digits)},
        "evals": {"val": {"type": "retrieval"}},
    }


def faults(values, overrides=()):
    try:
        config.load(values, overrides, checks.STATIC)
    except config.InputError as error:
        return [str(fault) for fault in error.faults]
    return []


def test_a_pair_of_towers_is_valid(pairs):
    assert faults(pairs) == []


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (
            {"text": "none"},
            "text: is missing; task contrastive wants a text tower, such as text.variant=M",
        ),
        (
            {"data.train.text": ""},
            "data.train.text: is missing; task contrastive learns from captions: "
            "\"tokenize('clip')|truncate(77)|pad(77)\" for CLIP",
        ),
        (
            {"decoder.queries": "4"},
            "decoder: has no use in task contrastive; take it away, or set task.name=coca",
        ),
        (
            {"task.name": "coca"},
            "decoder: is missing; task coca wants a caption decoder, such as decoder.queries=256",
        ),
        (
            {"task.name": "coca", "joint.projections": "none"},
            'joint.projections = "none": must be both in task coca, whose towers '
            "are both projected",
        ),
        (
            {"task.name": "coca"},
            "text.pad_id: is missing; task coca predicts no padding: give the id with which "
            "data.train.text pads, 0 for CLIP's vocabulary",
        ),
        (
            {"task.loss": "sigmoid"},
            "joint.logit_bias: is missing; task.loss sigmoid wants one: -10 as SigLIP has it, or 0",
        ),
        (
            {"task.loss": "sigmoid", "joint.logit_bias": "0", "task.label_smoothing": "0.1"},
            "task.label_smoothing = 0.1: is for task.loss softmax; sigmoid has no distribution to "
            "smooth",
        ),
        (
            {"task.mixup": "0.2"},
            "task.mixup = 0.2: has a meaning for task classification only",
        ),
        (
            {"task.caption_weight": "1"},
            "task.caption_weight = 1.0: has a meaning for task coca only",
        ),
        (
            {"task.hardness": "1", "task.semi_hard": "0.2"},
            "task.semi_hard = 0.2: chooses negatives, and so does task.hardness; give one of them",
        ),
        (
            {"model.classes": "10"},
            "model.classes = 10: has no use in task contrastive, whose images have features; see "
            "joint.features",
        ),
        (
            {"task.progressive": "((20, 8), ('10%', 12))"},
            "task.progressive = ((20, 8), ('10%', 12)): wants each point of the run after the one "
            "before it",
        ),
        (
            {"data.train.repeats": "3"},
            "data.train.repeats = 3: puts a pair into a batch several times, each as a wrong "
            "answer to itself; leave it at 1 for task contrastive",
        ),
        (
            {"text.heads": "3"},
            "text.heads = 3: width 32 does not divide by 3 heads; use 2 heads or width 33",
        ),
        (
            {"text.variant": "Big"},
            "text.variant = \"Big\": 'Big' is no size; did you mean 'B'? Sizes are mu, Ti, S, M, "
            "B, L, So400m, H, g, g-opt, G, G-opt, e.",
        ),
        (
            {"data.train.text": "tokenize('no.model')|pad(8)"},
            "data.train.text = \"tokenize('no.model')|pad(8)\": tokenize: no.model is not there; "
            "name the vocabulary's file",
        ),
        (
            {"optim.parts.img.match": "("},
            'optim.parts.img.match = "(": is no regular expression: missing ), unterminated '
            "subpattern at position 0",
        ),
    ],
)
def test_one_sentence_each(pairs, overrides, line):
    assert line in faults(pairs, overrides)


def test_resnets_and_batch_statistics(pairs):
    resnet = {"model.variant": "RN50", "data.train.transform": "decode(channels=1)|resize(32)"}
    resnet["data.val.transform"] = resnet["data.train.transform"]
    assert faults(pairs, resnet) == []
    parts = resnet | {"model.batch_norm": "batch", "optim.accumulate": "2"}
    assert faults(pairs, parts) == [
        "optim.accumulate = 2: must be 1: model.batch_norm batch takes the statistics of the whole "
        "batch"
    ]
    assert any("has none; use 1" in line for line in faults(pairs, resnet | {"mesh.stage": "2"}))


def test_a_classifier_has_no_text_tower(values):
    line = "text: has no use in task classification; take it away, or set task.name=contrastive"
    assert line in faults(values, {"text.variant": "mu"})
    assert "task.hardness = 1.0: has a meaning for task contrastive and coca only" in faults(
        values, {"task.hardness": "1"}
    )


def test_how_a_loss_is_walked_may_change_on_resume(pairs):
    run = config.load(pairs)
    config.check_resume(run, config.load(pairs, {"task.form": "ring", "task.chunk": "64"}))
    with pytest.raises(config.InputError, match=r"task\.hardness"):
        config.check_resume(run, config.load(pairs, {"task.hardness": "1"}))
