"""Attention as one TPU kernel, for sequences so short that all keys fit into VMEM.

A program of the grid holds a block of queries and all T keys and values of a few heads of one
sequence, read from where the matrix product wrote them: q, k and v are never cut apart in HBM. No
[T, T] array reaches it and softmax is the plain one, without running maxima. Only qkv is saved for
the backward pass, which computes the probabilities again:

    P  = softmax(q kᵀ / √C)                  out = P v          q, k turned by RoPE
    dS = P ∘ (dP - Σ_keys P ∘ dP)            dP  = dout vᵀ
    dq = dS k / √C                           dk  = dSᵀ q / √C   both turned back
    dv = Pᵀ dout

RoPE is part of it because in XLA the slices, halves and copies around the rotation take several
times as long as the kernel (docs/attention.md).
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


def attention(qkv: jax.Array, sin: jax.Array, cos: jax.Array, *, tokens: int) -> jax.Array:
    """``attention.attention`` for qkv [n, T, 3, A, C] and sin, cos [S, N, C].

    Any T up to ``MAX_TOKENS``, without padding: the compiler masks what the last registers hold
    beyond it. Under a mesh each device takes its share of n, and of S unless it is 1. Compiles for
    TPUs alone; elsewhere Pallas' interpret mode runs it. Raises ``ValueError`` for a longer
    sequence. No gradient reaches sin and cos.
    """
    # Neither what stands before the patches nor the padding is turned.
    around = ((0, 0), (tokens - sin.shape[1], qkv.shape[1] - tokens), (0, 0))
    signs = jnp.where(jnp.arange(sin.shape[2]) < sin.shape[2] // 2, -1, 1).astype(sin.dtype)
    table = jnp.pad(sin * signs, around), jnp.pad(cos, around, constant_values=1.0)
    return _attention(qkv, jnp.concatenate(table, axis=2), tokens)  # [S, T, 2C]


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _attention(qkv, table, tokens):
    return _forward(qkv, table, tokens)[0]


def _forward(qkv, table, tokens):
    def run(table, qkv):
        reads, shape = _thirds(qkv), qkv.shape
        kernel = functools.partial(_forward_kernel, tokens=tokens)
        (out,) = _run(kernel, table, reads, shape, writes="q", sums=0, products=2)
        return out.reshape(qkv.shape[:2] + qkv.shape[3:])

    return _on_each_device(run, table, qkv), (qkv, table)


def _backward(tokens, saved, dout):
    def run(table, qkv, dout):
        reads, shape = [*_thirds(qkv), (_flat(dout), "q", 0)], qkv.shape
        kernel = functools.partial(_backward_kernel, tokens=tokens)
        parts = _run(kernel, table, reads, shape, writes="qkk", sums=2, products=5)
        return jnp.concatenate(parts, axis=2).reshape(qkv.shape)

    qkv, table = saved
    return _on_each_device(run, table, qkv, dout), None


_attention.defvjp(_forward, _backward)


def _flat(x):
    return x.reshape(*x.shape[:2], -1)


def _thirds(qkv):
    """What ``_run`` reads of qkv [n, T, 3, A, C]: itself, thrice."""
    flat, rows, thirds = _flat(qkv), "qkk", range(3)
    if qkv.shape[3] * qkv.shape[4] % _LANES == 0:
        return [(flat, *third) for third in zip(rows, thirds)]
    # A block begins at a whole register: thirds that do not are copied.
    return [(third, letter, 0) for third, letter in zip(jnp.split(flat, 3, axis=2), rows)]


def _on_each_device(run, table, *arrays):
    """``run(table, qkv)`` -> out or ``run(table, qkv, dout)`` -> dqkv, on each device's share.

    That is its share of n, and of A where the mesh's axis "tensor" divides it.

    A kernel is opaque to the partitioner, which would gather what it reads.
    """
    mesh = jax.sharding.get_abstract_mesh()
    free = {axis for axis, kind in zip(mesh.axis_names, mesh.axis_types) if kind == AxisType.Auto}
    if not free:  # no mesh, or inside of a shard_map
        return run(table, *arrays)
    batch = tuple(axis for axis in BATCH_AXES if axis in free)
    split = "tensor" in free and arrays[0].shape[-2] % mesh.shape["tensor"] == 0
    specs = [P(batch, *[None] * (x.ndim - 3), "tensor" if split else None) for x in arrays]
    return jax.shard_map(
        run,
        in_specs=(P(batch) if len(table) > 1 else P(), *specs),
        out_specs=specs[0] if len(arrays) > 1 else P(batch, None, *specs[0][3:]),
        axis_names=free,
        check_vma=False,
    )(table, *arrays)


def _run(kernel, table, reads, shape, *, writes: str, sums: int, products: int):
    """The kernel over the heads of qkv of ``shape`` [n, T, 3, A, C].

    ``reads``: (array [n, T, ·], "q" for a block of queries or "k" for all keys, how many times A·C
    columns lie before them); a letter each of ``writes`` is an array [n, T, A·C]. Before them a
    program reads the rows of the table [S, T, 2C] that belong to either. ``sums`` float32 arrays of
    the size of all keys live through a whole sequence.
    """
    (n, T, _, A, C), dtype = shape, reads[0][0].dtype
    queries, heads = _blocks(T, A, C)
    group, parts = n // len(table), A // heads

    def block(rows, before=0):
        if rows == "k":
            return pl.BlockSpec((1, T, heads * C), lambda n, head, _: (n, 0, before * parts + head))
        return pl.BlockSpec((1, queries, heads * C), lambda n, head, query: (n, query, head))

    table_specs = [
        pl.BlockSpec((1, queries, 2 * C), lambda n, head, query: (n // group, query, 0)),
        pl.BlockSpec((1, T, 2 * C), lambda n, head, query: (n // group, 0, 0)),
    ]
    return pl.pallas_call(
        functools.partial(kernel, heads=heads),
        name=f"attention{kernel.func.__name__.removesuffix('_kernel')}",
        grid=(n, parts, pl.cdiv(T, queries)),
        in_specs=table_specs + [block(rows, before) for _, rows, before in reads],
        out_specs=[block(rows) for rows in writes],
        out_shape=[jax.ShapeDtypeStruct((n, T, A * C), dtype)] * len(writes),
        scratch_shapes=[pltpu.VMEM((T, heads * C), jnp.float32)] * sums,
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "parallel", "arbitrary"), vmem_limit_bytes=_VMEM
        ),
        # What the scheduler hides communication behind; it cannot look into a kernel.
        cost_estimate=pl.CostEstimate(
            flops=2 * products * n * A * T * T * C,
            transcendentals=n * A * T * T,
            bytes_accessed=(len(reads) + len(writes)) * n * T * A * C * dtype.itemsize,
        ),
    )(table, table, *(array for array, _, _ in reads))


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


def _head(block, head, heads, rows=None):
    """The index of one head in a block [1, ·, heads·C], of its first ``rows``."""
    width = block.shape[2] // heads
    return 0, slice(rows), pl.ds(head * width, width)


def _turn(x, table, *, back=False):
    """RoPE of rows [·, C] by their rows of the table, or its inverse; float32."""
    C = x.shape[1]
    x, sin, cos = (t.astype(jnp.float32) for t in (x, table[:, :C], table[:, C:]))
    roll = pltpu.roll if C % _LANES == 0 else jnp.roll  # one instruction for whole registers
    turned = roll(x, C // 2, 1) * sin
    return x * cos - turned if back else x * cos + turned


def _forward_kernel(q_table, k_table, q, k, v, out, *, heads, tokens):
    for head in range(heads):
        here, keys = _head(q, head, heads), _head(k, head, heads, tokens)
        q_, k_ = _turn(q[here], q_table[0]), _turn(k[keys], k_table[0, :tokens])
        p = _probabilities(q_.astype(q.dtype), k_.astype(k.dtype))
        out[here] = _product(p.astype(v.dtype), v[keys], ((1,), (0,))).astype(out.dtype)


def _backward_kernel(q_table, k_table, q, k, v, dout, dq, dk, dv, dk_sum, dv_sum, *, heads, tokens):
    """dk and dv are summed over the blocks of queries, the last axis of the grid.

    Those of the padding stay 0; so does its dq, because nothing depends on what it wrote: dout = 0.
    """
    step, steps = pl.program_id(2), pl.num_programs(2)

    @pl.when(step == 0)
    def _():
        dk_sum[...] = jnp.zeros_like(dk_sum)
        dv_sum[...] = jnp.zeros_like(dv_sum)

    queries, dtype = q.shape[1], q.dtype
    for head in range(heads):
        here, keys = _head(q, head, heads), _head(k, head, heads, tokens)
        q_, k_ = _turn(q[here], q_table[0]), _turn(k[keys], k_table[0, :tokens])
        q_, k_, v_, dout_ = q_.astype(dtype), k_.astype(dtype), v[keys], dout[here]
        if k.shape[1] % queries:  # the last block ends beyond the sequence, in undefined rows
            row = step * queries + jax.lax.broadcasted_iota(jnp.int32, q_.shape, 0)
            q_, dout_ = (jnp.where(row < tokens, x, jnp.zeros_like(x)) for x in (q_, dout_))
        p = _probabilities(q_, k_)
        dp = _product(dout_, v_, ((1,), (1,)))
        ds = p * (dp - (p * dp).sum(1, keepdims=True)) * q_.shape[1] ** -0.5
        p, ds = p.astype(dtype), ds.astype(dtype)
        dq[here] = _turn(_product(ds, k_, ((1,), (0,))), q_table[0], back=True).astype(dtype)
        dk_sum[keys[1:]] += _product(ds, q_, ((0,), (0,)))
        dv_sum[keys[1:]] += _product(p, dout_, ((0,), (0,)))

    @pl.when(step == steps - 1)
    def _():
        dv[0] = dv_sum[...].astype(dtype)
        for head in range(heads):
            here = _head(k, head, heads)
            dk[here] = _turn(dk_sum[here[1:]], k_table[0], back=True).astype(dtype)
