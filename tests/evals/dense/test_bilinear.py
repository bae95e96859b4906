import jax
import numpy as np
import pytest

from dinov3_jax.evals.dense.bilinear import bilinear


@pytest.mark.parametrize("old", [1, 2, 3, 7, 32])
@pytest.mark.parametrize("new", [1, 2, 5, 7, 40])
def test_it_is_what_jax_computes_without_antialiasing(old, new):
    x = np.random.default_rng(0).standard_normal((old, 3)).astype(np.float32)
    wanted = jax.image.resize(x, (new, 3), "linear", antialias=False, precision="highest")
    # JAX finds positions up to 32 in float32, which is off by 2e-6; values differ by up to 4.
    np.testing.assert_allclose(bilinear(old, new) @ x, wanted, atol=1e-5)


@pytest.mark.parametrize(("old", "new"), [(4, 9), (9, 4), (1, 5), (6, 6)])
def test_constants_and_the_identity(old, new):
    np.testing.assert_allclose(bilinear(old, new).sum(axis=1), 1, atol=1e-7)  # float32
    np.testing.assert_array_equal(bilinear(new, new), np.eye(new, dtype=np.float32))


def test_inside_it_is_linear():
    line = np.arange(8) + 0.5
    got = bilinear(8, 32) @ line
    np.testing.assert_allclose(got[2:-2], (np.arange(32) + 0.5)[2:-2] / 4, atol=1e-6)
    assert got[0] == got[1] == 0.5  # the border is repeated


def test_what_is_kept_cannot_be_changed():
    with pytest.raises(ValueError, match="read-only"):
        bilinear(2, 3)[0, 0] = 1
