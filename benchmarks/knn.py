"""Neighbours by cosine for k-NN on a CPU, in turns with Faiss and scikit-learn, exact all three.

All get the same features and find the same neighbours of every query. Faiss searches an index of
inner products of rows of length 1, scikit-learn by brute force. A rival that is not installed (pip
install faiss-cpu scikit-learn) is left out, and that is said.
"""

import argparse
import functools
from collections.abc import Callable

import numpy as np

from benchmarks.pairs import against

PACKAGES = {"Faiss": ("faiss", "faiss-cpu"), "scikit-learn": ("sklearn", "scikit-learn")}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bank", type=int, default=10_000, help="images that vote")
    parser.add_argument("--queries", type=int, default=10_000)
    parser.add_argument("--width", type=int, default=384, help="D")
    parser.add_argument("--neighbours", type=int, default=200, help="k")
    parser.add_argument("--threads", type=int, default=2, help="processors, the same for all")
    parser.add_argument("--turns", type=int, default=3)
    arguments = parser.parse_args()
    sizes = {
        "m": arguments.bank,
        "q": arguments.queries,
        "D": arguments.width,
        "k": arguments.neighbours,
    }
    makes = {"ours": make_ours, "Faiss": make_faiss, "scikit-learn": make_sklearn}
    against(
        {name: functools.partial(make, **sizes) for name, make in makes.items()},
        PACKAGES,
        what="{q:,} queries x {m:,} x {D}, k = {k}".format_map(sizes),
        threads=arguments.threads,
        turns=arguments.turns,
    )


def draw(*, m: int, q: int, D: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    """(bank [m, D], queries [q, D]) float32, in loose clusters as features of images are."""
    del k
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((100, D), np.float32)

    def features(n):
        return centres[rng.integers(0, 100, n)] + rng.standard_normal((n, D), np.float32)

    return features(m), features(q)


def make_ours(threads: int, *, m: int, q: int, D: int, k: int) -> Callable[[], np.ndarray]:
    import jax
    from jax.sharding import AxisType

    from dinov3_jax.curation.neighbours import nearest

    del threads  # the process is pinned to that many processors, and XLA counts them
    mesh = jax.make_mesh((1,), ("all",), axis_types=(AxisType.Auto,), devices=jax.devices()[:1])
    bank, queries = draw(m=m, q=q, D=D, k=k)
    return lambda: nearest(queries, bank, k, mesh=mesh)[0]


def make_faiss(threads: int, *, m: int, q: int, D: int, k: int) -> Callable[[], np.ndarray]:
    import faiss

    faiss.omp_set_num_threads(threads)
    bank, queries = draw(m=m, q=q, D=D, k=k)

    def step():
        index = faiss.IndexFlatIP(D)
        index.add(bank / np.linalg.norm(bank, axis=1, keepdims=True))
        return index.search(queries / np.linalg.norm(queries, axis=1, keepdims=True), k)[1]

    return step


def make_sklearn(threads: int, *, m: int, q: int, D: int, k: int) -> Callable[[], np.ndarray]:
    from sklearn.neighbors import NearestNeighbors

    del threads  # OMP_NUM_THREADS is set, see pairs.py
    bank, queries = draw(m=m, q=q, D=D, k=k)

    def step():
        search = NearestNeighbors(n_neighbors=k, metric="cosine", algorithm="brute").fit(bank)
        return search.kneighbors(queries, return_distance=False)

    return step


if __name__ == "__main__":
    main()
