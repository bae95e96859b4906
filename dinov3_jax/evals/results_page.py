"""The page of results: the main number of every evaluation first, then all of each."""

import html
from pathlib import Path

import numpy as np
from PIL import Image

from dinov3_jax.evals import page
from dinov3_jax.evals.settings import find


def page_of(entries: dict[str, dict], pictures: Path) -> str:
    """HTML of the entries of results.json; ``pictures`` is the folder of their PNG files."""
    first = next(iter(entries.values()))
    sections = "\n".join(_section(name, entry, pictures) for name, entry in entries.items())
    facts = {"Model": first["model"], "Weights": first["weights"][:12]}
    items = "".join(
        f"<div><dt>{name}</dt><dd>{html.escape(value)}</dd></div>" for name, value in facts.items()
    )
    return page.frame(
        f"{first['model']}: evaluation",
        f"<header><h1>{html.escape(first['model'])}</h1><p class='lead'>What its frozen features "
        f"know.</p><dl class='facts'>{items}</dl></header>{_overview(entries)}\n{sections}",
    )


def number(value: float) -> str:
    """Four significant digits: 87.25, 0.01234, 512."""
    return f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"


def _overview(entries):
    rows = []
    for name, entry in entries.items():
        main = find(name).main
        value = number(entry["metrics"][main])
        rows.append(
            f"<tr><td><a href='#{name}'>{name}</a></td><td>{main}</td><td class='n'><b>{value}</b>"
            f"</td><td class='n'>{entry['seconds']:,.0f}</td></tr>"
        )
    return (
        "<section class='card table'><table><thead><tr><th>evaluation</th><th>metric</th>"
        f"<th class='n'>value</th><th class='n'>s</th></tr></thead><tbody>{''.join(rows)}"
        "</tbody></table></section>"
    )


def _section(name, entry, pictures):
    metrics = "".join(
        f"<tr><td>{html.escape(metric)}</td><td class='n'>{number(value)}</td></tr>"
        for metric, value in entry["metrics"].items()
    )
    settings = "".join(
        f"<tr><td>{html.escape(key)}</td><td>{html.escape(str(value))}</td></tr>"
        for key, value in entry["settings"].items()
    )
    shown = "".join(
        f"<figure class='card'>{_picture(pictures / f'{name}-{i}.png', caption)}"
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
        for i, caption in enumerate(entry["pictures"])
    )
    return (
        f"<section id='{name}'><h2>{name}</h2><p class='lead'>"
        f"{html.escape(find(name).about)}</p><div class='grid pair'>"
        f"<div class='card table'><table><tbody>{metrics}</tbody></table></div>"
        f"<div class='card table'><h3>Settings</h3><table><tbody>{settings}</tbody></table></div>"
        f"</div>{shown and _GRID.format(shown)}</section>"
    )


# Cards end with their picture: tall and wide ones stand side by side.
_GRID = "<div class='grid' style='align-items:start'>{}</div>"


def _picture(path, caption):
    with Image.open(path) as image:
        return page.picture(np.asarray(image.convert("RGB")), alt=caption, largest=512)
