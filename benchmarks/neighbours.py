"""Exact nearest neighbours against the inverted file of Faiss: CPU-seconds and recall.

    pip install -e .[index]; python -m benchmarks.neighbours

Recall is the share of the k exact neighbours that are found. Building the file costs the same
however many queries follow; so the last column says from how many on it pays.
"""

import argparse
import time

import numpy as np

from benchmarks.kmeans import draw
from benchmarks.report import heading, processor, table

COLUMNS = ("", "build CPU-s", "CPU-s a 1,000 queries", "recall", "pays from queries")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pool", type=int, default=200_000, help="n")
    parser.add_argument("--width", type=int, default=256, help="D")
    parser.add_argument("--cluster", type=int, default=50, help="rows of one, on average")
    parser.add_argument("--queries", type=int, default=8192)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--probes", type=int, nargs="+", default=[4, 16, 64])
    arguments = parser.parse_args()
    pool, _ = draw(arguments.pool, arguments.width, arguments.pool // arguments.cluster)
    rows = measure(pool, arguments.queries, arguments.k, arguments.probes)
    print(heading(processor(), "jax", "faiss-cpu"))
    print(
        f"{arguments.pool:,} x {arguments.width}, clusters of {arguments.cluster}; "
        f"{arguments.queries:,} queries, k = {arguments.k}\n"
    )
    print(table(COLUMNS, rows))


def measure(pool, queries: int, k: int, probes: list[int]) -> list[list[str]]:
    """Rows of the table; the queries are the first of the pool."""
    import faiss
    import jax
    from jax.sharding import AxisType

    from dinov3_jax.curation.index import build, search
    from dinov3_jax.curation.neighbours import nearest

    mesh = jax.make_mesh((1,), ("all",), axis_types=(AxisType.Auto,), devices=jax.devices()[:1])
    faiss.omp_set_num_threads(1)  # waiting threads would count as work

    def timed(function):
        start = time.process_time()
        return function(), time.process_time() - start

    few = pool[:queries]
    nearest(few, pool, k, mesh=mesh)  # compiles
    (exact, _), whole = timed(lambda: nearest(few, pool, k, mesh=mesh))
    index, once = timed(lambda: build(pool))
    rows = [["exact", "", f"{whole / queries * 1e3:.2f}", "1", ""]]
    for lists in probes:
        (found, _), seconds = timed(lambda lists=lists: search(index, few, k, probes=lists))
        recall = np.mean([np.isin(a, b).mean() for a, b in zip(exact, found)])
        saved = (whole - seconds) / queries
        pays = f"{once / saved:,.0f}" if saved > 0 else "never"
        name = f"{lists} of {index.nlist} lists"
        rows.append([name, f"{once:.1f}", f"{seconds / queries * 1e3:.2f}", f"{recall:.3f}", pays])
    return rows


if __name__ == "__main__":
    main()
