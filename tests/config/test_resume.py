"""What may change when a run goes on."""

import re

import pytest

from big_vit_lite import config
from big_vit_lite.config import fields


def test_differences_in_the_order_of_the_schema(values):
    old = config.load(values)
    new = config.load(
        values,
        {
            "report.every": "9",
            "optim.lr": "1",
            "epochs": "2",
            "evals.more.every": "3",
            "model.patch": "2",
            "data.val": "none",
            "evals.val": "none",
            "evals.more.data": "{'source': 'digits', 'transform': 'decode'}",
        },
    )
    found = {key: (before, after) for key, before, after in config.differences(old, new)}
    assert list(found) == [
        "steps",
        "epochs",
        "model.patch",
        "data.val",
        "optim.lr",
        "evals.more",
        "evals.val",
        "report.every",
    ]
    assert found["steps"] == (100, None)
    assert found["optim.lr"] == (1e-3, 1.0)
    assert found["evals.more"][0] is config.ABSENT and found["evals.val"][1] is config.ABSENT
    assert config.differences(old, old) == []


def test_what_may_change_passes(values):
    changes = {
        "name": "x",
        "epochs": "3",
        "evals": "{}",
        "data.val": "none",
        "data.threads": "2",
        "data.prefetch_mib": "9",
        "checkpoint.every": "2",
        "report.tensorboard": "false",
        "report.curve": "false",
        "mesh.fsdp": "2",
        "model.scan": "true",
        "model.remat": "full",
        "deterministic": "true",
    }
    old, new = config.load(values), config.load(values, changes)
    config.check_resume(old, new)
    changed = {key for key, _, _ in config.differences(old, new)}
    for key in changes:  # each did change; of a section, what is in it
        assert any(name == key or name.startswith(f"{key}.") for name in changed), key


def test_all_else_is_refused_by_name(values):
    old = config.load(values)
    new = config.load(values, {"seed": "1", "optim.lr": "0.1", "steps": "200", "optim.ema": "0.9"})
    with pytest.raises(config.InputError) as caught:
        config.check_resume(old, new)
    end = ", and this cannot change on resume; set it back, or start anew in another --workdir"
    assert str(caught.value).splitlines() == [
        f"seed = 1: the run in this workdir has 0{end}",
        f"optim.lr = 0.1: the run in this workdir has 0.001{end}",
        f"optim.ema = 0.9: the run in this workdir has none{end}",
    ]


def test_resumable_names_fields_and_reasons():
    keys = [field.key for field in fields.all_fields()]
    for pattern, reason in config.RESUMABLE.items():
        assert any(re.fullmatch(pattern, key) for key in keys), pattern
        assert len(reason) > 5
    kept = {k for k in keys if not any(re.fullmatch(p, k) for p in config.RESUMABLE)}
    assert {"seed", "init", "model.dtype", "model.depth", "task.mixup"} <= kept
    assert {"data.batch_size", "data.train.part", "optim.lr", "optim.accumulate"} <= kept


def test_a_vocabulary_may_lie_elsewhere_and_be_no_other_transform():
    def with_text(text):
        train = {"source": "synthetic", "transform": "", "text": text}
        return config.Run(steps=1, data={"batch_size": 1, "train": train})

    old = with_text("lower|tokenize('a/v.json', end=False)|pad(8)")
    config.check_resume(old, with_text("lower|tokenize('b/c/v.json', end=False)|pad(8)"))
    for text in ("tokenize('a/v.json', end=False)|pad(8)", "lower|tokenize('a/v.json')|pad(8)"):
        with pytest.raises(config.InputError, match="data.train.text = "):
            config.check_resume(old, with_text(text))
