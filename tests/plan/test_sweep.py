"""tools/plan.py: which cases it plans, and its table."""

import importlib.util
import json
from pathlib import Path

import pytest

from big_vit_lite import config

FILE = Path(__file__).parents[2] / "tools" / "plan.py"
spec = importlib.util.spec_from_file_location("plan_tool", FILE)
tool = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tool)

ROW = {
    "config": "configs/vit_s16.py",
    "overrides": {"optim.mu_dtype": "float32", "mesh.data": 8},
    "asked": "v5e-8",
    "versions": {"jax": "0.10.2", "libtpu": "0.0.42"},
    "devices": 8,
    "mesh": {"data": 8, "fsdp": 1, "tensor": 1},
    "batch_size": 1024,
    "settings": {"remat": "dots"},
    "state_bytes": 2**30,
    "peak_bytes": 5 * 2**30,
    "limit_bytes": int(15.75 * 2**30),
    "fits": True,
    "collectives": {
        "all-reduce": {"bytes": 4_000_000, "network_bytes": 1_000_000},
        "collective-permute": {"bytes": 2_000_000, "network_bytes": 0},
    },
    "roofline_s": 0.05,
    "dominates": "memory",
    "images_per_s": 20480.0,
    "mfu": 0.61,
}


def test_a_line_of_the_table():
    cells = [cell.strip() for cell in tool.line(ROW)[1:-1].split("|")]
    assert cells == [
        "`vit_s16.py` mu_dtype float32", "v5e-8 (8 devices)", "data 8", "1,024", "dots", "1.00",
        "5.00", "15.75", "0", "5", "2", "50", "memory", "2,560", "61 %", "",
    ]  # fmt: skip
    assert len(cells) == len(tool.HEADINGS)
    refused = ROW | {"fits": False, "collectives": None, "roofline_s": None, "dominates": None}
    line = tool.line(refused | {"images_per_s": None, "mfu": None})
    assert "**does not fit**" in line and line.endswith("| - | - | - | - | |")


def test_rows_that_are_there_are_not_made_again_and_the_table_keeps_the_order(
    tmp_path, monkeypatch, capsys
):
    made = []

    def plan(case):
        made.append(case.topology)
        return ROW | {"config": case.config, "asked": case.topology, "overrides": case.overrides}

    monkeypatch.setattr(tool, "plan", plan)
    monkeypatch.setattr(tool, "versions", lambda: ROW["versions"])
    monkeypatch.setattr(tool, "changed", lambda row: "")
    files = ["--out", str(tmp_path / "plans.jsonl"), "--table", str(tmp_path / "plans.md")]
    tool.main(["--configs", "mine.py", "--topologies", "v5e-8 v4-32", *files])
    tool.main(["--only", "vit_s16.py", *files])
    assert made == ["v5e-8", "v4-32", "v3-8", "v5e-8"]
    tool.main(["--only", "vit_s16.py", *files])
    assert len(made) == 4
    rows = [json.loads(text) for text in (tmp_path / "plans.jsonl").read_text().splitlines()]
    assert len(rows) == 4
    text = (tmp_path / "plans.md").read_text()
    assert text.index("`vit_s16.py`") < text.index("`mine.py`")
    # Other versions make all anew, in the place of the old.
    monkeypatch.setattr(tool, "versions", lambda: {"jax": "9"})
    tool.main(["--only", "vit_s16.py v3", *files])
    assert len(made) == 5 and len((tmp_path / "plans.jsonl").read_text().splitlines()) == 4
    # And so does another config.
    monkeypatch.setattr(tool, "changed", lambda row: "optim.ema was None and is 0.9")
    tool.main(["--only", "vit_s16.py v3", *files])
    assert len(made) == 6 and len((tmp_path / "plans.jsonl").read_text().splitlines()) == 4


def test_a_row_knows_what_it_was_made_from():
    run = config.load(ROW["config"], ROW["overrides"])
    row = ROW | {"run": tool.compiled_part(run)}
    assert tool.changed(row) == ""
    assert "did not write down" in tool.changed(ROW)
    optim = row["run"]["optim"]
    younger = {key: value for key, value in optim.items() if key != "offload"}
    assert tool.changed(row | {"run": row["run"] | {"optim": younger}}) == ""
    older = optim | {"b1": 0.5}
    assert tool.changed(row | {"run": row["run"] | {"optim": older}}) == (
        f"optim.b1 was 0.5 and is {run.optim.b1}"
    )
    gone = row["run"] | {"optim": optim | {"momentum_of_old": 1}}
    assert "cannot be compared: " in tool.changed(row | {"run": gone})


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--configs", "a.py"], "--configs and --topologies go together"),
        (["--only", "T5"], "--only T5 is in none of"),
        (["--onyl", "x"], "did you mean --only"),
    ],
)
def test_refusals(words, said):
    with pytest.raises(config.InputError, match=said):
        tool.main(words)


def test_the_shipped_cases_are_configs_and_slices_that_exist():
    from big_vit_lite.plan import parse

    for case in tool.CASES:
        run = config.load(case.config, case.overrides)
        assert not list(config.check_devices(run, parse(case.topology).devices)), case


def test_rows_are_of_the_configs_as_they_are_now():
    rows = tool.read(FILE.parents[1] / tool.OUT)
    stale = [
        f"{row['config']} on {row['asked']} in {tool.OUT} is to be made again, by `python "
        f"tools/plan.py --only '{row['config']} {row['asked']}'`: {change}"
        for row in rows
        if (change := tool.changed(row))
    ]
    assert not stale, "\n".join(stale)


def test_bytes_of_gradient_types_are_those_of_their_rows():
    """Those that docs/parallelism.md names."""
    root = FILE.parents[1]
    rows = {
        row["overrides"].get("optim.grad_dtype", "auto"): row
        for row in tool.read(root / tool.OUT)
        if row["asked"] == "v5e-4"
    }
    sums = {key: row["collectives"]["all-reduce"]["bytes"] / 1e6 for key, row in rows.items()}
    peaks = {f"{row['peak_bytes'] / 2**30:.1f}" for row in rows.values()}
    (peak,) = peaks
    page = " ".join((root / "docs" / "parallelism.md").read_text().split())
    assert (
        f"ViT-B/16 at batch 256 on 4 v5e (`mesh.data=4`) receives {sums['auto']:.0f} MB a step in "
        f"all-reduces with `auto` and {sums['float32']:.0f} MB with `float32`; its memory peak is "
        f"{peak} GiB with both."
    ) in page
    assert {row["settings"]["dtype"] for row in rows.values()} == {"bfloat16"}
    assert {row["batch_size"] for row in rows.values()} == {256}


def test_the_page_is_what_the_rows_say_and_every_shipped_config_is_among_them():
    root = FILE.parents[1]
    rows = tool.in_order(tool.read(root / tool.OUT))
    assert (root / tool.TABLE).read_text() == tool.document(rows)
    shipped = {file.name for file in (root / "configs").glob("[!_]*.py")}
    assert shipped == {Path(row["config"].split(":")[0]).name for row in rows}
    assert all(
        any(tool.is_row_of(case, row, any_version=True) for row in rows) for case in tool.CASES
    )
