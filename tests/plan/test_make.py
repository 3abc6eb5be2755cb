"""Plans on this machine's eight CPU devices: what they say is what the compiled step is."""

import dataclasses

import jax
import pytest
from small import batch_spec, make_optimizer, make_run, make_task

from big_vit_lite import assembly, config, optim, parallel, report
from big_vit_lite.plan import Plan, make, remedies, text
from big_vit_lite.plan.batches import describe

FSDP = config.Mesh(data=1, fsdp=8)
WIDE = {"width": 128, "depth": 2, "heads": 4, "mlp_dim": 512, "patch": 4, "scan": True}


SMALL = {"depth": 2, "scan": True}


def plan_of(run):
    return make(run, parallel.make_mesh(run.mesh))


def wide_run(**fields):
    return make_run(batch_size=128, model={**WIDE, "remat": "none"}, mesh=FSDP, **fields)


def test_a_plan_reads_the_step_that_training_compiles():
    run = make_run(mesh=config.Mesh(data=2, fsdp=4), optim={"ema": 0.9}, model=SMALL)
    plan = plan_of(run)
    per_image = 3 * report.forward_flops(
        width=32, depth=2, mlp_dim=64, patches=16, tokens=16, patch_dim=192, classes=10, pool="gap"
    )
    assert plan.flops == 16 * per_image // 8
    task = make_task(run)
    mesh = parallel.make_mesh(run.mesh)
    training = parallel.compile_training(
        task, make_optimizer(run, task), mesh, batch_spec(run, mesh), run.seed
    )
    memory = training.compiled.memory_analysis()
    assert plan.peak_bytes == (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes
    )
    assert plan.state_bytes == parallel.shard_bytes(training.abstract)
    # All of the state is donated, and nothing else is.
    assert plan.aliased_bytes == plan.state_bytes
    assert plan.fits is True and plan.limit_bytes == report.capacity(jax.devices()[0])
    assert plan.settings["dtype"] == "float32" and plan.mesh == {"data": 2, "fsdp": 4, "tensor": 1}
    assert plan.roofline_s == plan.flops / plan.peak_flops
    assert plan.images_per_s == pytest.approx(16 / plan.roofline_s)


def test_a_state_that_fsdp_leaves_whole_is_told():
    mesh = {"data": 1, "fsdp": 8, "tensor": 1}
    plan = dataclasses.replace(PLAN, mesh=mesh, whole_state_bytes=8000)
    assert not plan.uneven
    whole = dataclasses.replace(plan, state_bytes=2000)
    assert whole.uneven
    assert "over fsdp 8 would be less" in text.describe(dataclasses.replace(whole, compiled=False))


def test_a_lost_donation_shows(monkeypatch):
    jit = jax.jit
    monkeypatch.setattr(jax, "jit", lambda f, donate_argnums=None, **options: jit(f, **options))
    plan = plan_of(make_run(mesh=FSDP, model=SMALL))
    assert plan.aliased_bytes == 0
    assert "NOT ALL of it" in text.describe(plan)


def test_budget_of_memory_and_collectives_and_what_losing_constrain_does_to_it(monkeypatch):
    plan = plan_of(wide_run())
    assert plan.temporary_bytes < 70 * 2**20
    assert plan.collectives["all-gather"].count <= 8
    assert "all-to-all" not in plan.collectives
    # Each layer's weights are gathered in one loop forward and one backward.
    assert plan.collectives["all-gather"].executed <= 8 * 2
    moved = sum(c.bytes for c in plan.collectives.values())
    for module in ("models.vit", "models.layers.blocks", "tasks.classification"):
        monkeypatch.setattr(f"big_vit_lite.{module}.constrain", lambda x, *rest: x)
    monkeypatch.setattr("big_vit_lite.models.layers.blocks.weights_are_split", lambda: False)
    loose = plan_of(wide_run())
    assert loose.temporary_bytes > 1.3 * 70 * 2**20
    assert loose.collectives["all-gather"].count > 30
    assert sum(c.bytes for c in loose.collectives.values()) > 5 * moved


def test_data_that_are_not_here_are_described_by_the_config():
    run = config.load("configs/vit_b16.py:path=/nowhere")
    found = describe(run, parallel.make_mesh())
    assert {key: (x.shape, str(x.dtype)) for key, x in found.spec.items()} == {
        "image": ((4096, 224, 224, 3), "uint8"),
        "label": ((4096,), "int32"),
    }
    assert found.spec["image"].sharding.shard_shape((4096, 224, 224, 3))[0] == 512
    assert len(found.class_names) == 1000
    assert found.assumed[0].startswith("1,000 classes, as /nowhere was not read")
    assert found.assumed[1].startswith("1,281,167 examples an epoch")
    said = config.load("configs/vit_b16.py:path=/nowhere", {"model.classes": 9, "steps": 20_000})
    assert describe(said, parallel.make_mesh()).assumed == ()


def test_image_sizes_that_only_files_tell_are_asked_for():
    transform = {"data.train.transform": "decode|flip"}
    run = config.load("configs/vit_b16.py:path=/nowhere", transform)
    with pytest.raises(config.InputError, match="leaves the size of image to the files"):
        describe(run, parallel.make_mesh())
    run = config.load("configs/vit_b16.py:path=/nowhere", transform | {"model.image_size": 96})
    assert describe(run, parallel.make_mesh()).spec["image"].shape == (4096, 96, 96, 3)


def test_data_that_are_here_tell_their_classes():
    run = config.load("configs/quickstart.py")
    found = describe(run, parallel.make_mesh())
    assert len(found.class_names) == 10 and found.assumed == ()


@pytest.fixture
def halving(monkeypatch):
    """A machine on which activations take 8,000 bytes, in proportion, and the state 1,000."""

    def made(run, mesh, topology=None):
        beside = 8000 * run.data.batch_size / 16 / run.optim.accumulate
        beside *= {"none": 1.0, "auto": 1.0, "dots": 0.6, "full": 0.3}[run.model.remat]
        settings = {"remat": run.model.remat}
        return dataclasses.replace(
            PLAN, peak_bytes=1000 + int(beside), batch_size=run.data.batch_size, settings=settings
        )

    monkeypatch.setattr(remedies, "make", made)
    return made


PLAN = Plan(
    model="B/16",
    parameters=1,
    topology="v5e:2x4",
    device_kind="TPU v5 lite",
    devices=8,
    mesh={"data": 8, "fsdp": 1, "tensor": 1},
    batch_size=16,
    settings={"remat": "none"},
    state_bytes=1000,
    whole_state_bytes=1000,
    peak_bytes=9000,
    limit_bytes=2100,
    flops=1,
    peak_flops=None,
    compiled=True,
    compile_s=0.0,
)


def test_remedies_go_as_far_as_they_must(halving):
    run = make_run(batch_size=256, model={"remat": "none"})
    run = remedies.with_changes(run, {"data.batch_size": 16})
    tried = {str(t): t.plan.fits for t in remedies.search(run, jax.devices(), PLAN)}
    assert tried["--config.model.remat=dots"] is False
    assert tried["--config.model.remat=full"] is False
    # 16 images on 8 devices: two parts are all there are, and half the batch likewise.
    assert "--config.optim.accumulate=8" not in tried
    run = remedies.with_changes(run, {"data.batch_size": 128})
    plan = halving(run, None)
    plan = dataclasses.replace(plan, limit_bytes=10_000)
    tried = {str(t): t.plan.peak_bytes for t in remedies.search(run, jax.devices(), plan)}
    assert tried["--config.optim.accumulate=8"] == 1000 + 8000
    assert tried["--config.data.batch_size=16"] == 1000 + 8000


def test_best_split_is_the_fewest_ways_that_leave_least(monkeypatch):
    monkeypatch.setattr("big_vit_lite.parallel.rules.MIN_FSDP_SIZE", 64)
    run = make_run(mesh=config.Mesh(data=8))

    def state_bytes(fsdp):
        mesh = parallel.make_mesh(config.Mesh(data=8 // fsdp, fsdp=fsdp))
        return remedies._state_bytes(run, mesh)

    whole, least = state_bytes(1), state_bytes(8)
    assert least < 0.2 * whole
    plan = dataclasses.replace(PLAN, state_bytes=whole)
    assert remedies.best_split(run, jax.devices(), plan) == (1, 8)
    split = {"data": 1, "fsdp": 8, "tensor": 1}
    plan = dataclasses.replace(PLAN, state_bytes=least, mesh=split)
    assert remedies.best_split(run, jax.devices(), plan) is None
    # Nothing divides by more than 4: then 4 ways are enough.
    monkeypatch.setattr(
        remedies, "_state_bytes", lambda run, mesh: 800 // min(4, mesh.shape["fsdp"])
    )
    plan = dataclasses.replace(PLAN, state_bytes=800)
    assert remedies.best_split(run, jax.devices(), plan) == (2, 4)


def test_two_towers_are_planned_without_data_or_vocabulary(monkeypatch):
    """At the length of CLIP's own data: its warmup fits into epochs of that alone."""
    run = config.load("configs/clip_b32.py:path=/nowhere")
    mesh = parallel.make_mesh()
    found = describe(run, mesh)
    assert {key: x.shape for key, x in found.spec.items()} == {
        "image": (32_768, 224, 224, 3),
        "text": (32_768, 77),
    }
    assert found.assumed == ("400,000,000 examples an epoch, which sets learning rates only",)
    parts = assembly.assemble_step(run, mesh, found)
    optim.build(run, assembly.abstract_params(parts), parts.steps, found.examples)
    monkeypatch.setattr(remedies, "best_split", lambda *_: None)
    changes = [changes for changes, _ in remedies._single(run, jax.devices(), PLAN)]
    assert {"model.remat": "full", "text.remat": "full"} in changes
