import numpy as np
import pytest
import scipy.linalg
from scipy import ndimage

from dinov3_jax.evals.discovery import normalized_cut
from dinov3_jax.evals.discovery.normalized_cut import eigenvectors, salient_box

H, W, D = 8, 10, 16
RECTANGLE = (slice(2, 5), slice(3, 8))  # rows, columns


def two_groups(noise=0.1, seed=0):
    """Tokens [H W, D] of two orthogonal directions: a rectangle and the rest."""
    rng = np.random.default_rng(seed)
    tokens = np.zeros((H, W, D))
    tokens[..., 0] = 1
    tokens[RECTANGLE] = np.eye(D)[1]
    tokens += noise * rng.standard_normal(tokens.shape) / np.sqrt(D)
    return (tokens * rng.uniform(0.5, 2, (H, W, 1))).reshape(-1, D)


def oracle(tokens, tau):
    unit = tokens / np.linalg.norm(tokens, axis=1, keepdims=True)
    A = np.where(unit @ unit.T > tau, 1.0, 1e-5)
    d = np.diag(A.sum(axis=1))
    return scipy.linalg.eigh(d - A, d, subset_by_index=[1, 1])[1][:, 0]


def alike(x, y):
    """|correlation| of two eigenvectors, whose sign and length say nothing."""
    return abs(np.corrcoef(x, y)[0, 1])


def blobs(seed):
    """Smooth random tokens [H W, D]: graphs without clear groups."""
    noise = np.random.default_rng(seed).standard_normal((H, W, D))
    return ndimage.gaussian_filter(noise, (1.5, 1.5, 0)).reshape(-1, D)


@pytest.mark.parametrize("seed", range(3))
def test_eigenvectors_are_those_of_scipy(seed):
    taus = (0.0, 0.2, 0.4)
    for tau, x in zip(taus, eigenvectors(blobs(seed), taus)):
        # A relative residual of 1e-5 over a gap of eigenvalues of at least 1e-2.
        assert alike(x, oracle(blobs(seed), tau)) > 1 - 1e-5


def test_without_convergence_the_whole_matrix_is_decomposed(monkeypatch):
    asked = []
    iterate = normalized_cut._iterate
    monkeypatch.setattr(
        normalized_cut, "_iterate", lambda *a: asked.append(a) or (iterate(*a)[0] * 0, 1.0)
    )
    for seed in range(2):
        (x,) = eigenvectors(blobs(seed), (0.2,))
        assert alike(x, oracle(blobs(seed), 0.2)) > 1 - 1e-5  # float32 eigh, the same gap
    # A graph in two pieces: without deflation float32 mixes the first two eigenvectors.
    (x,) = eigenvectors(two_groups(), (0.5,))
    assert alike(x, oracle(two_groups(), 0.5)) > 1 - 1e-4
    assert len(asked) == 3


def box(tokens, tau=0.3):
    (x,) = eigenvectors(tokens, (tau,))
    return salient_box(x.reshape(H, W), stride=16)


def test_the_box_of_a_rectangle_whatever_the_basis_and_the_scale():
    wanted = (3 * 16, 2 * 16, 8 * 16, 5 * 16)
    assert box(two_groups()) == wanted
    rotation = np.linalg.qr(np.random.default_rng(1).standard_normal((D, D)))[0]
    assert box(two_groups() @ rotation) == wanted
    assert box(1000 * two_groups()) == box(0.001 * two_groups()) == wanted


def test_only_the_part_that_hangs_together_by_edges():
    """Another part touches at a corner, one is far away; the strongest patch decides."""
    x = np.full((6, 6), -0.1)
    x[1:3, 1:3] = 0.5
    x[3, 3] = x[5, 5] = 0.4
    x[1, 1] = 0.6
    for sign in (1, -1):  # of the eigenvector
        assert salient_box(sign * x, stride=10) == (10, 10, 30, 30)


def test_patches_that_are_all_alike_make_some_box():
    """No cut is better than another; what comes out lies on the image."""
    x0, y0, x1, y1 = box(np.ones((H * W, D)))
    assert 0 <= x0 < x1 <= 16 * W
    assert 0 <= y0 < y1 <= 16 * H


def test_one_patch_cannot_be_cut():
    with pytest.raises(ValueError, match=r"tokens are \[1, 16\], wanted \[N, D\] with N >= 2"):
        eigenvectors(np.ones((1, 16)), (0.2,))
    assert eigenvectors(np.eye(2), (0.2,)).shape == (1, 2)
