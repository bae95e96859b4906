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
    if not -1 <= threshold <= 1 or neighbours < 1:
        raise ValueError(
            f"threshold is {threshold}, neighbours {neighbours}; wanted a cosine from -1 to 1 and "
            "at least 1"
        )
    n = len(embeddings)
    # One more: an image finds itself, and an edge to itself joins nothing.
    index, cosine = nearest(
        embeddings, embeddings, min(neighbours + 1, n), mesh=mesh, probes=probes
    )
    image, place = np.nonzero(cosine > threshold)
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
    _, cosine = nearest(embeddings, evaluation, 1, mesh=mesh)
    return np.isin(group, group[cosine[:, 0] > threshold])
