"""tools/top_operations.py on a trace of a real run; layers keep their names when compiled."""

import gzip
import importlib.util
import json
import re
from pathlib import Path

import jax
import pytest
import small

from big_vit_lite import config, instruments, parallel, storage
from big_vit_lite.plan.hlo import Program
from big_vit_lite.report.profile import PROFILE, Profile
from big_vit_lite.train import main

ROOT = Path(__file__).parents[2]
QUICKSTART = str(ROOT / "configs" / "quickstart.py:tiny")
spec = importlib.util.spec_from_file_location("profile_tool", ROOT / "tools" / "top_operations.py")
tool = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tool)


@pytest.fixture(scope="module")
def traced(tmp_path_factory):
    """A run of 4 steps, of which those numbered 1 and 2 from 0 are traced."""
    workdir = tmp_path_factory.mktemp("traced")
    options = ["--config", QUICKSTART, "--workdir", str(workdir), "--config.steps=4",
               "--config.evals={}", "--config.mesh.data=2", "--config.mesh.fsdp=4",
               "--profile", "1:3"]  # fmt: skip
    assert main(options) == 0
    return workdir / "profile"


def test_a_trace_is_read_by_layer_kind_and_operation(traced, capsys):
    assert config.exit_code(tool.main, ["--trace", str(traced), "--top", "1000"]) == 0
    said = capsys.readouterr().out
    assert "mean over 8 devices, a step of 2\n" in said
    layers, kinds, top = (part.splitlines()[2:] for part in said.split("\n\n")[1:])
    for block in range(2):
        for part in ("LayerNorm_0", "MultiHeadDotProductAttention_0", "MlpBlock_0"):
            for run in ("forward", "backward"):
                wanted = rf".*  Transformer/encoderblock_{block}/{part}  {run}"
                assert any(re.fullmatch(wanted, line) for line in layers), wanted
    assert any(line.endswith("  update") for line in layers)
    named = {line[27:].strip() for line in kinds}
    assert {"matrix product", "collective", "reduction"} <= named
    assert any("matrix product" in line and "MlpBlock_0/Dense_0" in line for line in top)
    for table in (layers, kinds, top):  # each tells all of the time
        assert sum(float(line[11:17].rstrip("% ")) for line in table) == pytest.approx(
            100, abs=0.05 * len(table) + 0.1
        )
    # A step runs each operation once on each device; nothing of the steps beside is traced.
    program = Program((traced / "step.txt").read_text())
    (line,) = [line for line in kinds if "matrix product" in line]
    dots = [
        instruction
        for name, computation in program.computations.items()
        if name not in program.fused
        for instruction in computation.instructions.values()
        if instruction.opcode != "while"
        and tool.kind(instruction, program.computations) == "matrix product"
    ]
    assert float(line.split()[2]) == len(dots)


def test_a_trace_is_there_for_perfetto_too(traced):
    (file,) = traced.rglob("*.trace.json.gz")
    events = json.loads(gzip.decompress(file.read_bytes()))["traceEvents"]
    assert {"dot", "all-reduce"} <= {
        event["name"].split(".")[0] for event in events if "dur" in event
    }
    marked = {event["args"]["step_num"] for event in events if event.get("name") == "train"}
    assert marked == {"2", "3"}


class Compiled:
    def __init__(self, text):
        self.as_text = lambda: text


@pytest.mark.parametrize(
    ("steps", "told", "traced_steps"),
    [((1, 3), "small", [2, 3]), ((2, 5), "small", [3]), ((3, 9), "large", [4, 5])],
)
def test_the_program_beside_a_trace_is_that_of_its_steps(
    tmp_path, monkeypatch, caplog, steps, told, traced_steps
):
    """Steps 1 to 3 are on small images, 4 and 5 on large ones."""
    programs = {"small": Compiled("small"), "large": Compiled("large")}
    monkeypatch.setattr(jax.profiler, "start_trace", lambda *_, **__: None)
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: None)
    found = []
    with Profile(steps, tmp_path, lambda n: programs["small" if n <= 3 else "large"]) as profile:
        for step in range(1, 6):
            profile.before(step, ())
            found += [step] * profile.running
    assert not profile.running
    assert found == traced_steps and (tmp_path / "step.txt").read_text() == told
    assert ("the trace ends before step 4" in caplog.text) == (steps == (2, 5))


def test_processes_on_one_host_have_a_folder_each(monkeypatch):
    parts = type("Parts", (), {"run": small.make_run()})
    training = type("Training", (), {"at": staticmethod(lambda step: None)})
    workdir = storage.place("runs/a")
    assert instruments.profile(parts, workdir, training).directory == workdir / "profile"
    monkeypatch.setattr(parallel, "several", lambda: True)
    monkeypatch.setattr(jax, "process_index", lambda: 3)
    folder = instruments.profile(parts, workdir, training).directory
    assert folder == workdir / "profile" / "process_3"


def test_long_tables_are_cut_and_say_so(traced, capsys):
    arguments = ["--trace", str(traced), "--top", "2", "--depth", "1"]
    assert config.exit_code(tool.main, arguments) == 0
    said = capsys.readouterr().out
    assert "encoderblock_0/Layer" not in said.split("by kind")[0]
    assert len(re.findall(r" \d+ more\n", said + "\n")) == 3
    (traced / "step.txt").rename(traced / "elsewhere")
    try:
        assert config.exit_code(tool.main, arguments) == 0
        assert "no step.txt beside the trace" in capsys.readouterr().out
    finally:
        (traced / "elsewhere").rename(traced / "step.txt")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--trace", "{}"], "holds no trace (*.xplane.pb): train with --profile FIRST:END"),
        (["--trace", "{}/x.xplane.pb"], "cannot be read as a trace"),
        ([], "--trace: is missing"),
        (["--trace", "{}", "--top", "0"], "want a whole number from 1 on"),
    ],
)
def test_what_is_no_trace_is_one_sentence(arguments, text, tmp_path, capsys):
    if arguments and arguments[-1].endswith(".pb"):
        (tmp_path / "x.xplane.pb").write_bytes(b"no trace at all")
    assert config.exit_code(tool.main, [a.format(tmp_path) for a in arguments]) == 2
    error = capsys.readouterr().err
    assert text in error and error.count("\n") == 1


def test_times_leave_out_what_runs_within():
    events = [(0, 100, "while", "d", "m", ""), (10, 30, "dot", "d", "m", ""),
              (15, 5, "copy", "d", "m", ""),
              (50, 50, "dot", "d", "m", ""), (100, 7, "add", "d", "m", "")]  # fmt: skip
    found = [(o.name, round(o.seconds * 1e9)) for o in tool._alone(events)]
    assert found == [("while", 20), ("dot", 25), ("copy", 5), ("dot", 50), ("add", 7)]


@pytest.mark.parametrize(
    ("scope", "wanted"),
    [
        ("jit(step)/jvp(ViT)/Transformer/while/body/closed_call/encoderblock/MlpBlock_0/Dense_0/"
         "dot_general",
         ("Transformer/encoderblock/MlpBlock_0", "forward")),
        ("jit(step)/transpose(jvp(ViT))/ViT._embed/embedding/dot_general",
         ("embed/embedding", "backward")),
        ("jit(step)/transpose(jvp(ViT))/Transformer/while/body/closed_call/checkpoint/"
         "rematted_computation/encoderblock/LayerNorm_0/add",
         ("Transformer/encoderblock/LayerNorm_0", "recomputed")),
        ("jit(step)/transpose(jvp(ViT))/Transformer/jvp(ViT)/Transformer/checkpoint/encoderblock_0/"
         "LayerNorm_1/mul", ("Transformer/encoderblock_0/LayerNorm_1", "backward")),
        ("jit(step)/transpose(jvp())/(ViT/Transformer/encoder_norm/reduce_sum:ViT/x/y)",
         ("(several)", "backward")),
        ("jit(step)/update/jit(clip)/min", ("update/clip", "")),
        ("jit(step)/reduce_sum", ("(loss and the rest)", "")),
        ("", ("(not named)", "")),
    ],
)  # fmt: skip
def test_layers_are_told_without_jaxs_own_words(scope, wanted):
    assert tool.layer(scope, 3) == wanted


@pytest.mark.parametrize("scan", [False, True])
def test_layers_keep_their_names_in_the_compiled_step(scan):
    run = small.make_run(model={"scan": scan, "remat": "dots", "depth": 2})
    mesh = parallel.make_mesh(run.mesh, jax.devices()[:1])
    task = small.make_task(run)
    optimizer, batch = small.make_optimizer(run, task), small.batch_spec(run, mesh)
    text = parallel.compile_training(task, optimizer, mesh, batch, 0).compiled.as_text()
    names = set(re.findall(r'op_name="([^"]*)"', text))
    told = {tool.layer(name, 3) for name in names}
    block = "encoderblock" if scan else "encoderblock_1"
    for part in ("LayerNorm_1", "MultiHeadDotProductAttention_0", "MlpBlock_0"):
        for run in ("forward", "backward", "recomputed"):
            assert (f"Transformer/{block}/{part}", run) in told
    assert {("embed/embedding", "forward"), ("classify/head", "backward")} <= told
    for scope in ("prepare", "update"):
        assert any(name.startswith(f"jit(step)/{scope}/") for name in names), scope


@pytest.mark.parametrize("text", ["3", "5:5", "a:b", "-1:2", "3:"])
def test_steps_to_profile_are_two_numbers(text):
    assert PROFILE.type("2:5") == (2, 5)
    with pytest.raises(ValueError, match="wants FIRST:END with FIRST < END"):
        PROFILE.type(text)
