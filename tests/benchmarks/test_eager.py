"""The PyTorch side of a comparison computes the same loss: else the two do not do the same work."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.synthetic import random_batch
from dinov3_jax.convert.names import from_foreign
from dinov3_jax.convert.official import from_official
from dinov3_jax.models import build
from dinov3_jax.train.state import from_params
from dinov3_jax.train.step import gradients, make_targets
from dinov3_jax.train.targets import teacher_outputs
from tests.models.test_parity import draw
from tests.tiny import tiny_config

pytestmark = pytest.mark.parity


def ours(theirs, config):
    """Our parameters with random numbers that ``theirs`` gets too."""
    draw(theirs)
    shapes = jax.eval_shape(lambda: build.init_params(config, jax.random.key(0)))
    named = {k: v.numpy() for k, v in theirs["backbone"].state_dict().items()}
    out = {"backbone": from_official(from_foreign(named)[1].state, shapes["backbone"])}
    for name in ("dino_head", "ibot_head"):
        layers = [theirs[name].mlp[i] for i in (0, 2, 4)]
        out[name] = {
            f"fc{i}": {"kernel": x.weight.detach().numpy().T, "bias": x.bias.detach().numpy()}
            for i, x in enumerate(layers, start=1)
        }
        out[name]["prototypes"] = {"kernel": theirs[name].prototypes.weight.detach().numpy().T}
    return jax.tree.map(jnp.asarray, out)


def test_loss_and_gradient_norms_are_ours():
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from benchmarks import eager

    config = tiny_config(**{"batch.images": 4, "batch.group": 4, "student.rope_rescale": None})
    student, teacher = eager.networks(config), eager.networks(config)
    state = from_params(config, ours(student, config))
    averaged = jax.tree.map(lambda p: 0.9 * p, ours(teacher, config))
    state = dataclasses.replace(state, teacher=averaged)
    with torch.no_grad():
        torch._foreach_mul_(list(teacher.parameters()), 0.9)
    batch, networks = random_batch(config), build.networks(config)

    loss = eager.total_loss(
        student, teacher, eager.as_torch(batch), config=config, temperature=0.07
    )
    loss.backward()

    outputs = teacher_outputs(state.teacher, batch, config=config, networks=networks)
    targets, _, _ = make_targets(
        state, batch, outputs, jnp.float32(0.07), config=config, networks=networks
    )
    keys = jax.random.split(jax.random.key(0), 1)
    grads, terms = gradients(
        state.student, batch, targets, keys, state.step, config=config, networks=networks
    )
    # float32 through two blocks, two heads and an exponential of logits over 0.07.
    assert loss.item() == pytest.approx(float(terms["loss/total"]), rel=1e-4)
    for name in ("dino_head", "ibot_head"):
        theirs = sum(float((p.grad**2).sum()) for p in student[name].parameters())
        norm = sum(float((g**2).sum()) for g in jax.tree.leaves(grads[name]))
        assert theirs == pytest.approx(norm, rel=1e-3)
    mask_token = student["backbone"].embeddings.mask_token.grad.numpy().reshape(-1)
    wanted = grads["backbone"]["mask_token"]
    np.testing.assert_allclose(mask_token, wanted, rtol=1e-3, atol=1e-3 * np.abs(wanted).max())
