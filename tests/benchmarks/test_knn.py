"""What is timed is the same work."""

import numpy as np
import pytest

from benchmarks.knn import draw, make_faiss, make_ours, make_sklearn

SIZES = {"m": 300, "q": 40, "D": 16, "k": 7}


def neighbours():
    bank, queries = (x.astype(float) for x in draw(**SIZES))
    cosine = queries @ bank.T / np.linalg.norm(bank, axis=1)
    return np.argsort(-cosine, axis=1)[:, :7]


@pytest.mark.parametrize("make", [make_ours, make_sklearn])
def test_the_nearest_are_found(make):
    np.testing.assert_array_equal(make(1, **SIZES)(), neighbours())


def test_faiss_does_the_same():
    pytest.importorskip("faiss", reason="no faiss: pip install faiss-cpu")
    np.testing.assert_array_equal(make_faiss(1, **SIZES)(), neighbours())
