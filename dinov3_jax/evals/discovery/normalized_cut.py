"""TokenCut: the patches of an image cut in two, and the box around the object.

Wang et al., Self-supervised transformers for unsupervised object discovery using normalized cut.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from scipy import ndimage

from dinov3_jax.config import ConfigError

WEAK = 1e-5  # weight of an edge between patches that are not alike
BLOCK = 8  # vectors that are iterated together
ROUNDS = 30  # of ``STEPS`` multiplications each, at most
STEPS = 10
RESIDUAL = 1e-4  # of the eigenvector, relative; float32 reaches about 1e-6


def eigenvectors(tokens: np.ndarray, taus: tuple[float, ...]) -> np.ndarray:
    """The second smallest generalised eigenvector of each graph, float32 [len(taus), N].

    Nodes are the patches ``tokens`` [N, D], N >= 2; A_ij = 1 where cosine > tau, else ``WEAK``;
    D_ii = Σ_j A_ij. It solves (D - A) x = λ D x. Length and sign of x say nothing. By power
    iteration of a block of vectors on the device; where that leaves a residual above ``RESIDUAL``,
    by decomposition of the whole matrix.
    """
    if tokens.ndim != 2 or len(tokens) < 2:
        raise ConfigError(f"tokens are {list(tokens.shape)}, wanted [N, D] with N >= 2 patches")
    cosines = _cosines(tokens)
    found = []
    for tau in taus:
        x, residual = _iterate(cosines, tau)
        found.append(x if residual <= RESIDUAL else _decompose(cosines, tau))
    return np.stack([np.asarray(x) for x in found])


def salient_box(x: np.ndarray, *, stride: int) -> tuple[int, int, int, int]:
    """(x0, y0, x1, y1) in pixels around the object, from an eigenvector [h, w].

    The object's side of the cut, at the mean of ``x``, is the one of its largest magnitude; the
    object is the part of that side that hangs together with it by edges of patches.
    """
    seed = np.unravel_index(np.argmax(np.abs(x)), x.shape)
    side = x > x.mean()
    side = side if side[seed] else ~side
    parts = np.zeros(side.shape, np.int32)
    ndimage.label(side, output=parts)  # 4 neighbours
    rows, columns = np.nonzero(parts == parts[seed])
    return (
        int(columns.min()) * stride,
        int(rows.min()) * stride,
        (int(columns.max()) + 1) * stride,
        (int(rows.max()) + 1) * stride,
    )


@jax.jit
def _cosines(tokens):
    tokens = tokens.astype(jnp.float32)
    unit = tokens / jnp.maximum(jnp.linalg.norm(tokens, axis=-1, keepdims=True), 1e-12)
    # "highest": TPUs and recent GPUs would round the inputs.
    return jnp.matmul(unit, unit.T, precision="highest")


def _graph(cosines, tau):
    """M = D^-1/2 A D^-1/2, its first eigenvector sqrt(d), of length 1, and 1 / sqrt(d)."""
    A = jnp.where(cosines > tau, 1.0, WEAK)
    root = jnp.sqrt(A.sum(axis=1))
    return A / root[:, None] / root, root / jnp.linalg.norm(root), 1 / root


@jax.jit
def _iterate(cosines, tau) -> tuple[jax.Array, jax.Array]:
    """(x [N], relative residual): the largest eigenvector of M beside the first."""
    M, first, scale = _graph(cosines, tau)
    product = functools.partial(jnp.matmul, precision="highest")
    N = len(M)

    def step(_, V):
        V = product(M, V) + V  # eigenvalues 0..2: the largest is the farthest from 0
        V = V - first[:, None] * product(first, V)
        return jnp.linalg.qr(V)[0]

    def more(state):
        turn, _, _, residual = state
        return (turn < ROUNDS) & (residual > RESIDUAL / 100)

    def turn(state):
        turn, V, _, _ = state
        V = jax.lax.fori_loop(0, STEPS, step, V)
        MV = product(M, V)
        values, inner = jnp.linalg.eigh(product(V.T, MV))
        v = product(V, inner[:, -1])
        residual = jnp.linalg.norm(product(MV, inner[:, -1]) - values[-1] * v)
        return turn + 1, V, v, residual

    V = jax.random.normal(jax.random.key(0), (N, min(BLOCK, N - 1)))
    V = jnp.linalg.qr(V - first[:, None] * product(first, V))[0]
    _, _, v, residual = jax.lax.while_loop(more, turn, (0, V, V[:, 0], jnp.float32(jnp.inf)))
    return v * scale, residual


@jax.jit
def _decompose(cosines, tau) -> jax.Array:
    M, first, scale = _graph(cosines, tau)
    # Without the first: where the graph falls apart, float32 cannot tell the two.
    _, vectors = jnp.linalg.eigh(M - first[:, None] * first)
    return vectors[:, -1] * scale
