"""The command line: options, overrides, help, exit codes."""

import errno
from pathlib import Path

import pytest

from big_vit_lite import config
from big_vit_lite.config import Fault, Option, fields

OPTIONS = (
    Option("checkpoint", "DIR", "What to evaluate.", type=Path),
    Option("step", "N", "Which batch.", type=int),
    Option("dry_run", "", "Compiles only."),
)


def parse(*argv, options=OPTIONS, checks=()):
    return config.command_line(
        argv, program="python -m prog", about="Does it.", options=options, checks=checks
    )


def lines_of(*argv, **keywords):
    with pytest.raises(config.InputError) as caught:
        parse(*argv, **keywords)
    return str(caught.value).splitlines()


def test_both_ways_to_give_values(file):
    line = parse(
        f"--config={file}:tiny",
        "--config.optim.lr",
        "1e-4",
        "--config.model.head_bias",
        "-6.9",
        "--config.evals.val.every=2 epochs",
        "--config.deterministic",
        "--workdir",
        "out",
        "--checkpoint=a=b",
        "--step",
        "3",
        "--dry_run",
    )
    assert line.run.optim.lr == 1e-4 and line.run.model.head_bias == -6.9
    assert line.run.deterministic is True and line.run.steps == 4
    assert line.workdir == Path("out")
    assert line.extras == {"checkpoint": Path("a=b"), "step": 3, "dry_run": True}
    assert line.source == f"{file}:tiny"
    assert line.overrides[0] == ("optim.lr", "1e-4")


def test_what_is_not_given(file):
    line = parse("--config", str(file))
    assert line.workdir is None and line.extras == {} and line.overrides == ()


def test_faults_of_options_and_config_come_together(file):
    def check(run):
        yield Fault("optim.lr", "is odd", run.optim.lr)

    required = (*OPTIONS, Option("out", "FILE", "Where to.", required=True))
    lines = lines_of(
        "--config",
        str(file),
        "--wordkir=x",
        "--lr",
        "3",
        "stray",
        "--step=x",
        "--dry_run=yes",
        "--config.optim.name",
        "--config.mesh.data=0",
        "--config.mesh.dota=1",
        "--checkpoint",
        options=required,
        checks=[check],
    )
    assert lines == [
        "--wordkir: there is no such option; did you mean --workdir?",
        "--lr: there is no such option; did you mean --config.optim.lr?",
        "stray: no option, they begin with --; values with spaces want quotes in the shell",
        "--step = \"x\": invalid literal for int() with base 10: 'x'",
        '--dry_run = "yes": is a switch and takes no value',
        "--config.optim.name: wants a value, as in --config.FIELD=VALUE",
        "--checkpoint: wants a value: --checkpoint DIR",
        "--out: is missing: Where to.",
        'mesh.dota = "1": there is no such field; did you mean mesh.data?',
        "optim.lr = 0.001: is odd",
    ]


def test_no_config_names_those_at_hand():
    (line,) = lines_of("--workdir", "x")
    assert line.startswith("--config: is missing; give a config file, one of ")
    assert "configs/quickstart.py" in line and "configs/vit_b16.py" in line
    assert lines_of("--config") == ["--config: wants a value: --config FILE[:ARG]"]


def test_missing_file_comes_with_other_faults(tmp_path):
    lines = lines_of("--config", str(tmp_path / "no.py"), "--bogus")
    assert lines[0] == "--bogus: there is no such option; --help lists all"
    assert "no.py" in lines[1] and "does not exist" in lines[1]


def test_exit_codes(capsys):
    def fails(error):
        raise error

    assert config.exit_code(lambda: None) == 0
    assert config.exit_code(lambda: 3) == 3
    assert config.exit_code(fails, config.InputError("wrong x")) == 2
    assert capsys.readouterr().err == "wrong x\n"
    assert config.exit_code(fails, config.RunError("loss is nan")) == 1
    assert capsys.readouterr().err == "loss is nan\n"
    assert config.exit_code(fails, config.PeerError("process 1 ended")) == 4
    assert capsys.readouterr().err == "process 1 ended\n"
    with pytest.raises(KeyError):
        config.exit_code(fails, KeyError("a defect"))


def help_of(capsys, *argv):
    with pytest.raises(SystemExit) as left:
        parse(*argv)
    assert left.value.code == 0
    return capsys.readouterr().out


def test_help_lists_every_field(capsys):
    text = help_of(capsys, "--help")
    assert max(map(len, text.splitlines())) <= 100
    words = " ".join(text.split())
    for field in fields.all_fields():
        if field.key.startswith(("data.val.", "data.mix.NAME.", "evals.NAME.data.")):
            continue  # Described once, as data.train.
        assert " ".join(field.meaning.split()) in words, field.key
        if field.section is None:
            assert f"\n  {field.key} " in text, field.key
    for option in OPTIONS:
        assert f"--{option.name} {option.metavar}".rstrip() in text and option.meaning in text
    assert "optim.lr                     number > 0; default 0.001" in text
    assert "data.batch_size              int >= 1; must be set" in text
    assert "It sets" not in text
    assert help_of(capsys, "-h") == text


def test_help_with_a_config_shows_what_it_sets(capsys, file):
    text = help_of(capsys, "--help", "--config", f"{file}:tiny", "--config.optim.ema=0.9")
    assert max(map(len, text.splitlines())) <= 100
    assert "What this config is for." in text
    sets = text[text.index("It sets") : text.index("fields, to be set")]
    assert "steps = 4\n" in sets and "optim.ema = 0.9\n" in sets
    assert 'data.val.part = "[80%:]"' in sets


def test_help_with_a_broken_config_still_helps(capsys, tmp_path):
    text = help_of(capsys, f"--config={tmp_path / 'no.py'}", "--help")
    assert "optim.lr " in text and text.rstrip().splitlines()[-1].startswith("config file")


def test_a_tool_without_a_config_has_its_options_alone(capsys):
    def read(*argv):
        return config.options_line(argv, program="tool.py", about="Does it.", options=OPTIONS)

    assert read("--step", "3", "--dry_run") == ({"step": 3, "dry_run": True}, [])
    _, faults = read("--step=x", "--config.optim.lr=1", "--batch_size=2")
    assert [fault.key for fault in faults] == ["--step", "--config.optim.lr", "--batch_size"]
    assert str(faults[2]) == "--batch_size: there is no such option; --help lists all"
    with pytest.raises(SystemExit):
        read("--help")
    text = capsys.readouterr().out
    assert text.startswith("usage: tool.py [options]\n\nDoes it.\n\noptions\n  --checkpoint DIR\n")


def test_a_command_may_take_words_beside_its_options(capsys):
    options = (Option("out", "FILE", "Where to.", required=True), Option("fast", "", "Runs."))

    def read(*argv):
        return config.words_line(
            argv, program="tool", about="Does it.", options=options, words="MODEL INPUT..."
        )

    words, given, faults = read("m", "--out", "x", "a", "--fast", "b")
    assert (words, given, faults) == (["m", "a", "b"], {"out": "x", "fast": True}, [])
    words, _, faults = read("m", "-x", "--out=")
    assert words == ["m"]
    # What was given wrongly is not missing as well.
    assert list(map(str, faults)) == [
        "-x: no option, they begin with --; values with spaces want quotes in the shell",
        "--out: wants a value: --out FILE",
    ]
    with pytest.raises(SystemExit):
        read("--help")
    assert capsys.readouterr().out.startswith("usage: tool MODEL INPUT... [options]\n")


def test_what_the_machine_refuses_is_one_line_and_what_is_ours_keeps_its_traceback(capsys):
    def command(error):
        raise error

    full = OSError(errno.ENOSPC, "any", "runs/a/config.json")
    assert config.exit_code(command, full) == 1
    said = "runs/a/config.json: No space left on device; see to that and start again\n"
    assert capsys.readouterr().err == said
    for ours in (FileNotFoundError(errno.ENOENT, "any", "x"), OSError(errno.ENOSPC, "any")):
        with pytest.raises(OSError):
            config.exit_code(command, ours)
