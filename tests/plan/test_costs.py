"""What is read off compiled programs, against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from big_vit_lite import config, parallel
from big_vit_lite.plan import costs
from big_vit_lite.plan.hlo import Program, type_bytes

ONE_SLICE = np.zeros(8, int)
TWO_SLICES = np.arange(8) // 4


def program(function, *shapes):
    """Compiles a function that runs on each of 8 devices by itself."""
    mesh = parallel.make_mesh(config.Mesh(data=8))
    mapped = jax.shard_map(function, mesh=mesh, in_specs=P("data"), out_specs=P("data"))
    arguments = [
        jax.ShapeDtypeStruct(s, jnp.float32, sharding=NamedSharding(mesh, P("data")))
        for s in shapes
    ]
    return Program(jax.jit(mapped).lower(*arguments).compile().as_text())


N = 4 * 1024  # bytes of 1,024 float32 on each device


@pytest.mark.parametrize(
    ("kind", "function", "inside", "across"),
    [
        ("all-reduce", lambda x: jax.lax.psum(x, "data"), 2 * N * 3 / 4, 2 * N / 4 * 1 / 2),
        (
            "all-gather",
            lambda x: jax.lax.all_gather(x, "data", tiled=True)[:1024] * 2,
            8 * N * 3 / 4,
            N,
        ),
        (
            "reduce-scatter",
            lambda x: jax.lax.psum_scatter(x, "data", tiled=True),
            N * 3 / 4,
            N / 8,
        ),
        (
            "collective-permute",
            lambda x: jax.lax.ppermute(x, "data", [(i, (i + 1) % 8) for i in range(8)]),
            0,
            N,
        ),
    ],
)
def test_bytes_of_collectives(kind, function, inside, across):
    text = program(function, (8 * 1024,))
    one = costs.collectives(text, ONE_SLICE)
    assert set(one) == {kind} and one[kind].count == one[kind].executed == 1
    whole = {"all-reduce": 2 * N * 7 / 8, "all-gather": 7 * N, "reduce-scatter": N * 7 / 8}
    assert one[kind].bytes == whole.get(kind, N) and one[kind].network_bytes == 0
    two = costs.collectives(text, TWO_SLICES)[kind]
    assert (two.bytes, two.network_bytes) == (inside, across)


def test_loops_count_as_often_as_they_turn():
    def turn(x, _):
        return jnp.sin(x) + jax.lax.psum(x, "data") / 8, None

    def step(x):
        return jax.lax.scan(turn, x, None, 5)[0]

    text = program(step, (8 * 1024,))
    moved = costs.collectives(text, ONE_SLICE)["all-reduce"]
    assert (moved.count, moved.executed, moved.bytes) == (1, 5, 5 * 2 * N * 7 / 8)
    assert text.unknown_loops == 0


LOOP = """HloModule jit_f, entry_computation_layout={()->f32[8]{0}}

%body (p: (s32[], f32[8])) -> (s32[], f32[8]) {
  %p = (s32[]{:T(128)}, f32[8]{0:T(128)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%p), index=0
  %x = f32[8]{0:T(128)} get-tuple-element(%p), index=1
  %y = f32[8]{0:T(128)} all-reduce(%x), channel_id=1, replica_groups=GROUPS, to_apply=%add
  ROOT %t = (s32[]{:T(128)}, f32[8]{0:T(128)}) tuple(%i, %y)
}

%condition (p: (s32[], f32[8])) -> pred[] {
  %limit = s32[]{:T(128)} constant(12)
  %p = (s32[]{:T(128)}, f32[8]{0:T(128)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%p), index=0
  ROOT %less = pred[]{:T(512)} compare(%i, %limit), direction=DIRECTION
}

ENTRY %main (a: (s32[], f32[8])) -> (s32[], f32[8]) {
  %a = (s32[]{:T(128)}, f32[8]{0:T(128)}) parameter(0)
  ROOT %w = (s32[]{:T(128)}, f32[8]{0:T(128)}) while(%a), condition=%condition, body=%body
}
"""


@pytest.mark.parametrize(
    ("groups", "members"),
    [
        ("{{0,1},{2,3},{4,5},{6,7}}", 2),
        ("[2,4]<=[8]", 4),
        ("[4,2]<=[2,4]T(1,0)", 2),
        ("mesh['axis_0'=1,'axis_1'=8] {'axis_1'}", 8),
        ("mesh['a'=2,'b'=4] {'a'}", 2),
        ("mesh['a'=8] {'a':(2)4}", 4),
    ],
)
def test_forms_in_which_groups_are_written(groups, members):
    text = LOOP.replace("GROUPS", groups).replace("DIRECTION", "LT")
    moved = costs.collectives(Program(text), ONE_SLICE)["all-reduce"]
    assert moved.executed == 12
    assert moved.bytes == 12 * int(2 * 32 * (members - 1) / members)


def test_a_loop_whose_turns_are_not_told_counts_once_and_is_reported():
    read = Program(LOOP.replace("GROUPS", "[1,8]<=[8]").replace("DIRECTION", "GT"))
    assert read.unknown_loops == 1
    assert costs.collectives(read, ONE_SLICE)["all-reduce"].executed == 1


CROSSING = """HloModule jit_f

ENTRY %main (a: f32[1,8,128]) -> f32[1,8,128] {
  %a = f32[1,8,128]{2,1,0:T(8,128)} parameter(0)
  %t = token[] after-all(), frontend_attributes={MegascaleRendezvousKeyName="all-reduce_0"}
  %send = (f32[1,8,128]{2,1,0:T(8,128)}, u32[], token[]) send(%a, %t), channel_id=2, is_host_transfer=true, frontend_attributes={_xla_host_transfer_rendezvous="all-reduce_0"}
  %recv = (f32[1,8,128]{2,1,0:T(8,128)}, u32[], token[]) recv(%t), channel_id=1, is_host_transfer=true, frontend_attributes={_xla_host_transfer_rendezvous="all-reduce_0",_xla_megascale_reduce_operation="SUM"}
  %recv-done = (f32[1,8,128]{2,1,0:T(8,128)}, token[]) recv-done(%recv), channel_id=1
  ROOT %y = f32[1,8,128]{2,1,0:T(8,128)} get-tuple-element(%recv-done), index=0
}
"""  # noqa: E501


def test_what_hosts_exchange_between_slices():
    """As libtpu writes an all-reduce over slices: each sends its part and receives the sum."""
    moved = costs.collectives(Program(CROSSING), TWO_SLICES)
    assert set(moved) == {"all-reduce"}
    total = moved["all-reduce"]
    assert (total.count, total.bytes, total.network_bytes) == (1, 0, 4096)
    four = costs.collectives(Program(CROSSING), np.arange(8) // 2)["all-reduce"]
    assert four.network_bytes == 2 * 4096 * 3 / 4


def test_types():
    assert type_bytes("f32[8,128]{1,0:T(8,128)}") == 4096
    assert type_bytes("(bf16[2,3]{1,0}, u8[5]{0}, s32[])") == 12 + 5 + 4
    fast = "(bf16[128]{0:T(128)S(1)}, f32[128]{0:T(128)})"
    assert type_bytes(fast) == 256 + 512 and type_bytes(fast, main_memory_only=True) == 512


def test_memory_traffic_of_an_elementwise_function_is_what_it_reads_and_writes():
    text = jax.jit(lambda x, y: jnp.sin(x) + y).lower(*2 * [jnp.ones(4096)]).compile().as_text()
    assert costs.memory_traffic(Program(text)) == 3 * 4096 * 4


def test_memory_traffic_of_a_scan_reads_each_layer_once_a_turn():
    """Not the whole stack in every turn, and not one turn only."""
    layers, width, rows = 12, 256, 64

    def forward(x, weights):
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, weights)[0]

    shapes = (jnp.ones((rows, width)), jnp.ones((layers, width, width)))
    text = jax.jit(forward).lower(*shapes).compile().as_text()
    stack = layers * width * width * 4
    activations = layers * rows * width * 4
    traffic = costs.memory_traffic(Program(text))
    assert stack + 2 * activations <= traffic <= 4 * stack + 8 * activations
