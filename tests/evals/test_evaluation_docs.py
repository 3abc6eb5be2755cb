"""docs/evaluation.md: its files are read, its configs are valid, and it names every metric."""

import re
from pathlib import Path

import ml_collections
import pytest

from big_vit_lite import config
from big_vit_lite.config import rules_evals
from big_vit_lite.evals import prompts
from big_vit_lite.evals.choices_file import read_choices

PAGE = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.S)


def test_every_form_of_choices_is_read(tmp_path):
    forms = blocks("json")
    assert len(forms) == 3
    for i, text in enumerate(forms):
        (tmp_path / f"{i}.json").write_text(text)
    choices = read_choices(str(tmp_path), None, "evals.c")
    assert [(len(c.images), len(c.captions)) for c in choices] == [(1, 2), (2, 2), (1, 3), (2, 2)]
    assert [c.category for c in choices] == ["0", "Object", "order", "2"]


@pytest.mark.parametrize("text", blocks("python"))
def test_configs_are_valid(text):
    made = ml_collections.ConfigDict({"evals": {}})
    exec(text, {"config": made})
    assert made.evals
    for options in made.evals.to_dict().values():
        options = config.Eval(**options)
        for entry in options.prompts:
            assert "{}" in entry or entry in prompts.template_sets() or entry.endswith(".txt")
        name = options.class_names
        assert name is None or name in prompts.name_sets() or name.endswith(".txt")


def test_every_metric_is_named():
    for kind in ("zero_shot", "retrieval", "choices", "captions"):
        for metric in rules_evals.METRICS[kind]:
            assert metric.split("/")[-1] in PAGE, metric
    for name in re.findall(r"`(\w+)`", PAGE.split("Published sets are")[1].split("They are")[0]):
        assert name in prompts.template_sets()
