"""Overrides, and all faults of a config in one go."""

import pytest

from big_vit_lite import config
from big_vit_lite.config import Fault

SOURCES = "arrayrecord, digit_pairs, digits, folder, parquet, synthetic, table, tar, tfds"


def faults_of(values, overrides=(), checks=()):
    with pytest.raises(config.InputError) as caught:
        config.load(values, overrides, checks)
    return str(caught.value).splitlines()


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("optim.ema", "0.999", 0.999),
        ("optim.ema", "none", None),
        ("optim.ema", "NULL", None),
        ("optim.lr", "1e-3", 1e-3),
        ("optim.warmup", "5%", "5%"),
        ("optim.warmup", "20", 20),
        ("optim.decay_rules", "(('kernel$', 1), ('.*', 0))", (("kernel$", 1.0), (".*", 0.0))),
        ("evals.val.every", "3 epochs", "3 epochs"),
        ("evals.val.data", "none", None),
        ("data.batch_size", "1e1", 10),
        ("data.train.part", "[:5]", "[:5]"),
        ("data.train.transform", "decode(channels=1)|flip", "decode(channels=1)|flip"),
        ("data.train.transform", "none", "none"),
        ("data.train.image_size", "(8, 12)", (8, 12)),
        ("data.train.path", "none", None),
        ("data.train.path", "/x=y", "/x=y"),
        ("data.mean", "0.5,", (0.5,)),
        ("data.mean", "[0.25]", (0.25,)),
        ("model.patch", "2", 2),
        ("model.patch", "2,4", (2, 4)),
        ("model.positions", "none", "none"),
        ("model.remat", "none", "none"),
        ("model.scan", "none", None),
        ("model.scan", "False", False),
        ("model.pre_logits", "true", True),
        ("model.pre_logits", "64", 64),
        ("model.head_bias", "-6.9", -6.9),
        ("deterministic", "true", True),
        ("name", "none", "none"),
        ("name", "", ""),
        ("init", "none", None),
        ("report.profile", "(3, 5)", (3, 5)),
        ("seed", "4294967295", 4294967295),
    ],
)
def test_text_is_read_by_the_field(values, key, text, value):
    found = config.load(values, {key: text})
    for name in key.split("."):
        found = found[name] if isinstance(found, dict) else getattr(found, name)
    assert found == value and type(found) is type(value)


def test_every_unset_field_takes_its_default_as_text(values):
    """The schema's own defaults, written as on a command line, come back as they are."""
    from big_vit_lite.config import fields

    del values["data"]["val"], values["evals"]
    taken = 0
    for field in fields.all_fields():
        known = field.key.split(".")[0] in ("optim", "model", "task", "report", "checkpoint")
        if not known or field.section is not None or ".NAME." in field.key:
            continue
        run = config.load(values, {"model.variant": "mu/2", field.key: str(field.default)})
        section, name = field.key.split(".")
        assert getattr(getattr(run, section), name) == field.default
        taken += 1
    assert taken > 60


def test_new_names_in_dicts_and_whole_sections(values):
    run = config.load(
        values,
        [
            ("evals.hard.every", "5"),
            ("evals.hard.data", "{'source': 'digits', 'transform': 'decode', 'path': none}"),
            ("evals.hard.data.part", "[1415:]"),
            ("evals.val", "none"),
            ("data.val", "None"),
        ],
    )
    assert list(run.evals) == ["hard"] and run.data.val is None
    assert run.evals["hard"].data == config.Split(
        source="digits", transform="decode", part="[1415:]"
    )


def test_all_evaluations_off(values):
    assert config.load(values, {"evals": "{}"}).evals == {}


def test_one_length_takes_the_place_of_the_others(values):
    run = config.load(values, {"epochs": "2.5"})
    assert (run.steps, run.epochs, run.examples) == (None, 2.5, None)
    run = config.load(values, {"examples": "64"})
    assert (run.steps, run.epochs, run.examples) == (None, None, 64)
    assert config.load(values, {"epochs": "none"}).steps == 100
    assert faults_of(values, {"epochs": "2", "examples": "64"}) == [
        "examples = 64: epochs = 2.0 sets the length already; keep one of them"
    ]
    assert faults_of(values, {"steps": "none"}) == [
        "steps: is missing; give one of steps, epochs, examples"
    ]


def test_the_last_of_two_overrides_counts(values):
    assert config.load(values, [("seed", "1"), ("seed", "2")]).seed == 2


def test_every_fault_at_once(values):
    values["model"]["varient"] = values["model"].pop("variant")
    values["optim"] = {"lr": "fast", "decay_rules": (("(", 1.0),), "wd": 0.1, "b1": 1}
    del values["data"]["batch_size"]
    values["data"]["train"]["source"] = "digit"
    overrides = [
        ("optim.ema", "1.5"),
        ("learning_rate", "3"),
        ("evals.val.evry", "2"),
        ("modle.depth", "3"),
        ("model.pool", "gapp"),
        ("model.scan", "maybe"),
        ("optim.lr.x", "1"),
        ("optim.warmup", "3 h"),
        ("mesh.data", "0"),
        ("tensorboard", "no"),
    ]
    assert set(faults_of(values, overrides)) == {
        'model.varient = "mu/2": there is no such field; did you mean model.variant?',
        'optim.lr = "fast": wants a number > 0',
        "optim.decay_rules = (('(', 1.0),): \"(\" is no regular expression: missing ), "
        "unterminated subpattern at position 0",
        "optim.wd = 0.1: there is no such field; did you mean optim.weight_decay?",
        "optim.b1 = 1: wants a number in [0, 1)",
        "data.batch_size: is missing, wants an int >= 1",
        f'data.train.source = "digit": wants one of {SOURCES}; did you mean "digits"?',
        "optim.ema = 1.5: wants a number in (0, 1) or none",
        'learning_rate = "3": there is no such field; did you mean optim.lr?',
        'evals.val.evry = "2": there is no such field; did you mean evals.val.every?',
        'modle.depth = "3": there is no such field; did you mean model.depth?',
        'model.pool = "gapp": wants one of cls, gap, cls_gap, map, none; did you mean "gap"?',
        'model.scan = "maybe": wants one of true, false or none',
        'optim.lr.x = "1": there is no such field; did you mean optim.lr?',
        'optim.warmup = "3 h": wants steps as a number, or "10 epochs", "5000 examples", '
        '"300 steps", "5%" of the run',
        "mesh.data = 0: wants a number of devices, or -1 for all that are left",
        'tensorboard = "no": there is no such field; did you mean report.tensorboard?',
    }


def test_faults_carry_key_value_and_line(values):
    with pytest.raises(config.InputError) as caught:
        config.load(values, {"optim.lr": "-1", "mesh.dota": "2"})
    by_key = {fault.key: fault for fault in caught.value.faults}
    assert set(by_key) == {"optim.lr", "mesh.dota"}
    assert by_key["optim.lr"].value == -1
    assert by_key["mesh.dota"].depends == ("mesh.data",)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"data": 5}, "data = 5: wants a section, which is a dict of its fields"),
        ({"data": None}, "data = none: wants a section, which is a dict of its fields"),
        ({"evals": 3}, "evals = 3: wants a dict from names to sections"),
        (
            {"evals": {"val": None}},
            "evals.val = none: wants a section, which is a dict of its fields",
        ),
        ({"model": []}, "model = []: wants a section, which is a dict of its fields"),
    ],
)
def test_nonsense_for_a_section(values, change, line):
    assert line in faults_of({**values, **change})


def test_an_empty_config_says_what_must_be_set():
    assert faults_of({}) == [
        "data: is missing, wants a section, which is a dict of its fields",
        "steps: is missing; give one of steps, epochs, examples",
    ]


def test_checks_join_the_list(values):
    def check(run):
        yield Fault("model.depth", "is odd", run.model.depth)

    def check_path(run):
        if run.data.train.source == "synthetic":
            yield Fault("data.train.source", "is a stand-in")
            yield Fault("model.patch", "does not divide", depends=("data.train.source",))
            yield Fault("data.train", "holds a stand-in")

    values["model"]["depth"] = 3
    assert faults_of(values, (), [check, check_path]) == ["model.depth = 3: is odd"]
    assert faults_of(values, {"seed": "-1", "data.train.source": "x"}, [check, check_path]) == [
        "seed = -1: wants an int in [0, 4294967296)",
        f'data.train.source = "x": wants one of {SOURCES}',
        "model.depth = 3: is odd",
    ]


def test_a_check_may_not_judge_what_a_misspelt_name_meant(values):
    def check(run):
        yield Fault("optim.lr", "is too high for warmup", run.optim.lr)

    assert faults_of(values, {"optim.lrr": "1e-5"}, [check]) == [
        'optim.lrr = "1e-5": there is no such field; did you mean optim.lr?'
    ]


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (
            {"optim.warmup": "60", "optim.cooldown": "50%"},
            "optim.warmup = 60: warmup takes 60% and cooldown takes 50% of the run, more than all "
            "of it; shorten it or train longer",
        ),
        (
            {"optim.warmup": "900 examples"},
            'optim.warmup = "900 examples": warmup takes 113% of the run, more than all of it; '
            "shorten it or train longer",
        ),
        (
            {"epochs": "3", "optim.warmup": "4 epochs"},
            'optim.warmup = "4 epochs": warmup takes 133.3% of the run, more than all of it; '
            "shorten it or train longer",
        ),
        ({"optim.accumulate": "3"}, "optim.accumulate = 3: must divide data.batch_size = 8"),
        (
            {"task.cutmix": "1.0", "task.cutmix_share": "0.3"},
            "task.cutmix_share = 0.3: has a meaning only where task.mixup and task.cutmix are both "
            "above 0",
        ),
        (
            {"task.cutmix": "1.0", "data.batch_size": "1"},
            "task.cutmix = 1.0: mixes pairs of images, and data.batch_size is 1",
        ),
        (
            {"data.mean": "(1, 2)"},
            "data.mean = (1.0, 2.0): wants one number; model.channels is 1",
        ),
        (
            {"data.std": "(1, 2)", "model.channels": "3"},
            "data.std = (1.0, 2.0): wants one number, or 3: one for each channel; model.channels "
            "is 3",
        ),
        (
            {"data.train.source": "folder"},
            "data.train.path: is missing; source folder wants the folder that holds the files",
        ),
        (
            {"data.val": "none"},
            "evals.val.data: is missing, and so is data.val, which would stand in",
        ),
        (
            {"evals.train.every": "3"},
            "evals.train: no name for an evaluation; train, speed, data, memory name other metrics",
        ),
        (
            {"checkpoint.keep_best": "vel/top1"},
            'checkpoint.keep_best = "vel/top1": wants a metric of an evaluation; did you mean '
            '"val/top1"?',
        ),
        (
            {"checkpoint.keep_best": "val/loss"},
            'checkpoint.best_mode = "max": is min for val/loss, or the worst checkpoint would be '
            "kept as the best",
        ),
        (
            {"checkpoint.keep_best": "val/ema/top1", "checkpoint.best_mode": "min"},
            'checkpoint.best_mode = "min": is max for val/ema/top1, or the worst checkpoint would '
            "be kept as the best",
        ),
        (
            {"model.class_token": "false"},
            "model.class_token = false: pool cls needs the class token; leave it none, or pool "
            "otherwise",
        ),
        (
            {"mesh.fsdp": "-1"},
            "mesh.fsdp = -1: mesh.data is -1 already, and only one can take what is left",
        ),
        (
            {"report.profile": "(5, 5)"},
            "report.profile = (5, 5): wants (first, end) with first < end",
        ),
    ],
)
def test_what_fields_say_together(values, overrides, line):
    assert faults_of(values, overrides) == [line]


@pytest.mark.parametrize(
    "overrides",
    [
        {"optim.warmup": "50%", "optim.cooldown": "50 steps"},
        {"optim.warmup": "800 examples"},
        {"epochs": "3", "optim.warmup": "1e6"},  # comparable only once the data is known
        {"optim.warmup": "9 epochs"},
        {"checkpoint.keep_best": "val/ema/top1"},
        {"checkpoint.keep_best": "val/loss", "checkpoint.best_mode": "min"},
        {"data.mean": "(1, 2, 3)", "model.channels": "3"},
        {"task.cutmix": "1", "task.mixup": "0.8", "task.cutmix_share": "0"},
    ],
)
def test_what_is_right_passes(values, overrides):
    assert isinstance(config.load(values, overrides), config.Run)


@pytest.mark.parametrize(
    ("overrides", "devices", "lines"),
    [
        ({}, 8, []),
        ({}, 3, ["data.batch_size = 8: must be a multiple of 3 (3 devices)"]),
        ({"mesh.fsdp": "2"}, 8, []),
        ({"mesh.tensor": "2", "optim.accumulate": "2"}, 8, []),
        (
            {"optim.accumulate": "2"},
            8,
            ["data.batch_size = 8: must be a multiple of 16 (8 devices x 2 accumulated parts)"],
        ),
        (
            {"mesh.data": "2", "mesh.fsdp": "2"},
            8,
            [
                "mesh: data 2 x fsdp 2 x tensor 1 does not make 8 devices; use sizes whose "
                "product is 8, or -1 for one of them"
            ],
        ),
        (
            {"mesh.fsdp": "3"},
            8,
            [
                "mesh: data -1 x fsdp 3 x tensor 1 does not make 8 devices; use sizes whose "
                "product is 8, or -1 for one of them"
            ],
        ),
        ({"mesh.data": "2", "mesh.tensor": "-1", "evals.val.batch_size": "6"}, 8, []),
        (
            {"mesh.data": "2", "mesh.tensor": "-1", "evals.val.batch_size": "5"},
            8,
            ["evals.val.batch_size = 5: must be a multiple of 2, the devices that share a batch"],
        ),
    ],
)
def test_devices(values, overrides, devices, lines):
    run = config.load(values, overrides)
    assert [str(fault) for fault in config.check_devices(run, devices)] == lines


ODD_TEXTS = ["", "none", "true", "-1", "1e99", "1e999", "nan", "(", "(1,", "{}", "{'a': 1}", "[[]]"]
ODD_KEYS = ["", ".", "evals.", "evals..every", "evals.a.b.c", "data.train.", "optim.lr.x.y", "ключ"]


def test_whatever_is_given_ends_in_our_own_error(values):
    from big_vit_lite import checks
    from big_vit_lite.config import fields

    keys = [field.key.replace("NAME", "val") for field in fields.all_fields()]
    for key in (*keys, *ODD_KEYS):
        for text in ODD_TEXTS:
            try:
                config.load(values, {key: text}, checks.STATIC)
            except config.InputError as error:
                assert str(error).count("\n") + 1 == len(error.faults), (key, text)
