"""The weighted sum of the loss terms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dinov3_jax.losses.koleo import koleo_loss
from dinov3_jax.train import step
from tests.tiny import tiny_batch, tiny_config


def outputs_and_targets(*, local=2):
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.standard_normal(shape), jnp.float32)  # noqa: E731
    outputs = step.Outputs(
        draw(16, 2, 32),
        draw(16, local, 32),
        draw(8, 5, 24),
        draw(16, 2, 16),
        draw(16, 2, 16, 16),
    )
    targets = step.Targets(jax.nn.softmax(draw(16, 2, 32)), jax.nn.softmax(draw(8, 5, 24)), None)
    batch = tiny_batch(tiny_config())._replace(mask_weights=jnp.abs(draw(8, 5)))
    return outputs, targets, batch


@pytest.mark.parametrize("ignore_diagonal", [True, False])
def test_total_is_the_weighted_sum(ignore_diagonal):
    outputs, targets, batch = outputs_and_targets(local=8)
    config = tiny_config(**{
        "dino.ignore_diagonal": ignore_diagonal, "dino.weight": 0.7, "ibot.weight": 0.5,
        "koleo.weight": 0.3, "crops.local_count": 8,
        **{f"dino.local_weight.{key}": 0.25 for key in ("start", "peak", "end")},
    })  # fmt: skip
    total, terms = step.total_loss(outputs, targets, batch, jnp.int32(0), config=config)
    pairs_global, pairs_local = (2 if ignore_diagonal else 4), 16
    share = pairs_local / (pairs_local + pairs_global)
    wanted = (
        0.7 * (share * 0.25 * terms["loss/dino_local"] + (1 - share) * terms["loss/dino_global"])
        + 0.5 * terms["loss/ibot"]
        + 0.3 * 2 * terms["loss/koleo"]
    )
    assert float(total) == pytest.approx(float(wanted), rel=1e-6)  # float32
    assert terms["loss/total"] == total


def test_without_local_crops():
    outputs, targets, batch = outputs_and_targets(local=0)
    total, terms = step.total_loss(
        outputs, targets, batch, jnp.int32(0), config=tiny_config(**{"crops.local_count": 0})
    )
    assert "loss/dino_local" not in terms
    wanted = terms["loss/dino_global"] + terms["loss/ibot"] + 0.2 * terms["loss/koleo"]
    assert float(total) == pytest.approx(float(wanted), rel=1e-6)  # float32


@pytest.mark.parametrize(("group", "size"), [(None, 2), (4, 4), (1, 1)])
def test_koleo_looks_at_each_crop_and_group(group, size):
    cls = outputs_and_targets()[0].global_cls
    config = tiny_config(**{"koleo.group": group})
    groups = step.koleo_groups(cls, config)
    assert groups.shape == (2, 16 // size, size, 16)
    by_hand = [
        koleo_loss(cls[start : start + size, crop])
        for crop in (0, 1)
        for start in range(0, 16, size)
    ]
    wanted = float(sum(by_hand) / len(by_hand))
    assert float(koleo_loss(groups)) == pytest.approx(wanted, rel=1e-5, abs=1e-7)  # float32


def test_gram_joins_the_total_with_the_weight_of_the_step():
    """And "stats" are reported without a say in it."""
    outputs, targets, batch = outputs_and_targets()
    wanted = step.total_loss(outputs, targets, batch, jnp.int32(0), config=tiny_config())[0]
    targets = targets._replace(gram=outputs.patch_tokens[::-1])
    config = tiny_config(**{
        "gram.weight.start": 0.0, "gram.weight.peak": 3.0, "gram.weight.warmup": 10,
        "gram.stats": True,
    })  # fmt: skip
    for number, weight in ((0, 0.0), (5, 1.5), (10, 3.0)):
        total, terms = step.total_loss(outputs, targets, batch, jnp.int32(number), config=config)
        assert float(terms["gram_weight"]) == weight  # a warm-up by halves, exact in float32
        assert float(terms["loss/gram"]) > 0.01
        by_hand = float(wanted) + weight * float(terms["loss/gram"])
        assert float(total) == pytest.approx(by_hand, rel=1e-6)  # float32
