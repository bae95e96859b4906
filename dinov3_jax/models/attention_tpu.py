"""Attention as one TPU kernel, for sequences so short that all keys fit into VMEM.

A program of the grid holds all heads of one sequence where they fit, else a block of queries and
all T keys and values of a few heads, read from where the matrix product wrote them: q, k and v are
never cut apart in HBM. No [T, T] array reaches it and softmax is the plain one, without running
maxima. Only qkv is saved for the backward pass, which computes the probabilities again:

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

    Any T up to ``MAX_TOKENS``, padded or not: the compiler masks what the last registers hold
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
        kernel = functools.partial(_forward_kernel, tokens=tokens)
        (out,) = _run(kernel, table, qkv)
        return out.reshape(qkv.shape[:2] + qkv.shape[3:])

    return _on_each_device(run, table, qkv), (qkv, table)


def _backward(tokens, saved, dout):
    def run(table, qkv, dout):
        kernel = functools.partial(_backward_kernel, tokens=tokens)
        parts = _run(kernel, table, qkv, dout)
        return jnp.concatenate(parts, axis=2).reshape(qkv.shape)

    qkv, table = saved
    return _on_each_device(run, table, qkv, dout), None


_attention.defvjp(_forward, _backward)


def _flat(x):
    return x.reshape(*x.shape[:2], -1)


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


def _run(kernel, table, qkv, *dout):
    """The kernel over all sequences and heads of qkv [n, T, 3, A, C] and, backward, dout.

    Returns [out] or the gradients of q, k and v [n, T, A·C], or these three as one [n, T, 3·A·C].
    Before the arrays a program reads the rows of the table [S, T, 2C] of its queries and keys.
    """
    (n, T, _, A, C), dtype = qkv.shape, qkv.dtype
    queries, heads, loops = _blocks(T, A, C, dtype.itemsize)
    steps, parts, group = pl.cdiv(T, queries), A // heads // loops, n // len(table)
    arrays, products = [_flat(qkv), *map(_flat, dout)], 5 if dout else 2
    if steps * parts == 1:
        kernel = functools.partial(_on_thirds, kernel)
        widths = [3 * A * C if dout else A * C]
        in_specs = [_sequence(T, x.shape[2]) for x in arrays]
        out_specs = [_sequence(T, *widths)]
    else:
        arrays[:1], before = _thirds(qkv)
        widths = [A * C] * (3 if dout else 1)
        kinds = ["q", "k", "k", "q"]
        block = functools.partial(_block, T, queries, heads * C, parts)
        in_specs = [block(*of) for of in zip(kinds, [*before, 0])][: len(arrays)]
        out_specs = [block(kind, 0) for kind in kinds[: len(widths)]]
    table_specs = [
        pl.BlockSpec((1, queries, 2 * C), lambda n, head, query: (n // group, query, 0)),
        pl.BlockSpec((1, T, 2 * C), lambda n, head, query: (n // group, 0, 0)),
    ]
    return pl.pallas_call(
        functools.partial(kernel, heads=heads, loops=loops),
        name="attention_backward" if dout else "attention_forward",
        grid=(n, parts, steps),
        in_specs=table_specs + in_specs,
        out_specs=out_specs,
        out_shape=[jax.ShapeDtypeStruct((n, T, width), dtype) for width in widths],
        # dk and dv of a sequence whose queries come in several blocks
        scratch_shapes=[pltpu.VMEM((T, heads * C), jnp.float32)] * (2 if dout and steps > 1 else 0),
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "parallel", "arbitrary"), vmem_limit_bytes=_VMEM
        ),
        # What the scheduler hides communication behind; it cannot look into a kernel.
        cost_estimate=pl.CostEstimate(
            flops=2 * products * n * A * T * T * C,
            transcendentals=n * A * T * T,
            bytes_accessed=(7 if dout else 4) * n * T * A * C * dtype.itemsize,
        ),
    )(table, table, *arrays)


def _sequence(T, width):
    return pl.BlockSpec((1, T, width), lambda n, head, query: (n, 0, 0))


def _block(T, queries, width, parts, kind, before):
    """A few heads of a block of queries ("q") or of all keys ("k"), ``before`` times A·C in."""
    if kind == "k":
        return pl.BlockSpec((1, T, width), lambda n, head, _: (n, 0, before * parts + head))
    return pl.BlockSpec((1, queries, width), lambda n, head, query: (n, query, head))


def _thirds(qkv):
    """q, k and v as arrays [n, T, ·], and how many times A·C columns lie before each in its own."""
    flat = _flat(qkv)
    if flat.shape[2] // 3 % _LANES == 0:
        return [flat] * 3, [0, 1, 2]
    # A block begins at a whole register: thirds that do not are copied.
    return jnp.split(flat, 3, axis=2), [0, 0, 0]


def _on_thirds(kernel, q_table, k_table, qkv, *rest, **static):
    """A kernel that reads q, k and v, and writes their gradients, on blocks of all three."""
    *dout, out = rest
    width = qkv.shape[2] // 3
    thirds = lambda block: [block.at[:, :, pl.ds(i * width, width)] for i in range(3)]  # noqa: E731
    kernel(q_table, k_table, *thirds(qkv), *dout, *(thirds(out) if dout else [out]), **static)


def _blocks(T, A, C, itemsize):
    """(queries, heads, loops) of one program: so many heads unrolled, so many times in a loop.

    A program holds all heads of a sequence where they fit: of q, k and v and of their gradients it
    has one block each then, so that nobody has to join them.
    """
    if T > MAX_TOKENS:
        raise ValueError(
            f"sequences of {T} tokens; the TPU kernel takes {MAX_TOKENS} at most, set "
            "student.attention='xla'"
        )
    fitting = [h for h in range(1, A + 1) if A % h == 0 and h * C % _LANES == 0] or [A]
    heads = max((h for h in fitting if h <= min(_HEADS, _KEYS // T)), default=fitting[0])
    queries = pl.cdiv(T, pl.cdiv(heads * T * T, _SCORES))
    if queries < T:
        return pl.cdiv(queries, _ROWS) * _ROWS, heads, 1
    # qkv, its gradient and dout, each twice: one moves while the other is used. Where a loop turns,
    # a head begins at a whole register.
    fits = 2 * 7 * T * A * C * itemsize <= _VMEM // 2
    return T, heads, A // heads if fits and C % _LANES == 0 else 1


def _product(a, b, axes):
    """a · b over one axis of each, float32."""
    return jax.lax.dot_general(a, b, (axes, ((), ())), preferred_element_type=jnp.float32)


def _probabilities(q, k):
    scores = _product(q, k, ((1,), (1,)))
    exps = jnp.exp((scores - scores.max(1, keepdims=True)) * q.shape[1] ** -0.5)
    return exps / exps.sum(1, keepdims=True)


def _for_each_head(heads, loops, C):
    """Calls the function with the columns of each head, ``heads`` of them unrolled in a loop."""

    def decorator(function):
        def some(loop, _=None):
            for head in range(heads):
                first = head * C
                if loops > 1:  # Mosaic has to know that it is a whole register
                    first = pl.multiple_of(loop * heads * C + first, _LANES)
                function(pl.ds(first, C))

        jax.lax.fori_loop(0, loops, some, None) if loops > 1 else some(0)

    return decorator


def _turn(x, table, *, back=False):
    """RoPE of rows [·, C] by their rows of the table, or its inverse; float32."""
    C = x.shape[1]
    x, sin, cos = (t.astype(jnp.float32) for t in (x, table[:, :C], table[:, C:]))
    roll = pltpu.roll if C % _LANES == 0 else jnp.roll  # one instruction for whole registers
    turned = roll(x, C // 2, 1) * sin
    return x * cos - turned if back else x * cos + turned


def _forward_kernel(q_table, k_table, q, k, v, out, *, heads, loops, tokens):
    @_for_each_head(heads, loops, q_table.shape[2] // 2)
    def _(columns):
        here, keys = (0, slice(None), columns), (0, slice(tokens), columns)
        q_, k_ = _turn(q[here], q_table[0]), _turn(k[keys], k_table[0, :tokens])
        p = _probabilities(q_.astype(q.dtype), k_.astype(k.dtype))
        out[here] = _product(p.astype(v.dtype), v[keys], ((1,), (0,))).astype(out.dtype)


def _backward_kernel(q_table, k_table, q, k, v, dout, dq, dk, dv, *sums, heads, loops, tokens):
    """dk and dv are summed over the blocks of queries, the last axis of the grid, if more than one.

    Those of the padding are 0; so is its dq, because nothing depends on what it wrote: dout = 0.
    """
    step, steps = pl.program_id(2), pl.num_programs(2)
    queries, dtype, C = q.shape[1], q.dtype, q_table.shape[2] // 2

    def write(columns, dk_, dv_):
        keys, padding = (0, slice(tokens), columns), (0, slice(tokens, None), columns)
        dk[keys] = _turn(dk_, k_table[0, :tokens], back=True).astype(dtype)
        dv[keys] = dv_.astype(dtype)
        if tokens < k.shape[1]:
            dk[padding] = dv[padding] = jnp.zeros((k.shape[1] - tokens, C), dtype)

    @pl.when(step == 0)
    def _():
        for total in sums:
            total[...] = jnp.zeros_like(total)

    @_for_each_head(heads, loops, C)
    def _(columns):
        here, keys = (0, slice(None), columns), (0, slice(tokens), columns)
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
        parts = _product(ds, q_, ((0,), (0,))), _product(p, dout_, ((0,), (0,)))
        if not sums:
            write(columns, *parts)
        for total, part in zip(sums, parts):
            total[keys[1:]] += part

    if sums:

        @pl.when(step == steps - 1)
        def _():
            @_for_each_head(heads, loops, C)
            def _(columns):
                write(columns, *(total[slice(tokens), columns] for total in sums))
