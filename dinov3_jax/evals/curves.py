"""Curves as inline SVG that takes its colours from the page (light or dark)."""

import dataclasses
import io
import math
import re
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

POINTS = 300  # points drawn of one curve; a longer one is averaged in equal spans of steps

# Matplotlib cannot write CSS variables, so each gets a colour nobody would use, replaced below.
_COLOURS = {
    "ink": "#010203",
    "muted": "#010204",
    "rule": "#010205",
    "good": "#010206",
    "s1": "#010207",
    "s2": "#010208",
    "s3": "#010209",
    "s4": "#01020a",
}
DASHES = ((0, (5, 3)), (0, (1.5, 2)), (0, (6, 2, 1.5, 2)))


@dataclasses.dataclass(frozen=True)
class Series:
    """One metric over time: steps int [n] ascending, values float [n] (NaN: a gap)."""

    steps: np.ndarray
    values: np.ndarray


def series(rows, name):
    """The metric ``name`` of metrics.jsonl rows as a ``Series``; empty where no row has it.

    Sorted by step. Where a run was resumed and a step is there twice, the later row counts. None
    and infinities become NaN.
    """
    points = {int(row["step"]): row[name] for row in rows if name in row}
    steps = np.array(sorted(points), np.int64)
    values = np.array([_finite(points[step]) for step in steps.tolist()], np.float64)
    return Series(steps, values)


def last(curve):
    """Newest finite value of a ``Series``; None where there is none."""
    values = curve.values[np.isfinite(curve.values)]
    return float(values[-1]) if values.size else None


def panel(curves, *, lines=(), healthy=None):
    """One small chart as SVG text, 4:2.2, for the width of its container.

    Args:
      curves: list of at most 4 ``Series``, coloured --s1 to --s4 in order. At least one point in
        all must be finite, else there is nothing to scale the axes by: a ValueError.
      lines: heights of horizontal dashed lines, at most 3, in the dash patterns of ``DASHES``.
      healthy: (low, high) of the shaded band, None for an open end; None: no band.
    """
    finite = np.concatenate([c.values[np.isfinite(c.values)] for c in curves] + [np.zeros(0)])
    if not finite.size:
        raise ValueError("no finite value to draw; leave the panel out")
    settings: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": "dinov3",
        "path.simplify": False,
    }
    with rc_context(settings):
        figure = Figure(figsize=(4.0, 2.2))
        figure.patch.set_alpha(0.0)
        axes = figure.add_axes((0.125, 0.13, 0.855, 0.83))
        axes.patch.set_alpha(0.0)
        for curve, colour in zip(curves, ("s1", "s2", "s3", "s4"), strict=False):
            _draw(axes, curve, _COLOURS[colour])
        for height, dash in zip(lines, DASHES, strict=False):
            axes.axhline(height, color=_COLOURS["muted"], linestyle=dash, linewidth=1.2)
        low, high = _limits(finite, lines, healthy)
        axes.set_ylim(low, high)
        if healthy is not None:
            bottom = low if healthy[0] is None else max(low, healthy[0])
            top = high if healthy[1] is None else min(high, healthy[1])
            if top > bottom:
                axes.axhspan(bottom, top, color=_COLOURS["good"], alpha=0.10, linewidth=0)
        _dress(axes)
        known = np.unique(np.concatenate([c.steps for c in curves]))
        if len(known) == 1:  # else the axis invents steps around the only one there is
            axes.set_xticks(known)
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None})
    return _inline(file.getvalue())


def _draw(axes, curve, colour):
    steps, middle, low, high = _thin(curve)
    if len(steps) < len(curve.steps):
        axes.fill_between(steps, low, high, color=colour, alpha=0.18, linewidth=0)
    marker = "o" if len(steps) <= 30 else ""
    axes.plot(steps, middle, color=colour, linewidth=1.6, marker=marker, markersize=3.2)


def _thin(curve):
    """Steps, mean, lowest and highest value in at most ``POINTS`` equal spans of steps."""
    steps, values = curve.steps, curve.values
    if len(steps) <= POINTS:
        return steps, values, values, values
    edges = np.linspace(steps[0], steps[-1] + 1, POINTS + 1)
    span = np.digitize(steps, edges) - 1
    rows = []
    for index in np.unique(span):
        inside = values[span == index]
        known = inside[np.isfinite(inside)]
        numbers = (known.mean(), known.min(), known.max()) if known.size else (math.nan,) * 3
        rows.append((steps[span == index].mean(), *numbers))
    return np.array(rows).T


def _limits(finite, lines, healthy):
    """Value range of the axis: all data and lines, the edge of the band, and a margin of 6 %."""
    values = np.concatenate([finite, np.asarray(lines, np.float64)])
    low, high = values.min(), values.max()
    bottom, top = healthy or (None, None)
    # Data wholly outside the band: reach into it, so that one sees how far away it is.
    if bottom is not None and high < bottom:
        high = bottom + 0.3 * (bottom - low)
    if top is not None and low > top:
        low = top - 0.3 * (high - top)
    # A span below 1 % of the values would blow rounding up into a curve.
    span = max(high - low, 0.01 * max(abs(low), abs(high)), 1e-9)
    middle = (low + high) / 2
    return middle - 0.56 * span, middle + 0.56 * span


def _dress(axes):
    axes.grid(axis="y", color=_COLOURS["rule"], linewidth=0.7)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(_COLOURS["rule"])
    axes.tick_params(
        which="both",
        length=0,
        labelsize=8.5,
        labelcolor=_COLOURS["muted"],
        color=_COLOURS["rule"],
    )
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.xaxis.set_major_formatter(lambda step, _: _short(step))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_formatter(lambda value, _: _number(value))


def _short(step):
    """12000 -> 12k, 1500000 -> 1.5M."""
    for scale, unit in ((1e6, "M"), (1e3, "k")):
        if abs(step) >= scale:
            return f"{step / scale:.4g}{unit}"
    return f"{step:.4g}"


def _number(value):
    """Short enough for the left margin: 0.00045 -> 4.5e-4."""
    if abs(value) >= 1e4:
        return _short(value)
    plain = f"{value:.4g}"
    if value == 0 or (abs(value) >= 1e-3 and len(plain.lstrip("-")) <= 6):
        return plain
    digits, power = f"{value:.2e}".split("e")
    return f"{digits.rstrip('0').rstrip('.')}e{int(power)}"


def _inline(svg):
    """SVG element alone: no prolog, metadata, sizes or ids of groups (they repeat on a page)."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    opening = svg[: svg.index(">") + 1]
    (box,) = re.findall(r'viewBox="[^"]*"', opening)
    svg = f'<svg {box} role="img" aria-hidden="true">' + svg[len(opening) :]
    svg = svg.replace("xlink:href", "href")
    for name, colour in _COLOURS.items():
        svg = svg.replace(colour, f"var(--{name})")
    return re.sub(r"\n\s*", "\n", svg)


def _finite(value):
    return float(value) if value is not None and math.isfinite(value) else math.nan
