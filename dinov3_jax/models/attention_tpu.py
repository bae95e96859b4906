"""Attention as one TPU kernel, for sequences so short that all keys fit into VMEM.

A program of the grid holds a block of queries and all T keys and values of a few heads of one
sequence. No [T, T] array reaches HBM and softmax is the plain one, without running maxima. Only q,
k and v are saved for the backward pass, which computes the probabilities again:

    P  = softmax(q kᵀ / √C)                  out = P v
    dS = P ∘ (dP - Σ_keys P ∘ dP)            dP  = dout vᵀ
    dq = dS k / √C                           dk  = dSᵀ q / √C            dv = Pᵀ dout

Products take inputs of the arrays' dtype and sum in float32; all that lies between is float32.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import AxisType, PartitionSpec as P

from dinov3_jax.distributed.sharding import BATCH_AXES

MAX_TOKENS = 8192
_LANES = 128  # a block of heads is a multiple of the vector registers' width, or all A
_ROWS = 16  # a block of queries is a multiple of the rows of a bfloat16 register, or all T
# Of one block, where A and C let it: several heads hide each other's latencies, and all of it is
# unrolled into instructions.
_HEADS = 4
_KEYS = 2048  # heads x T
_SCORES = 2**20  # heads x queries x T
_VMEM = 64 * 2**20  # bytes that a kernel may use: all of a v5p's, half of a v5e's or v6e's


@jax.custom_vjp
def attention(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """softmax(q kᵀ / √C) v for q, k, v [n, T, A, C] of one dtype.

    Any T up to ``MAX_TOKENS``, without padding: the compiler masks what the last registers hold
    beyond it. Under a mesh each device takes its share of n. Compiles for TPUs alone; elsewhere
    Pallas' interpret mode runs it. Raises ``ValueError`` for a longer sequence.
    """
    return _forward(q, k, v)


def _forward(q, k, v):
    run = functools.partial(_run, _forward_kernel, reads="qkk", writes="q", sums=0, products=2)
    return _on_each_device(run, q, k, v)[0]


def _backward(saved, dout):
    run = functools.partial(_run, _backward_kernel, reads="qkkq", writes="qkk", sums=2, products=5)
    return _on_each_device(run, *saved, dout)


attention.defvjp(lambda q, k, v: (_forward(q, k, v), (q, k, v)), _backward)


def _on_each_device(run, *arrays):
    """``run`` on each device's share of n, and of A where the mesh's axis "tensor" divides it.

    A kernel is opaque to the partitioner, which would gather what it reads.
    """
    mesh = jax.sharding.get_abstract_mesh()
    free = {axis for axis, kind in zip(mesh.axis_names, mesh.axis_types) if kind == AxisType.Auto}
    if not free:  # no mesh, or inside of a shard_map
        return run(*arrays)
    batch = tuple(axis for axis in BATCH_AXES if axis in free)
    heads = (
        "tensor" if "tensor" in free and arrays[0].shape[2] % mesh.shape["tensor"] == 0 else None
    )
    spec = P(batch, None, heads)
    sharded = jax.shard_map(run, in_specs=spec, out_specs=spec, axis_names=free, check_vma=False)
    return sharded(*arrays)


def _run(kernel, *arrays, reads: str, writes: str, sums: int, products: int):
    """The kernel, which sees arrays [n, T, A, C] as [n, T, A·C].

    A letter each of ``reads`` and ``writes`` says whether a program has a block of queries or all
    keys; ``sums`` float32 arrays of the size of the latter live through a whole sequence.
    """
    (n, T, A, C), dtype = arrays[0].shape, arrays[0].dtype
    queries, heads = _blocks(T, A, C)
    specs = {
        "q": pl.BlockSpec((1, queries, heads * C), lambda n, head, query: (n, query, head)),
        "k": pl.BlockSpec((1, T, heads * C), lambda n, head, query: (n, 0, head)),
    }
    flat = jax.ShapeDtypeStruct((n, T, A * C), dtype)
    outputs = pl.pallas_call(
        functools.partial(kernel, heads=heads),
        name=f"attention{kernel.__name__.removesuffix('_kernel')}",
        grid=(n, A // heads, pl.cdiv(T, queries)),
        in_specs=[specs[letter] for letter in reads],
        out_specs=[specs[letter] for letter in writes],
        out_shape=[flat] * len(writes),
        scratch_shapes=[pltpu.VMEM((T, heads * C), jnp.float32)] * sums,
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "parallel", "arbitrary"), vmem_limit_bytes=_VMEM
        ),
        # What the scheduler hides communication behind; it cannot look into a kernel.
        cost_estimate=pl.CostEstimate(
            flops=2 * products * n * A * T * T * C,
            transcendentals=n * A * T * T,
            bytes_accessed=len(reads + writes) * n * T * A * C * dtype.itemsize,
        ),
    )(*(array.reshape(flat.shape) for array in arrays))
    return tuple(output.reshape(n, T, A, C) for output in outputs)


def _blocks(T, A, C):
    """(queries, heads) of one program."""
    if T > MAX_TOKENS:
        raise ValueError(
            f"sequences of {T} tokens; the TPU kernel takes {MAX_TOKENS} at most, set "
            "student.attention='xla'"
        )
    fitting = [h for h in range(1, A + 1) if A % h == 0 and h * C % _LANES == 0] or [A]
    heads = max((h for h in fitting if h <= min(_HEADS, _KEYS // T)), default=fitting[0])
    queries = pl.cdiv(T, pl.cdiv(heads * T * T, _SCORES))
    return (T if queries == T else pl.cdiv(queries, _ROWS) * _ROWS), heads


def _product(a, b, axes):
    """a · b over one axis of each, float32."""
    return jax.lax.dot_general(a, b, (axes, ((), ())), preferred_element_type=jnp.float32)


def _probabilities(q, k):
    scores = _product(q, k, ((1,), (1,)))
    exps = jnp.exp((scores - scores.max(1, keepdims=True)) * q.shape[1] ** -0.5)
    return exps / exps.sum(1, keepdims=True)


def _head(block, head, heads):
    """The index of one head in a block [1, ·, heads·C]."""
    width = block.shape[2] // heads
    return 0, slice(None), pl.ds(head * width, width)


def _forward_kernel(q, k, v, out, *, heads):
    for head in range(heads):
        here = _head(q, head, heads)
        p = _probabilities(q[here], k[here])
        out[here] = _product(p.astype(v.dtype), v[here], ((1,), (0,))).astype(out.dtype)


def _backward_kernel(q, k, v, dout, dq, dk, dv, dk_sum, dv_sum, *, heads):
    """dk and dv are summed over the blocks of queries, the last axis of the grid."""
    step, steps = pl.program_id(2), pl.num_programs(2)

    @pl.when(step == 0)
    def _():
        dk_sum[...] = jnp.zeros_like(dk_sum)
        dv_sum[...] = jnp.zeros_like(dv_sum)

    queries, tokens = q.shape[1], k.shape[1]
    for head in range(heads):
        here = _head(q, head, heads)
        q_, k_, v_, dout_ = q[here], k[here], v[here], dout[here]
        if tokens % queries:  # the last block ends beyond the sequence, in undefined rows
            row = step * queries + jax.lax.broadcasted_iota(jnp.int32, q_.shape, 0)
            q_, dout_ = (jnp.where(row < tokens, x, jnp.zeros_like(x)) for x in (q_, dout_))
        p = _probabilities(q_, k_)
        dp = _product(dout_, v_, ((1,), (1,)))
        ds = p * (dp - (p * dp).sum(1, keepdims=True)) * q_.shape[1] ** -0.5
        p, ds = p.astype(q.dtype), ds.astype(q.dtype)
        dq[here] = _product(ds, k_, ((1,), (0,))).astype(dq.dtype)
        dk_sum[here[1:]] += _product(ds, q_, ((0,), (0,)))
        dv_sum[here[1:]] += _product(p, dout_, ((0,), (0,)))

    @pl.when(step == steps - 1)
    def _():
        dk[0] = dk_sum[...].astype(dk.dtype)
        dv[0] = dv_sum[...].astype(dv.dtype)
