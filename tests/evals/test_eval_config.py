"""What a config may say of evaluations: fields by type, tasks, names of metrics."""

import pytest

from big_vit_lite import checks, config

SPLIT = {"source": "digits", "transform": "decode(channels=1)"}


def faults_of(evaluation, val=SPLIT, checked=(), **fields):
    values = {
        "steps": 100,
        "model": {"variant": "mu/2", "channels": 1},
        "data": {"batch_size": 8, "train": SPLIT, "val": val},
        "evals": {"e": evaluation},
        **fields,
    }
    with pytest.raises(config.InputError) as caught:
        config.load(values, (), checked)
    return str(caught.value).splitlines()


@pytest.mark.parametrize(
    ("evaluation", "line"),
    [
        (
            {"prompts": ("a {}",)},
            "evals.e.prompts = ('a {}',): has a meaning only where evals.e.type is zero_shot; "
            "leave it out",
        ),
        (
            {"type": "retrieval", "class_names": "imagenet"},
            'evals.e.class_names = "imagenet": has a meaning only where evals.e.type is zero_shot; '
            "leave it out",
        ),
        (
            {"type": "zero_shot", "images": "x"},
            'evals.e.images = "x": has a meaning only where evals.e.type is choices; leave it out',
        ),
        (
            {"type": "choices"},
            "evals.e.file: is missing; type choices wants the JSON file of the choices, or a "
            "folder of them",
        ),
        (
            {"type": "choices", "file": "x", "data": SPLIT},
            "evals.e.data: has no meaning where the type is choices: file and images say what is "
            "read",
        ),
        (
            {"type": "zero_shot"},
            'evals.e.type = "zero_shot": does not fit task.name classification, which has no text '
            "tower; use classification",
        ),
        (
            {"type": "retrieval"},
            'data.val.source = "digits": has no captions to find; use table, tar, parquet, '
            "arrayrecord or tfds",
        ),
        (
            {"type": "retrieval", "beams": 3},
            "evals.e.beams = 3: has a meaning only where evals.e.type is captions; leave it out",
        ),
        (
            {"type": "captions"},
            'data.val.source = "digits": has no captions to predict; use table, tar, parquet, '
            "arrayrecord or tfds",
        ),
        (
            {"type": "captions", "beams": 0},
            "evals.e.beams = 0: wants an int >= 1",
        ),
        (
            {"type": "retrieval", "data": SPLIT},
            'evals.e.data.source = "digits": has no captions to find; use table, tar, parquet, '
            "arrayrecord or tfds",
        ),
    ],
)
def test_fields_that_do_not_fit_the_type(evaluation, line):
    assert line in faults_of(evaluation)


def test_choices_need_a_transform_and_files_that_are_there(tmp_path):
    lines = faults_of({"type": "choices", "file": "nowhere.json"}, val=None)
    assert (
        "evals.e.transform: is missing, and so is data.val, whose transform would stand in" in lines
    )
    given = {"type": "choices", "file": "nowhere.json", "images": str(tmp_path), "transform": "x"}
    lines = faults_of(given, checked=checks.STATIC)
    assert 'evals.e.file = "nowhere.json": is not there; give the JSON file of the choices' in lines
    assert any(line.startswith('evals.e.transform = "x": ') for line in lines)
    assert not any(line.startswith("evals.e.images") for line in lines)


@pytest.mark.parametrize(
    ("kind", "metric", "hint"),
    [
        ("zero_shot", "e/mean_per_clas", '; did you mean "e/mean_per_class"?'),
        ("retrieval", "e/image_to_text/r2", '; did you mean "e/image_to_text/r'),
        ("choices", "e/accurracy", '; did you mean "e/accuracy"?'),
        ("classification", "e/topp1", '; did you mean "e/top1"?'),
        ("captions", "e/perplexty", '; did you mean "e/perplexity"?'),
        ("captions", "e/exact", '; did you mean "e/perplexity"?'),  # with predictions only
    ],
)
def test_the_best_checkpoint_is_chosen_by_a_metric_that_the_type_has(kind, metric, hint):
    lines = faults_of({"type": kind}, checkpoint={"keep_best": metric})
    wanted = f'checkpoint.keep_best = "{metric}": wants a metric of an evaluation{hint}'
    assert any(line.startswith(wanted) for line in lines), lines


@pytest.mark.parametrize(
    ("kind", "metric"),
    [
        ("zero_shot", "e/ema/top5"),
        ("retrieval", "e/text_to_image/r1"),
        ("retrieval", "e/ema/image_to_text/median_rank"),
        ("choices", "e/swap_att/accuracy"),
        ("choices", "e/group"),
        ("captions", "e/ema/nll"),
    ],
)
def test_metrics_of_all_types_are_known(kind, metric):
    wrong = {"steps": None, "checkpoint": {"keep_best": metric}}
    assert not any("keep_best" in line for line in faults_of({"type": kind}, **wrong))


def test_captions_want_a_decoder():
    fields = {"task": {"name": "contrastive"}, "text": {"variant": "mu"}}
    lines = faults_of({"type": "captions"}, **fields)
    assert (
        'evals.e.type = "captions": does not fit task.name contrastive, which has no caption '
        "decoder; use retrieval, or set task.name=coca"
    ) in lines
    written = {"type": "captions", "predictions": True}
    lines = faults_of(written, checkpoint={"keep_best": "e/exact"})
    assert not any("keep_best" in line for line in lines)
