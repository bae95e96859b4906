"""What is timed is the same work."""

import numpy as np
import pytest

from benchmarks.kmeans import draw, make_faiss, make_minibatch, make_ours

SIZES = {"n": 2000, "D": 16, "k": 30}


def lloyd():
    points, start = draw(**SIZES)
    square = ((points[:, None].astype(float) - start) ** 2).sum(-1)
    nearest = square.argmin(1)
    return np.stack([points[nearest == c].mean(0) for c in range(SIZES["k"])])


def test_ours_is_an_iteration_of_lloyd():
    # Means of some 70 float32 rows.
    np.testing.assert_allclose(make_ours(1, **SIZES)(), lloyd(), atol=1e-5)


def test_faiss_does_the_same():
    pytest.importorskip("faiss", reason="no faiss: pip install faiss-cpu")
    np.testing.assert_allclose(make_faiss(1, **SIZES)(), lloyd(), atol=1e-5)


def test_one_batch_of_minibatch_k_means_does_the_same():
    """It counts each starting centroid as one more point of weight 0: the first batch is Lloyd."""
    np.testing.assert_allclose(make_minibatch(1, **SIZES)(), lloyd(), atol=1e-5)
