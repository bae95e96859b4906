"""Near-duplicates: a graph of similar images, its connected components, one image of each kept."""

import numpy as np
from jax.sharding import Mesh
from scipy import sparse

from dinov3_jax.curation.neighbours import nearest

# Of DINOv2 (arXiv 2304.07193, appendix A), for embeddings of a copy-detection network (SSCD). Those
# of another network spread differently: look at pairs near the threshold before you trust it.
POOL_THRESHOLD = 0.6
EVALUATION_THRESHOLD = 0.45
NEIGHBOURS = 64


def duplicates(
    embeddings,
    *,
    mesh: Mesh,
    threshold: float = POOL_THRESHOLD,
    neighbours: int = NEIGHBOURS,
    probes: int | None = None,
) -> np.ndarray:
    """The group of near-duplicates of each image, named by its lowest image.

    Images i and j are joined if cos(i, j) > threshold and one is among the ``neighbours`` nearest
    of the other (an image does not count as its own neighbour); groups are the
    connected components. ``np.unique`` of the result is what to keep: one image a group.

    Args:
      embeddings: [n, D] float, array or ``np.memmap``.
      mesh: as ``neighbours.nearest``.
      threshold: cosine, -1 to 1.
      neighbours: at least 1; more than n - 1 are taken as n - 1.
      probes: None, exact search; else approximate, as ``neighbours.nearest``.

    Returns:
      int64 [n], at most the image's own number.

    Raises:
      ValueError: threshold or neighbours out of range; as ``neighbours.nearest``.
    """
    _check_threshold(threshold)
    found = similar(embeddings, mesh=mesh, neighbours=neighbours, probes=probes)
    return joined(*found, threshold)


def similar(
    embeddings, *, mesh: Mesh, neighbours: int = NEIGHBOURS, probes: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The search of ``duplicates`` alone, which serves any number of thresholds (``joined``).

    (index [n, k] int32, cosine [n, k] float32) as of ``neighbours.nearest``, k being
    ``neighbours + 1``, for an image finds itself, but at most n. Arguments and errors as
    ``duplicates``.
    """
    if neighbours < 1:
        raise ValueError(f"neighbours is {neighbours}, wanted at least 1")
    k = min(neighbours + 1, len(embeddings))
    return nearest(embeddings, embeddings, k, mesh=mesh, probes=probes)


def joined(index: np.ndarray, cosine: np.ndarray, threshold: float) -> np.ndarray:
    """What ``duplicates`` returns, of what ``similar`` found."""
    _check_threshold(threshold)
    n = len(index)
    image, place = np.nonzero(cosine > threshold)  # an edge to itself joins nothing
    graph = sparse.coo_array(
        (np.ones(len(image), bool), (image, index[image, place])), shape=(n, n)
    )
    count, component = sparse.csgraph.connected_components(graph, directed=False)
    lowest = np.full(count, n, np.int64)
    np.minimum.at(lowest, component, np.arange(n))
    return lowest[component]


def seen_in_evaluation(
    embeddings,
    evaluation,
    *,
    mesh: Mesh,
    threshold: float = EVALUATION_THRESHOLD,
    neighbours: int = NEIGHBOURS,
    probes: int | None = None,
) -> np.ndarray:
    """Which images to drop because an evaluation set knows them, or a near-duplicate of them.

    An image is touched if its cosine to any image of ``evaluation`` [m, D] is above the threshold
    (exact, over all of them, whatever ``probes``); the whole group of a touched image goes, groups
    being those of ``duplicates`` at the same threshold. Other arguments and errors as there.

    Returns:
      bool [n], True: drop.
    """
    group = duplicates(
        embeddings, mesh=mesh, threshold=threshold, neighbours=neighbours, probes=probes
    )
    return touched(embeddings, evaluation, group, mesh=mesh, threshold=threshold)


def touched(
    embeddings, evaluation, group: np.ndarray, *, mesh: Mesh, threshold: float
) -> np.ndarray:
    """What ``seen_in_evaluation`` returns, of groups [n] that ``joined`` made at ``threshold``."""
    _, cosine = nearest(embeddings, evaluation, 1, mesh=mesh)
    return np.isin(group, group[cosine[:, 0] > threshold])


def _check_threshold(threshold):
    if not -1 <= threshold <= 1:
        raise ValueError(f"threshold is {threshold}, wanted a cosine from -1 to 1")
