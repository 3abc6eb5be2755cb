"""Processes of one run start only with one config and as much data; the log says what changed."""

import re

import pairs
import pytest
import small

from big_vit_lite import agreement, config, describe, instruments, models, parallel
from big_vit_lite.config import InputError


def others_have(monkeypatch, *values):
    """What the other processes say, behind this one."""
    monkeypatch.setattr(parallel, "gather", lambda name, value: [value, *values])


def make(**fields):
    return small.make_run(**fields)


def test_processes_with_one_config_start(monkeypatch):
    run = make()
    others_have(monkeypatch, run.to_json())
    agreement.check_processes(run)
    # Each host may have its copy of the data elsewhere.
    split = {"source": "synthetic", "transform": "", "path": "/here"}
    here = make().model_copy(update={"data": config.Data(batch_size=16, train=split)})
    there = config.Data(batch_size=16, train=split | {"path": "/there"})
    others_have(monkeypatch, here.model_copy(update={"data": there}).to_json())
    agreement.check_processes(here)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"optim": {"lr": 0.5}}, r"optim.lr is 0.001 in process 0 and 0.5 in process 2: give all"),
        ({"mesh": {"fsdp": 2}}, r"mesh.fsdp is 1 in process 0 and 2 in process 2: give all"),
        ({"model": {"depth": 2}}, r"model.depth is 3 in process 0 and 2 in process 2: give all"),
    ],
)
def test_another_config_in_one_process_is_named(monkeypatch, fields, said):
    others_have(monkeypatch, make().to_json(), make(**fields).to_json())
    with pytest.raises(InputError, match=said):
        agreement.check_processes(make())


def test_other_data_in_one_process_is_named(monkeypatch):
    others_have(monkeypatch, [1000, 60], [990, 60])
    with pytest.raises(InputError, match="process 0 found 1,000 training examples, for 60 steps, "
                       "and process 2 990, for 60: all want a copy of the same data"):  # fmt: skip
        agreement.check_lengths(1000, 60)


def test_a_batch_of_pairs_holds_none_twice():
    run = pairs.make_run(batch_size=16)
    agreement.check_batch(run, [16])
    with pytest.raises(InputError, match="data.batch_size is 16 and data.train has 15 examples: a "
                       "batch would hold pairs several times, each as a wrong answer to itself; "
                       "give at most 15"):  # fmt: skip
        agreement.check_batch(run, [15])
    agreement.check_batch(make(), [15])  # images of one class are no pairs


def test_a_batch_of_a_mixture_takes_of_each_source_what_it_has():
    split = {"source": "synthetic", "transform": "", "text": pairs.TEXT}
    mix = {"a": split | {"weight": 9.0}}
    run = pairs.make_run(batch_size=50, data={"train": split, "mix": mix})
    agreement.check_batch(run, [5, 45])
    told = "batch_size is 50, of which 45 are of data.mix.a and data.mix.a has 44 examples: "
    with pytest.raises(InputError, match=f"{told}.* a smaller batch, or that source less weight"):
        agreement.check_batch(run, [5, 44])
    with pytest.raises(InputError, match="of which 5 are of data.train and data.train has 4"):
        agreement.check_batch(run, [4, 45])


def test_texts_of_an_init_have_its_tokens_around_them():
    task = pairs.make_task(pairs.make_run())
    stored = describe.text(task.text)
    agreement.check_marks(task, {"text": stored}, "init: X")
    agreement.check_marks(task, {}, "init: X")
    told = "other tokens around them: end_id 258 here and None there, pad_id 256 here and 0 there"
    with pytest.raises(InputError, match=f"init: X was trained on texts with {told}; have "
                       "data.train.text as it was, .lower"):  # fmt: skip
        agreement.check_marks(task, {"text": stored | {"end_id": None, "pad_id": 0}}, "init: X")


def test_a_run_without_init_is_not_frozen():
    agreement.check_new(pairs.make_run(), False)
    resnet = pairs.make_run(model={"variant": "RN50", "patch": None, "pool": "cls"})
    told = "frozen and there is no init: batch norms would keep statistics of no image; set model"
    with pytest.raises(InputError, match=f"{told}.batch_norm=batch"):
        agreement.check_new(resnet, False)
    model = resnet.model.model_copy(update={"batch_norm": "batch"})
    agreement.check_new(resnet.model_copy(update={"model": model}), False)


def test_batch_norms_that_are_locked_are_frozen():
    unset = dict.fromkeys(("depth", "heads", "mlp_dim", "patch"))
    tower = {"variant": "RN50", "width": 8, "stages": (1, 1, 1, 1), "pool": "cls", **unset}

    def check(batch_norm, *locked):
        rules = (*((pattern, 0.0) for pattern in locked), (".*", 1.0))
        model = tower | {"batch_norm": batch_norm}
        run = pairs.make_run(model=model, optim={"lr_rules": rules})
        task = pairs.make_task(run, image=((32, 32, 3), "uint8"))
        agreement.check_statistics(run, models.abstract_params(task.model))

    check("batch")
    check("batch", "^txt/")
    check("batch", "^img/.*kernel$")
    check("frozen", "^img/")
    for pattern in ("^img/", "^img/stage0"):
        with pytest.raises(InputError, match="batch norms of .* set model.batch_norm=frozen"):
            check("batch", pattern)


def test_another_vocabulary_is_told_by_the_file_that_was_read():
    task = pairs.make_task(pairs.make_run())
    stored = {"transform": task.text.text, "fingerprint": "f" * 64}
    reads = re.escape(f"was trained with the vocabulary ffffffffffff, and data.train.text, "
                      f"{task.text.text!r}, reads bytes; ")  # fmt: skip
    with pytest.raises(InputError, match=reads + "put that file back"):
        agreement.check_vocabulary(task, {"text": stored})
    stored["transform"] = "lower|tokenize('a/pieces.json')|truncate(6)|pad(6)"
    other = re.escape(f"it read texts as {stored['transform']!r}: name the vocabulary")
    with pytest.raises(InputError, match=reads + other):
        agreement.check_vocabulary(task, {"text": stored})
    agreement.check_vocabulary(task, {"text": stored | {"fingerprint": "bytes"}})


def test_the_line_of_a_run_that_goes_on():
    run = make()
    assert describe.resume(5, 20, run, run) == "goes on from the checkpoint of step 5 of 20"
    longer = run.model_copy(update={"steps": 30, "mesh": config.Mesh(fsdp=2)})
    assert describe.resume(5, 30, run, longer) == (
        "goes on from the checkpoint of step 5 of 30; changed since: steps 20 -> 30, "
        "mesh.fsdp 1 -> 2 (schedules follow the new length from here)"
    )
    assert describe.resume(20, 20, run, run) == (
        "the checkpoint of step 20 is the last of 20: nothing is left to train"
    )
    assert describe.resume(20, 10, run, run).startswith("the checkpoint of step 20 is past 10: no")
    same = describe.resume(5, 20, run, run, (7, 7))
    assert same == describe.resume(5, 20, run, run, (None, 7)) == describe.resume(5, 20, run, run)
    assert describe.resume(5, 20, run, run, (1200, 1202)).endswith(
        "; changed since: an epoch had 1,200 examples and has 1,202: the order is another"
    )


def test_a_trace_of_steps_that_never_come_is_refused():
    run = make(report={"profile": (20, 22)})
    parts = type("Parts", (), {"run": run, "steps": 20})
    with pytest.raises(InputError, match="report.profile asks for steps 20 to 22, counted from 0, "
                       "and the run has 20: nothing would be traced"):  # fmt: skip
        instruments.check_profile(parts)
    parts.steps = 21
    instruments.check_profile(parts)
