"""Cluster sizes and classes before and after, as HTML for the style sheet of ``evals.page``."""

import html

import numpy as np

CLASSES = 20  # that are in view

_WIDTH, _HEIGHT, _FOOT, _HEAD = 340, 150, 18, 14  # of a histogram, in its own units


def sizes_histogram(before: np.ndarray, after: np.ndarray) -> str:
    """Clusters by size, as SVG: int [clusters] images of each cluster before and after.

    Bins are 0, 1, 2, 3-4, 5-8, 9-16 ..., named by their first; grey before, coloured after.
    """
    edges = bin_edges(max(int(before.max()), int(after.max())))
    counts = [np.histogram(sizes, edges)[0] for sizes in (before, after)]
    tallest = max(1, *(int(count.max()) for count in counts))
    step = _WIDTH / (len(edges) - 1)
    room = _HEIGHT - _FOOT - _HEAD
    parts = []
    for bin_ in range(len(edges) - 1):
        left = bin_ * step
        # The colours of ``.bars`` in the style sheet.
        for i, (colour, opacity) in enumerate((("var(--muted)", 0.55), ("var(--s1)", 1))):
            count = int(counts[i][bin_])
            height = room * count / tallest
            x, width = left + step * (0.1 + 0.4 * i), 0.38 * step
            y = _HEIGHT - _FOOT - height
            parts.append(
                f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" '
                f'fill="{colour}" opacity="{opacity}"/>'
            )
            if count:
                parts.append(_text(x + width / 2, y - 3, str(count), size=8))
        parts.append(_text(left + step / 2, _HEIGHT - 5, str(edges[bin_]), size=9))
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="clusters by number of images, before and after">{"".join(parts)}</svg>'
    )


def bin_edges(largest: int) -> np.ndarray:
    """Edges of the bins 0, 1, 2, 3-4, 5-8 ... that hold sizes up to ``largest``."""
    edges = [0, 1, 2]
    while edges[-1] <= largest:
        edges.append(2 * (edges[-1] - 1) + 1 if edges[-1] > 2 else 3)
    return np.array(edges)


def class_bars(names: list[str], before: np.ndarray, after: np.ndarray) -> str:
    """A row a class, largest first: bars of its share of all images before and after, in percent.

    ``before``, ``after``: int [classes] images. Beyond ``CLASSES`` the rest is folded away.
    """
    shares = [100 * counts / max(counts.sum(), 1) for counts in (before, after)]
    widest = max(share.max() for share in shares)
    rows = []
    for c in np.argsort(-before, kind="stable").tolist():
        bars = "".join(
            f"<i class='{own}' style='width:{100 * share[c] / widest:.1f}%;margin:2px 0'></i>"
            for own, share in zip(("", "own"), shares)
        )
        numbers = "<br>".join(
            f"{share[c]:.1f} % ({counts[c]:,})" for share, counts in zip(shares, (before, after))
        )
        rows.append(f"<span>{html.escape(names[c])}</span><div>{bars}</div><span>{numbers}</span>")
    first, rest = (
        f"<div class='bars'>{''.join(x)}</div>" for x in (rows[:CLASSES], rows[CLASSES:])
    )
    if len(rows) <= CLASSES:
        return first
    more = len(rows) - CLASSES
    return f"{first}<details><summary>{more} smaller classes</summary>{rest}</details>"


def _text(x, y, text, *, size):
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="middle" '
        f'fill="var(--ink)">{text}</text>'
    )
