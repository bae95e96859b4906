import jax.numpy as jnp
import numpy as np
import pytest

from dinov3_jax.models.classifier import classify, top_classes
from dinov3_jax.models.model import random_model
from tests.models.modules import student
from tests.models.test_model import CONVNEXT
from tests.reference import det


@pytest.mark.parametrize("config", [student(), CONVNEXT], ids=["vit", "convnext"])
def test_logits_of_cls_and_mean_patch(config):
    model = random_model("tiny", config)
    dim, images = config.embed_dim, jnp.asarray(det(2, 32, 64, 3))
    head = {"kernel": jnp.asarray(det(2 * dim, 10)), "bias": jnp.asarray(det(10))}
    cls, _, patches, _ = (np.asarray(x, np.float64) for x in model(images))
    wanted = np.concatenate([cls, patches.mean(1)], 1) @ np.asarray(head["kernel"], np.float64)
    # atol: float32 sums of 2D products of order 1.
    np.testing.assert_allclose(classify(model, head, images), wanted + head["bias"], atol=1e-4)


def test_a_head_of_another_width_is_refused():
    model = random_model("tiny", student())
    head = {"kernel": jnp.zeros((8192, 1000)), "bias": jnp.zeros(1000)}
    with pytest.raises(ValueError, match=r"head takes 8192 features; tiny gives 32 \(CLS and mean"):
        classify(model, head, jnp.zeros((1, 8, 8, 3)))


def test_top_classes_are_ordered():
    classes, probabilities = top_classes(jnp.log(jnp.asarray([[0.2, 0.5, 0.3]])), 2)
    np.testing.assert_array_equal(classes, [[1, 2]])
    np.testing.assert_allclose(probabilities, [[0.5, 0.3]], rtol=1e-6)  # float32
