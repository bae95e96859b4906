"""One iteration of k-means on a CPU, in turns with Faiss and scikit-learn's MiniBatchKMeans.

All get the same points and starting centroids. Ours and Faiss do one iteration of Lloyd: every
point to its nearest centroid, every centroid to the mean of its points. MiniBatchKMeans sees every
point once, in batches, and moves its centroids after each. A rival that is not installed (pip
install faiss-cpu scikit-learn) is left out, and that is said.
"""

import argparse
import functools
from collections.abc import Callable

import numpy as np

from benchmarks.pairs import against

BATCH = 16_384  # of MiniBatchKMeans; its default of 1,024 is slower a point
PACKAGES = {"Faiss": ("faiss", "faiss-cpu"), "MiniBatchKMeans": ("sklearn", "scikit-learn")}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=256, help="D")
    parser.add_argument("--clusters", type=int, default=4096, help="k")
    parser.add_argument("--threads", type=int, default=2, help="processors, the same for all")
    parser.add_argument("--turns", type=int, default=3)
    arguments = parser.parse_args()
    sizes = {"n": arguments.points, "D": arguments.width, "k": arguments.clusters}
    makes = {"ours": make_ours, "Faiss": make_faiss, "MiniBatchKMeans": make_minibatch}
    against(
        {name: functools.partial(make, **sizes) for name, make in makes.items()},
        PACKAGES,
        what="{n:,} points x {D}, k = {k:,}".format_map(sizes),
        threads=arguments.threads,
        turns=arguments.turns,
    )


def draw(n: int, D: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    """(points [n, D], k of them) float32: unit vectors around k others."""
    rng = np.random.default_rng(0)
    points = rng.standard_normal((k, D), np.float32)[rng.integers(0, k, n)]
    points += rng.standard_normal((n, D), np.float32)
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    return points, points[rng.choice(n, k, replace=False)].copy()


def make_ours(threads: int, *, n: int, D: int, k: int) -> Callable[[], np.ndarray]:
    import jax
    from jax.sharding import AxisType

    from dinov3_jax.curation.kmeans import lloyd_iteration, place_centroids

    del threads  # the process is pinned to that many processors, and XLA counts them
    mesh = jax.make_mesh((1,), ("all",), axis_types=(AxisType.Auto,), devices=jax.devices()[:1])
    points, start = draw(n, D, k)

    def step():
        moved, *_ = lloyd_iteration(points, place_centroids(start, mesh), k, mesh=mesh)
        return np.asarray(moved)[:k]

    return step


def make_faiss(threads: int, *, n: int, D: int, k: int) -> Callable[[], np.ndarray]:
    import faiss

    faiss.omp_set_num_threads(threads)
    points, start = draw(n, D, k)

    def step():
        # No subsample of the points, which it takes by default.
        model = faiss.Kmeans(D, k, niter=1, max_points_per_centroid=n, min_points_per_centroid=1)
        model.train(points, init_centroids=start)
        return model.centroids

    return step


def make_minibatch(threads: int, *, n: int, D: int, k: int) -> Callable[[], np.ndarray]:
    from sklearn.cluster import MiniBatchKMeans

    del threads  # OMP_NUM_THREADS is set, see pairs.py
    points, start = draw(n, D, k)

    def step():
        model = MiniBatchKMeans(k, init=start, n_init=1, reassignment_ratio=0)
        for first in range(0, n, BATCH):
            model.partial_fit(points[first : first + BATCH])
        return model.cluster_centers_

    return step


if __name__ == "__main__":
    main()
