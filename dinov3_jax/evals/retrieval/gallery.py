"""What a ranking looks like: queries with their first results, the best and the worst."""

from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

from dinov3_jax.evals.evaluation import Picture
from dinov3_jax.evals.retrieval.metrics import Query

RESULTS = 5  # a query
CELL = 80  # pixels a side
FRAME = 4
GREEN, RED, GREY, WHITE = (0, 158, 115), (213, 94, 0), (150, 150, 150), (255, 255, 255)


def gallery(
    query: Callable[[int], np.ndarray],
    database: Callable[[int], np.ndarray],
    orders: Sequence[np.ndarray],
    queries: Sequence[Query],
    precision: np.ndarray,
    *,
    what: str = "average precision",
) -> tuple[Picture, ...]:
    """The two queries of best and the four of worst ``precision`` [q], each with its first results.

    ``precision``, of which the caption speaks as ``what``, is NaN for queries that are not shown.

    ``query`` and ``database`` read images uint8 [h, w, 3]; ``orders`` [q] of int are rankings.
    Frames: green a positive, orange another image, grey junk.
    """
    known = np.flatnonzero(~np.isnan(precision))
    ranked = known[np.argsort(-precision[known], kind="stable")]
    chosen = list(dict.fromkeys([*ranked[:2], *ranked[-4:]]))
    pictures = []
    for i in chosen:
        cells = [_cell(query(int(i)), WHITE)]
        for row in orders[i][:RESULTS]:
            positive, junk = row in queries[i].positives, row in queries[i].junk
            colour = GREEN if positive else GREY if junk else RED
            cells.append(_cell(database(int(row)), colour))
        caption = f"query {i} (left) and its first results; {what} {100 * precision[i]:.1f} %"
        pictures.append(Picture(caption, np.concatenate(cells, axis=1)))
    return tuple(pictures)


def _cell(image: np.ndarray, colour) -> np.ndarray:
    cell = np.empty((CELL, CELL, 3), np.uint8)
    cell[:] = colour
    inner = CELL - 2 * FRAME
    drawn = Image.fromarray(image)
    drawn.thumbnail((inner, inner), Image.Resampling.BICUBIC)
    shown = np.full((inner, inner, 3), 255, np.uint8)
    top, left = (inner - drawn.height) // 2, (inner - drawn.width) // 2
    shown[top : top + drawn.height, left : left + drawn.width] = np.asarray(drawn)
    cell[FRAME:-FRAME, FRAME:-FRAME] = shown
    return cell
