import itertools

import jax
import numpy as np
import optax
import pytest

from dinov3_jax.config import ConfigError
from dinov3_jax.evals.dense.probe import check_recipe, predict, repeat, train_probe
from tests.evals.dense.probes import endless, recipe
from tests.features.models import mesh

DIM, OUT = 6, 3


def square(outputs, target, step):
    return ((outputs - target) ** 2).mean()


def batch(i, n=8):
    """Targets are a linear function of tokens that have a mean and a spread of their own."""
    rng = np.random.default_rng(i)
    tokens = (3 + 2 * rng.standard_normal((n, 2, 2, DIM))).astype(np.float32)
    matrix = np.random.default_rng(99).standard_normal((DIM, OUT))
    return tokens, (tokens @ matrix).astype(np.float32)


def test_the_first_step_by_hand():
    """The gradient of the start, Adam's first update (its sign), and decay of all parameters."""
    lr, decay = 0.1, 0.5
    made = recipe(steps=1, lr=(lr,), weight_decay=(decay,), seed=3)
    probe = train_probe(endless(batch), square, made, outputs=OUT, mesh=mesh(1))
    tokens, target = batch(0)
    flat = tokens.reshape(-1, DIM).astype(np.float64)
    x = (flat - flat.mean(0)) / np.sqrt(flat.var(0) + 1e-5)
    kernel = 0.01 * np.asarray(jax.random.normal(jax.random.key(3), (DIM, OUT)))
    error = 2 * (x @ kernel - target.reshape(-1, OUT)) / target.size
    grads = {
        "kernel": x.T @ error,
        "bias": error.sum(0),
        "scale": ((error @ kernel.T) * x).sum(0),
        "shift": (error @ kernel.T).sum(0),
    }
    start = {"kernel": kernel, "bias": 0, "scale": 1, "shift": 0}
    for name, grad in grads.items():
        wanted = start[name] * (1 - lr * decay) - lr * grad / (np.abs(grad) + 1e-8)
        # float32; where a gradient is near 1e-6 its rounding shows against Adam's 1e-8.
        np.testing.assert_allclose(probe.params[name][0], wanted, atol=1e-3, err_msg=name)
    # From 0 and 1, a tenth of the way; the variance is the unbiased one.
    np.testing.assert_allclose(probe.mean, 0.1 * flat.mean(0), rtol=1e-5)
    np.testing.assert_allclose(probe.var, 0.9 + 0.1 * flat.var(0, ddof=1), rtol=1e-5)


def test_a_linear_target_is_learned_by_each_candidate_as_if_alone():
    made = recipe(steps=150, lr=(1e-4, 0.1), weight_decay=(0.0, 1e-2))
    assert made.candidates == [(1e-4, 0.0), (1e-4, 1e-2), (0.1, 0.0), (0.1, 1e-2)]
    probe = train_probe(endless(batch), square, made, outputs=OUT, mesh=mesh(1))
    tokens, target = batch(1000)
    errors = ((np.asarray(predict(probe, tokens)) - target) ** 2).mean((1, 2, 3, 4)) / target.var()
    assert errors[2] < 0.01  # statistics of a batch of 32 tokens differ from the running ones
    assert errors[0] > 0.5  # too slow to get anywhere
    alone = recipe(steps=150, lr=(0.1,), weight_decay=(1e-2,))
    single = train_probe(endless(batch), square, alone, outputs=OUT, mesh=mesh(1))
    # The same float32 numbers in loops of 4 and of 1, over 150 steps of size 0.1.
    np.testing.assert_allclose(single.params["kernel"][0], probe.params["kernel"][3], atol=1e-3)


def test_the_same_probe_on_eight_devices():
    made = recipe(steps=5, dropout=0.5)
    one, eight = (
        train_probe(endless(batch), square, made, outputs=OUT, mesh=mesh(n)) for n in (1, 8)
    )
    # Sums of 32 tokens in another order, then five steps of 0.01 along the gradient's sign.
    for a, b in zip(jax.tree.leaves(one.params), jax.tree.leaves(eight.params), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


def test_gradients_are_clipped():
    """Adam undoes a constant factor, so the clip shows in its moments."""
    norms = []
    for clip in (None, 0.25):
        made = recipe(steps=1, clip=clip)
        probe = train_probe(endless(batch), square, made, outputs=OUT, mesh=mesh(1))
        norms.append(float(optax.tree.norm(probe.moments.mu)))
    assert norms[0] > 0.1
    np.testing.assert_allclose(norms[1], 0.1 * 0.25, rtol=1e-4)  # a tenth of the gradient


def test_repeat():
    assert list(itertools.islice(repeat(itertools.count(), 3), 7)) == [0, 1, 2, 0, 1, 2, 0]
    assert list(itertools.islice(repeat(itertools.count(), None), 4)) == [0, 1, 2, 3]


def test_a_probe_that_diverges():
    with pytest.raises(ConfigError, match=r"after 1 steps the loss is not finite for .*0.01, 0.00"):
        train_probe(
            endless(lambda i: (batch(i)[0] * np.float32(np.nan), batch(i)[1])),
            square,
            recipe(steps=1),
            outputs=OUT,
            mesh=mesh(1),
        )


@pytest.mark.parametrize(
    ("changes", "warmup", "message"),
    [
        (dict(lr=()), 0, "wanted at least one of each"),
        (dict(weight_decay=()), 0, "wanted at least one of each"),
        (dict(lr=(0.0,)), 0, "lr positive"),
        (dict(steps=0), 0, "steps is 0"),
        (dict(steps=5), 5, "steps is 5, warmup 5; wanted 0 <= warmup < steps"),
        (dict(steps=5), -1, "warmup -1"),
    ],
)
def test_recipes_that_cannot_be(changes, warmup, message):
    with pytest.raises(ConfigError, match=message):
        check_recipe(recipe(**changes), warmup=warmup)
