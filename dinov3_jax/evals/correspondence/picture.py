"""Two images side by side with lines between the points that were matched."""

import numpy as np
from PIL import Image, ImageDraw

GREEN, RED = (0, 158, 115), (213, 94, 0)
_GAP = 6  # pixels


def draw_matches(
    a: np.ndarray,
    b: np.ndarray,
    points_a: np.ndarray,
    points_b: np.ndarray,
    colours: np.ndarray,
    *,
    longest: int | None = None,
) -> np.ndarray:
    """uint8 [H, W, 3]: image ``a`` left, ``b`` right, a line in its colour for each match.

    ``points_*`` float [k, 2], x and y in pixels of their image; ``colours`` uint8 [k, 3]. The
    picture is shrunk until its long side is at most ``longest``; lines are drawn after that.
    """
    height = max(len(a), len(b))
    width = a.shape[1] + _GAP + b.shape[1]
    canvas = np.full((height, width, 3), 255, np.uint8)
    canvas[: len(a), : a.shape[1]] = a
    canvas[: len(b), a.shape[1] + _GAP :] = b
    drawn = Image.fromarray(canvas)
    factor = 1.0 if longest is None else min(1.0, longest / max(height, width))
    if factor < 1.0:
        drawn = drawn.resize(
            (round(width * factor), round(height * factor)), Image.Resampling.BICUBIC
        )
    pen = ImageDraw.Draw(drawn)
    unit = max(drawn.size) / 512
    right = np.array([a.shape[1] + _GAP, 0.0])
    for start, end, colour in zip(points_a * factor, (points_b + right) * factor, colours):
        paint = tuple(int(value) for value in colour)
        line = [*map(float, start), *map(float, end)]
        pen.line(line, fill="black", width=max(2, round(3 * unit)))
        pen.line(line, fill=paint, width=max(1, round(1.4 * unit)))
        for x, y in (start, end):
            r = 2.5 * unit
            pen.ellipse((x - r, y - r, x + r, y + r), fill=paint, outline="black")
    return np.asarray(drawn)
