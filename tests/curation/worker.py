"""What one of several processes does for tests/curation/test_hosts.py.

``python -m tests.curation.worker --coordinator=... --process_count=... --process_index=...``
"""

import argparse

import jax
import numpy as np

from dinov3_jax.cli import hosts
from dinov3_jax.config import MeshConfig
from dinov3_jax.curation.dedup import duplicates, seen_in_evaluation
from dinov3_jax.curation.hierarchy import Level, hierarchy
from dinov3_jax.curation.kmeans import kmeans
from dinov3_jax.curation.retrieval import retrieve
from dinov3_jax.distributed.mesh import make_mesh


def main() -> None:
    parser = argparse.ArgumentParser()
    hosts.add_flags(parser)
    options = parser.parse_args()
    hosts.join(options)
    rng = np.random.default_rng(0)
    points = rng.normal(size=(5001, 16)).astype(np.float32)  # the last chunk is filled up
    points[-20:] = points[:20] + 1e-3
    queries = points[5:900:7] + 1e-3
    levels = [Level(40, split=3), Level(12, resamplings=2, kept=4)]

    def everything(mesh):
        tree = hierarchy(points, levels, mesh=mesh, seed=0, iterations=3)
        return [
            *kmeans(points, 50, mesh=mesh, seed=0, rounds=3, iterations=3),
            *(x for level in tree for x in level),
            duplicates(points, mesh=mesh, threshold=0.999, neighbours=5),
            seen_in_evaluation(points, queries, mesh=mesh, threshold=0.999, neighbours=5),
            retrieve(queries, points, 3, budget=200, mesh=mesh),
        ]

    shared = make_mesh(MeshConfig(1, -1, 1, 1))
    assert shared.size > len(jax.local_devices())
    alone = make_mesh(MeshConfig(1, 1, 1, 1), jax.local_devices()[:1])
    for one, all_ in zip(everything(alone), everything(shared), strict=True):
        np.testing.assert_array_equal(one, all_)


if __name__ == "__main__":
    main()
