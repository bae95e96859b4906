import dataclasses

import jax
import numpy as np
import pytest
from flax import nnx

from dinov3_jax.models.convnext import ConvNext
from dinov3_jax.models.model import graph, random_model
from dinov3_jax.models.presets import complete
from dinov3_jax.models.vit import VisionTransformer
from tests.models.modules import student
from tests.reference import det
from tests.tiny import tiny_config

CONVNEXT = complete(
    dataclasses.replace(
        tiny_config().student,
        arch="convnext_tiny",
        embed_dim=None,
        depth=None,
        num_heads=None,
        stage_depths=(1, 1, 1, 1),
        stage_dims=(8, 8, 8, 12),
    )
)


@pytest.mark.parametrize(
    ("config", "module", "stride"),
    [(student(), VisionTransformer, 4), (CONVNEXT, ConvNext, 32)],
    ids=["vit", "convnext"],
)
def test_it_is_the_module_with_its_weights(config, module, stride):
    model = random_model("tiny", config)
    alone = nnx.merge(graph(config), model.params)
    assert isinstance(alone, module)
    assert model.stride == stride
    images = det(2, 2 * stride, stride, 3)
    # rtol, atol: compiled as a whole or operation by operation, float32 sums differ in order.
    near = dict(rtol=1e-4, atol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, **near), model(images), alone(images)
    )
    for norm in (True, False):
        got = model.intermediate_layers(images, [0, 1], norm=norm)
        wanted = alone.intermediate_layers(images, [0, 1], norm=norm)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **near), got, wanted)
