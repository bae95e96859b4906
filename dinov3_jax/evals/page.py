"""The pieces of the report's page: its style sheet, its frame, and pictures as text."""

import base64
import html
import io
import math
import re

import numpy as np
from PIL import Image, ImageDraw

STYLE = """
:root { color-scheme: light dark;
  --bg: #f5f6f8; --card: #ffffff; --ink: #18202b; --muted: #596575; --rule: #dde2e8;
  --good: #0b7f56; --bad: #b9322a; --badbg: #fdf0ee;
  --s1: #2461c4; --s2: #c2560a; --s3: #0d8566; --s4: #8a3dbd; }
@media (prefers-color-scheme: dark) { :root {
  --bg: #10141a; --card: #191f28; --ink: #e7ebf0; --muted: #9ba8b7; --rule: #2f3947;
  --good: #45c596; --bad: #ff8a7d; --badbg: #2e1c1d;
  --s1: #70a9ff; --s2: #f0964f; --s3: #43c8a1; --s4: #c78cf2; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--bg); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, Arial, sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 32px 20px 64px; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 4px; letter-spacing: -.015em;
  overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 44px 0 4px; letter-spacing: -.01em; }
h3 { font-size: .95rem; margin: 0; }
p { margin: 4px 0 12px; max-width: 75ch; }
.lead, figcaption, .note, .facts dt { color: var(--muted); }
.note { font-size: .85rem; line-height: 1.45; margin: 2px 0 8px; }
.facts { display: flex; flex-wrap: wrap; gap: 10px 28px; margin: 18px 0 0; }
.facts dt { font-size: .78rem; } .facts dd { margin: 0; font-weight: 600;
  font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
.grid { display: grid; gap: 16px; margin-top: 14px;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 340px), 1fr)); }
.pair { grid-template-columns: repeat(auto-fill, minmax(min(100%, 460px), 1fr)); }
.card { background: var(--card); border: 1px solid var(--rule); border-radius: 10px;
  padding: 14px 16px; min-width: 0; }
.card svg { display: block; width: 100%; height: auto; margin-top: 4px; }
.card svg * { stroke-linejoin: round; stroke-linecap: butt; }
.card svg text { font-family: inherit !important; font-variant-numeric: tabular-nums; }
.panel { display: flex; flex-direction: column; }
.panel > svg { margin-top: auto; }
.legend { display: flex; flex-wrap: wrap; gap: 2px 14px; font-size: .8rem; margin: 6px 0 0;
  padding: 0; list-style: none; }
.legend li { display: flex; align-items: center; gap: 6px; }
.legend svg { width: 22px; height: 10px; flex: none; margin: 0; }
.legend .band { width: 22px; height: 10px; border-radius: 2px;
  background: color-mix(in srgb, var(--good) 18%, transparent); }
.tiles { display: grid; gap: 16px; margin-top: 22px;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 210px), 1fr)); }
.tile .big { font-size: 2.1rem; font-weight: 650; line-height: 1.15; letter-spacing: -.02em;
  font-variant-numeric: tabular-nums; }
.tile .big small { font-size: 1rem; font-weight: 500; color: var(--muted); letter-spacing: 0; }
.tile .note { margin-bottom: 0; }
.tile.wide { grid-column: span 2; }
.bars { display: grid; grid-template-columns: max-content 1fr max-content; gap: 4px 10px;
  align-items: center; font-size: .82rem; margin-top: 8px; font-variant-numeric: tabular-nums; }
.bars i { display: block; height: 8px; border-radius: 4px; background: var(--muted); opacity: .55; }
.bars i.own { background: var(--s1); opacity: 1; }
.findings { margin: 12px 0 0; padding: 0; list-style: none; display: grid; gap: 10px; }
.findings li { background: var(--badbg); border: 1px solid var(--rule);
  border-left: 4px solid var(--bad); border-radius: 8px; padding: 10px 14px; max-width: 100ch; }
.findings code { white-space: nowrap; }
.fine { border-left: 4px solid var(--good); padding: 8px 14px; background: var(--card);
  border-radius: 8px; }
.good { color: var(--good); } .bad { color: var(--bad); }
code, pre { font: .85em/1.45 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
code { background: color-mix(in srgb, var(--ink) 8%, transparent); border-radius: 4px;
  padding: 1px 4px; overflow-wrap: anywhere; }
pre { overflow-x: auto; margin: 8px 0 0; } pre code { background: none; padding: 0; }
figure { margin: 0; min-width: 0; }
figure img { display: block; width: 100%; height: auto; border-radius: 6px; }
figcaption { font-size: .78rem; line-height: 1.35; margin-top: 4px; overflow-wrap: anywhere; }
.trio { display: grid; grid-template-columns: repeat(3, 1fr); gap: 8px; }
.scale { height: 8px; width: 120px; border-radius: 4px; display: inline-block;
  vertical-align: middle; }
.time { display: grid; gap: 12px 16px; align-items: center; margin-top: 14px;
  grid-template-columns: max-content 1fr; }
.time p { margin: 0; font-size: .85rem; line-height: 1.45; font-variant-numeric: tabular-nums; }
.time p b { font-size: .95rem; }
.time img { display: block; width: 100%; height: auto; }
.row { display: grid; grid-template-columns: repeat(7, 1fr); gap: 10px; padding: 12px 0;
  border-top: 1px solid var(--rule); }
.row:first-child { border-top: 0; }
.row figure:first-child { padding-right: 10px; border-right: 2px solid var(--rule); }
.table { overflow-x: auto; margin-top: 22px; } .grid > .table { margin-top: 0; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th { font-size: .78rem; font-weight: 500; color: var(--muted); text-align: left; }
td, th { padding: 5px 12px 5px 0; border-top: 1px solid var(--rule); vertical-align: top;
  overflow-wrap: anywhere; }
td:first-child { overflow-wrap: break-word; } td.n { white-space: nowrap; }
table > :first-child > tr:first-child > * { border-top: 0; }
.n { text-align: right; font-variant-numeric: tabular-nums; }
a { color: var(--s1); }
summary { cursor: pointer; font-weight: 600; }
@media (max-width: 640px) { main { padding: 22px 14px 48px; } h1 { font-size: 1.5rem; }
  .tiles { grid-template-columns: 1fr 1fr; gap: 10px; } .tile .big { font-size: 1.7rem; }
  .tile.wide { grid-column: 1 / -1; } .findings code { white-space: normal;
    display: inline-block; max-width: 100%; font-size: .74em; }
  .time { grid-template-columns: 1fr; gap: 4px; } .time img { margin-bottom: 10px; }
  .row { grid-template-columns: repeat(4, 1fr); gap: 8px; }
  .row figure:first-child { grid-row: span 2; } }
"""


def frame(title, body):
    """The whole document around ``body``: nothing in it is fetched from anywhere."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n"
        f"<body><main>\n{body}\n</main></body>\n</html>\n"
    )


def prose(text):
    """Plain text to HTML: escaped, with `backticks` as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text))


def picture(image, *, alt, largest=256, point=None):
    """uint8 [H, W, 3], or RGBA [H, W, 4], as an <img> that carries its own PNG.

    A picture whose long side is under 128 px is enlarged by a whole factor, each pixel a square;
    one above ``largest`` is shrunk to it. ``point`` (x, y in [0, 1]) is marked by a ring.
    """
    drawn = Image.fromarray(np.ascontiguousarray(image))
    long = max(drawn.size)
    if long < 128:
        factor = math.ceil(128 / long)
        drawn = drawn.resize((drawn.width * factor, drawn.height * factor), Image.NEAREST)
    elif long > largest:
        size = [max(1, round(side * largest / long)) for side in drawn.size]
        drawn = drawn.resize(size, Image.LANCZOS)
    if point is not None:
        ring(drawn, point)
    file = io.BytesIO()
    drawn.save(file, "PNG", optimize=True)
    data = base64.b64encode(file.getvalue()).decode("ascii")
    return (
        f'<img src="data:image/png;base64,{data}" width="{drawn.width}" height="{drawn.height}" '
        f'alt="{html.escape(alt, quote=True)}" loading="lazy">'
    )


def scale(colours):
    """A bar that fades through uint8 [n, 3] colours from left to right."""
    fade = ", ".join("#" + bytes(colour).hex() for colour in colours)
    return f"<span class='scale' style='background: linear-gradient(90deg, {fade})'></span>"


def ring(drawn, point):
    """Marks ``point`` (x, y in [0, 1]) on a PIL image, in place."""
    x, y = point[0] * drawn.width, point[1] * drawn.height
    pen = ImageDraw.Draw(drawn)
    unit = max(drawn.size) / 128
    for radius, colour, width in ((5, "black", 4), (5, "white", 2)):
        r = (radius + width / 2) * unit
        box = (x - r, y - r, x + r, y + r)
        pen.ellipse(box, outline=colour, width=max(1, round(width * unit)))
