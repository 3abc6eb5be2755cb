"""The schema: every field has a meaning, values are checked, runs go through JSON unchanged."""

import subprocess
import sys

import pydantic
import pytest

from big_vit_lite import config
from big_vit_lite.config import fields

FIELDS = list(fields.all_fields())


def test_every_field_says_what_it_means():
    assert len(FIELDS) > 110
    assert len({field.key for field in FIELDS}) == len(FIELDS)
    for field in FIELDS:
        assert len(field.meaning.split()) >= 3, field.key
        assert field.meaning.rstrip('"').endswith((".", ")")), field.key


def test_every_type_has_words():
    for field in FIELDS:
        words = fields.describe(field.type)
        assert words and "typing" not in words and "Annotated" not in words, field.key
    named = {field.key: fields.describe(field.type) for field in FIELDS}
    assert named["optim.lr"] == "number > 0"
    assert named["optim.ema"] == "number in (0, 1) or none"
    assert named["optim.end_lr"] == "number in [0, 1]"
    assert named["model.dropout"] == "number in [0, 1)"
    assert named["model.patch"] == "int >= 1 or (int >= 1, int >= 1) or none"
    assert named["model.pool"] == "cls | gap | cls_gap | map | none"
    assert named["optim.warmup"] == "duration"
    assert named["checkpoint.every"] == "duration > 0 or none"
    assert named["checkpoint.keep_best"] == "metric or none"
    assert named["optim.decay_rules"] == "list of (regular expression, number)"
    assert named["data.val"] == "section or none"
    assert named["evals"] == "names with sections"


def test_sections_are_frozen_and_refuse_unknown_names(make_run):
    run = make_run()
    with pytest.raises(pydantic.ValidationError):
        run.optim.lr = 1.0
    with pytest.raises(pydantic.ValidationError):
        config.Optim(learning_rate=1.0)


@pytest.mark.parametrize(
    ("section", "name", "value"),
    [
        (config.Optim, "lr", True),
        (config.Optim, "lr", float("nan")),
        (config.Optim, "lr", float("inf")),
        (config.Optim, "ema", 1.0),
        (config.Optim, "ema", 0.0),
        (config.Optim, "decay_rules", (("(", 1.0),)),
        (config.Model, "depth", 0),
        (config.Model, "depth", True),
        (config.Model, "depth", 2.5),
        (config.Model, "dropout", 1.0),
        (config.Model, "patch", (16, 0)),
        (config.Model, "patch", (16, 16, 16)),
        (config.Eval, "every", 0),
        (config.Eval, "every", "0 epochs"),
        (config.Checkpoint, "keep_best", "top1"),
        (config.Report, "profile", (3,)),
    ],
)
def test_values_out_of_range(section, name, value):
    with pytest.raises(pydantic.ValidationError) as caught:
        section(**{name: value})
    assert {error["loc"][0] for error in caught.value.errors()} == {name}


def test_true_is_no_number_but_a_choice_of_pre_logits():
    assert config.Model(pre_logits=True).pre_logits is True
    assert config.Model(pre_logits=1).pre_logits == 1
    assert config.Model(pre_logits=1).pre_logits is not True


def test_json_round_trip_is_exact(make_run):
    run = make_run(
        epochs=0.1 + 0.2,
        steps=None,
        optim={
            "lr": 1e-3 / 3,
            "warmup": "5%",
            "ema": 0.999,
            "lr_rules": (("head", 0.1), (".*", 1)),
        },
        model={"image_size": (8, 12), "pre_logits": True, "scan": None},
        report={"profile": (10, 12)},
    )
    again = config.Run.from_json(run.to_json())
    assert again == run
    assert type(again.model.image_size) is tuple and type(again.optim.lr_rules[0]) is tuple
    assert again.model.pre_logits is True
    assert config.differences(run, again) == []


def test_json_of_an_older_version_gets_defaults(make_run):
    text = make_run().to_json().replace('"registers": 0,', "")
    assert "registers" not in text
    assert config.Run.from_json(text) == make_run()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "ckpt/config.json is no readable JSON"),
        ("[]", "ckpt/config.json holds list, not a run"),
        ('{"modle": 1}', "ckpt/config.json: modle = 1: there is no such field; did you mean model"),
    ],
)
def test_json_faults_name_their_origin(text, said):
    with pytest.raises(config.InputError) as caught:
        config.Run.from_json(text, where="ckpt/config.json")
    assert said in str(caught.value)


def test_importing_config_is_light():
    code = (
        "import sys, big_vit_lite.config, big_vit_lite.checks\n"
        "heavy = {'jax', 'flax', 'optax', 'orbax', 'grain', 'tensorflow', 'sklearn', 'cv2'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
