"""Small programs of the compiler's own making, and its TPU dialect written out by hand."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec as P

from dinov3_jax.config import MeshConfig
from dinov3_jax.distributed.mesh import make_mesh
from dinov3_jax.plan import hlo

TPU = """
HloModule jit_step

%gather_body.clone (p.0: bf16[4,8]) -> bf16[16,8] {
  %p.0 = bf16[4,8]{1,0:T(8,128)(2,1)} parameter(0)
  ROOT %all-gather.9 = bf16[16,8]{1,0:T(8,128)(2,1)} all-gather(%p.0), channel_id=7, dimensions={0}, metadata={op_name="blocks/all_gather"}
}

%on_sparse_core (p.1: bf16[4,8]) -> bf16[16,8] {
  %p.1 = bf16[4,8]{1,0} parameter(0)
  ROOT %custom-call.1 = bf16[16,8]{1,0} custom-call(%p.1), custom_call_target="x", called_computations={%gather_body.clone}
}

%fused_start (p.2: bf16[4,8]) -> (bf16[4,8], bf16[16,8]) {
  %p.2 = bf16[4,8]{1,0} parameter(0)
  %all-gather.1 = bf16[16,8]{1,0} all-gather(%p.2), channel_id=3, dimensions={0}, metadata={op_name="head/all_gather"}
  ROOT %tuple.1 = (bf16[4,8]{1,0}, bf16[16,8]{1,0}) tuple(%p.2, %all-gather.1)
}

%fused_done (p.3: bf16[4,8]) -> bf16[16,8] {
  %p.3 = bf16[4,8]{1,0} parameter(0)
  ROOT %all-gather.2 = bf16[16,8]{1,0} all-gather(%p.3), channel_id=3, dimensions={0}, metadata={op_name="head/all_gather"}
}

%body (arg: (s32[], bf16[4,8])) -> (s32[], bf16[4,8]) {
  %arg = (s32[], bf16[4,8]{1,0}) parameter(0)
  %shard = bf16[4,8]{1,0} get-tuple-element(%arg), index=1
  %start = bf16[16,8]{1,0} async-start(%shard), async_execution_thread="sparsecore", calls=%on_sparse_core
  %wide = f32[16,8]{1,0} fusion(%start), kind=kLoop, calls=%plain, backend_config={"estimated_cycles":"100"}
  %reduce-scatter.1 = f32[4,8]{1,0} reduce-scatter(%wide), channel_id=1, dimensions={0}, metadata={op_name="blocks/reduce_scatter"}
  ROOT %next = (s32[], bf16[4,8]{1,0}) tuple(%arg)
}

%plain (p.4: bf16[16,8]) -> f32[16,8] {
  ROOT %p.4 = bf16[16,8]{1,0} parameter(0)
}

%condition (arg.1: (s32[], bf16[4,8])) -> pred[] {
  %constant.1 = s32[]{:T(128)} constant(40)
  ROOT %lt = pred[]{:T(512)} compare(%arg.1, %constant.1), direction=LT
}

ENTRY %main (a: bf16[4,8]) -> bf16[16,8] {
  %a = bf16[4,8]{1,0} parameter(0)
  %while.1 = (s32[], bf16[4,8]{1,0}) while(%a), condition=%condition, body=%body
  %f.1 = (bf16[4,8]{1,0}, bf16[16,8]{1,0}) fusion(%a), kind=kCustom, calls=%fused_start, backend_config={"estimated_cycles":"7"}
  %f.2 = bf16[16,8]{1,0} fusion(%a), kind=kCustom, calls=%fused_done, backend_config={"estimated_cycles":"9223372036854775807"}
  ROOT %all-reduce.1 = f32[10]{0} all-reduce(%x), channel_id=2, metadata={op_name="norm"}
}
"""  # noqa: E501


# libtpu 0.0.42 calls what 0.0.52 wraps into a custom call.
CALLED = TPU.replace(
    'custom-call(%p.1), custom_call_target="x", called_computations={%gather_body.clone}',
    "call(%p.1), to_apply=%gather_body.clone",
)


def test_what_is_called_from_the_main_thread_is_synchronous():
    text = CALLED.replace("async-start(%shard)", "call(%shard)").replace(
        'async_execution_thread="sparsecore", calls=', "to_apply="
    )
    assert [c.asynchronous for c in hlo.collectives(text) if c.name.startswith("blocks/")] == [
        False,
        False,
    ]


@pytest.mark.parametrize("text", [TPU, CALLED])
def test_loops_count_each_turn_and_asynchronous_ones_are_known(text):
    found = {(c.kind, c.name): c for c in hlo.collectives(text)}
    assert len(found) == 4
    sparse = found["all-gather", "blocks/all_gather"]
    # 4 x 8 of 16 x 8 were there.
    assert (sparse.times, sparse.bytes, sparse.asynchronous) == (40, 12 * 8 * 2, True)
    scatter = found["reduce-scatter", "blocks/reduce_scatter"]
    assert (scatter.times, scatter.bytes, scatter.size) == (40, 12 * 8 * 4, 16 * 8 * 4)
    assert not scatter.asynchronous
    reduce = found["all-reduce", "norm"]
    assert (reduce.times, reduce.bytes, reduce.asynchronous) == (1, 80, False)


def test_start_and_end_of_one_collective_count_once():
    head = [c for c in hlo.collectives(TPU) if c.name == "head/all_gather"]
    assert [(c.times, c.bytes, c.asynchronous) for c in head] == [(1, 192, True)]


def test_cycles():
    assert hlo.cycles(TPU) == 40 * 100 + 7


def test_a_program_without_machine_code_has_no_cycles():
    assert hlo.cycles(TPU.replace("estimated_cycles", "other")) is None


@pytest.mark.parametrize(
    "branches",
    [
        "branch_computations={%plain, %body}",
        "branch_computations={%body, %plain}",
        "true_computation=%body, false_computation=%plain",
        "true_computation=%plain, false_computation=%body",
    ],
)
def test_every_branch_is_read(branches):
    program = TPU.replace("while(%a), condition=%condition, body=%body", f"cond(%a), {branches}")
    scatter = [c.times for c in hlo.collectives(program) if c.kind == "reduce-scatter"]
    assert scatter == [1]


def test_a_loop_of_unknown_turns_is_an_error_where_it_holds_what_counts():
    program = TPU.replace("s32[]{:T(128)} constant(40)", "s32[]{:T(128)} parameter(1)")
    with pytest.raises(ValueError, match="loop whose number of turns"):
        hlo.collectives(program)
    with pytest.raises(ValueError, match="loop whose number of turns"):
        hlo.cycles(program)
    idle = program.replace("condition=%condition, body=%body", "condition=%condition, body=%plain")
    assert {c.name for c in hlo.collectives(idle)} == {"head/all_gather", "norm"}
    assert hlo.cycles(idle) == 7


def test_text_that_is_no_module():
    with pytest.raises(ValueError, match="no ENTRY computation"):
        hlo.collectives("%f (x: f32[]) -> f32[] {\n}\n")


def test_a_module_is_whole_with_the_end_of_its_entry():
    assert hlo.is_whole(TPU)
    for cut in (0, TPU.index("ENTRY"), TPU.index("%f.2"), TPU.rindex("}")):
        assert not hlo.is_whole(TPU[:cut])


def test_packed_bytes():
    report = "Memory Space: default (color=0)\nTotal bytes: 1024 (1.0KiB)\n"
    assert hlo.packed_bytes(report) == 1024
    assert hlo.packed_bytes("") is None
    assert hlo.packed_bytes("Memory Space: default (color=0)\nTotal bytes: 10") is None


def test_a_scan_that_gathers_a_weight_at_each_turn():
    """The compiler's text of eight devices: 5 layers, each gathered whole from eighths."""
    mesh = make_mesh(MeshConfig(1, 8, 1, 1))

    def layers(x, weights):
        def body(x, shard):
            whole = jax.lax.all_gather(shard, "fsdp", tiled=True)
            return jnp.tanh(x @ whole), None

        return jax.lax.scan(body, x, weights)[0]

    run = jax.shard_map(
        layers, mesh=mesh, in_specs=(P("fsdp"), P(None, "fsdp")), out_specs=P("fsdp"),
        check_vma=False,
    )  # fmt: skip
    shape = lambda *n, spec: jax.ShapeDtypeStruct(  # noqa: E731
        n, jnp.float32, sharding=NamedSharding(mesh, spec)
    )
    args = shape(8, 16, spec=P("fsdp")), shape(5, 16, 16, spec=P(None, "fsdp"))
    (found,) = hlo.collectives(jax.jit(run).lower(*args).compile().as_text())
    assert (found.kind, found.times, found.bytes) == ("all-gather", 5, 7 * 2 * 16 * 4)
