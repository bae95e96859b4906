"""A linear probe of patch tokens: batch norm and one matrix, trained on a frozen backbone.

Several learning rates and weight decays are tried at once: the candidates see the same tokens, so
the backbone and the batch norm's statistics are computed once for all of them.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from tqdm import tqdm

from dinov3_jax.config import ConfigError
from dinov3_jax.types import Params

_EPSILON = 1e-5  # of the batch norm's variance
_MOMENTUM = 0.1  # of its running statistics
_CHECKED = 100  # steps between two looks at the loss; each one waits for the device

Loss = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


class Probe(NamedTuple):
    """Candidates of one probe, c of them; all see the same statistics."""

    params: Params  # scale, shift [c, D] of the batch norm; kernel [c, D, K], bias [c, K]
    moments: optax.OptState  # Adam's
    mean: jax.Array  # [D], running, of the tokens
    var: jax.Array


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a probe is trained: AdamW, one candidate for each pair of ``lr`` and ``weight_decay``."""

    lr: tuple[float, ...]  # peaks
    weight_decay: tuple[float, ...]  # on all parameters
    steps: int
    schedule: Callable[[int], float]  # step -> part of the peak
    beta1: Callable[[int], float]  # step -> Adam's first decay
    beta2: float
    clip: float | None  # of each candidate's gradient norm
    dropout: float  # part of the D channels of an image that are 0 in a step
    seed: int

    @property
    def candidates(self) -> list[tuple[float, float]]:
        """(peak, weight decay) of each."""
        return list(itertools.product(self.lr, self.weight_decay))


def check_recipe(recipe: Recipe, *, warmup: int) -> None:
    """``ConfigError`` for what cannot be trained with."""
    if not recipe.lr or not recipe.weight_decay or min(recipe.lr) <= 0:
        raise ConfigError(
            f"lr is {recipe.lr}, weight_decay {recipe.weight_decay}; wanted at least one of each, "
            "written (1e-3,), and lr positive"
        )
    if recipe.steps < 1 or not 0 <= warmup < recipe.steps:
        raise ConfigError(
            f"steps is {recipe.steps}, warmup {warmup}; wanted 0 <= warmup < steps: shorten both "
            "together"
        )


def train_probe(
    batches: Iterable[tuple[jax.Array, jax.Array]],
    loss: Loss,
    recipe: Recipe,
    *,
    outputs: int,
    mesh: Mesh,
) -> Probe:
    """``recipe.steps`` steps of AdamW, one on each of ``batches``.

    batches: (tokens [n, h, w, D], target [n, ...]) on the devices, of one shape; at least
    ``recipe.steps``. loss: (outputs [n, h, w, K], target, 0-based step) -> scalar. The probe is
    whole on every device of ``mesh``. Raises ``ConfigError`` when a candidate's loss is not finite.
    """
    batches, step = iter(batches), _step(loss, recipe, mesh)
    tokens, target = next(batches)
    candidates = recipe.candidates
    start = functools.partial(_start, recipe.seed, tokens.shape[-1], outputs, len(candidates))
    probe = jax.jit(start, out_shardings=NamedSharding(mesh, P()))()
    peaks, decays = (np.array(values, np.float32) for values in zip(*candidates, strict=True))
    for i in tqdm(range(recipe.steps), desc="probe", unit="step", disable=None):
        if i:
            tokens, target = next(batches)
        lr = peaks * np.float32(recipe.schedule(i))
        probe, losses = step(probe, tokens, target, i, lr, decays, recipe.beta1(i))
        if (i + 1) % _CHECKED == 0 or i + 1 == recipe.steps:
            losses = np.asarray(losses)
            if not np.isfinite(losses).all():
                bad = [candidates[k] for k in np.flatnonzero(~np.isfinite(losses))]
                raise ConfigError(
                    f"after {i + 1} steps the loss is not finite for (lr, weight decay) of {bad}; "
                    "the features are not finite, or lr is too large"
                )
    return probe


def repeat(batches: Iterator, kept: int | None) -> Iterator:
    """``batches``, or with a number the first ``kept`` of them, held in memory, over and over."""
    return batches if kept is None else itertools.cycle(list(itertools.islice(batches, kept)))


@jax.jit
def predict(probe: Probe, tokens: jax.Array) -> jax.Array:
    """Tokens [n, h, w, D] -> outputs [c, n, h, w, K], by the running statistics."""
    x = _normed(tokens, probe.mean, probe.var)
    return jax.lax.map(lambda params: _linear(params, x), probe.params)


def _start(seed, dim, outputs, candidates):
    """All candidates start alike: the matrix from N(0, 0.01²), the rest as the identity."""
    kernel = 0.01 * jax.random.normal(jax.random.key(seed), (dim, outputs))
    params = {
        "scale": jnp.ones(dim),
        "shift": jnp.zeros(dim),
        "kernel": kernel,
        "bias": jnp.zeros(outputs),
    }
    params = jax.tree.map(lambda x: jnp.repeat(x[None], candidates, axis=0), params)
    moments = jax.vmap(optax.scale_by_adam().init)(params)
    return Probe(params, moments, jnp.zeros(dim), jnp.ones(dim))


def _step(loss, recipe, mesh):
    # Replicated, and said so: else the compiler may choose another layout for what comes out, and
    # compile again for it.
    @functools.partial(jax.jit, donate_argnums=0, out_shardings=NamedSharding(mesh, P()))
    def step(probe, tokens, target, i, lr, decay, beta1):
        kept = 1.0 - recipe.dropout
        shape = (len(tokens), 1, 1, tokens.shape[-1])
        key = jax.random.fold_in(jax.random.key(recipe.seed), i)
        mask = jax.random.bernoulli(key, kept, shape)
        x = tokens * mask / kept
        mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
        x = _normed(x, mean, var)
        adam = optax.scale_by_adam(b1=beta1, b2=recipe.beta2, eps=1e-8)

        def one(candidate):
            params, moments, lr, decay = candidate
            total = lambda params: loss(_linear(params, x), target, i)  # noqa: E731
            value, grads = jax.value_and_grad(total)(params)
            if recipe.clip is not None:
                norm = optax.tree.norm(grads)
                grads = optax.tree.scale(jnp.minimum(1.0, recipe.clip / (norm + 1e-6)), grads)
            updates, moments = adam.update(grads, moments)
            params = jax.tree.map(lambda p, u: p * (1 - lr * decay) - lr * u, params, updates)
            return params, moments, value

        # One after the other: together their maps at full size would be the largest arrays here.
        params, moments, values = jax.lax.map(one, (probe.params, probe.moments, lr, decay))
        count = x.size // x.shape[-1]
        unbiased = var * (count / max(count - 1, 1))
        running = lambda old, new: (1 - _MOMENTUM) * old + _MOMENTUM * new  # noqa: E731
        return (
            Probe(params, moments, running(probe.mean, mean), running(probe.var, unbiased)),
            values,
        )

    return step


def _normed(x, mean, var):
    return (x - mean) * jax.lax.rsqrt(var + _EPSILON)


def _linear(params, x):
    # At full precision: rounded to 8 bits, depths and small class margins would differ by device.
    x = x * params["scale"] + params["shift"]
    return jnp.matmul(x, params["kernel"], precision="highest") + params["bias"]
