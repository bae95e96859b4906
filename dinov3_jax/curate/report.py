"""The report of a curation: one HTML file with what was dropped and how even the rest is."""

import dataclasses
import html
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dinov3_jax.curate import charts, stages
from dinov3_jax.curate.embeddings import Embedded
from dinov3_jax.curate.recipe import CurationConfig
from dinov3_jax.curation.sampling import kl_to_uniform
from dinov3_jax.data.decode import decode
from dinov3_jax.data.fit import fit
from dinov3_jax.data.sources import Source
from dinov3_jax.evals import page
from dinov3_jax.features.formats import write_text

SIDE = 128  # pixels of a thumbnail
GRIDS = 3  # of the largest clusters, and of random ones
SHOWN = 12  # images of a cluster
PAIRS = 8  # of near-duplicates


class Curated(NamedTuple):
    """What the report speaks of; rows are those of ``pool``, the embedded images."""

    pool: Embedded
    dedup: stages.Deduplicated
    tree: stages.Tree
    chosen: dict[str, np.ndarray]  # "balanced", "retrieved:NAME" -> rows
    rows: np.ndarray  # int64, all of them


def write_report(
    path: Path, curated: Curated, source: Source, recipe: CurationConfig, origin: str
) -> None:
    """Writes one self-contained HTML file, the same bytes for the same curation.

    ``source``: the pool, read for the pictures and its labels; ``origin``: what it is called.
    """
    rng = np.random.default_rng(recipe.seed)
    body = "\n".join(
        [
            _header(curated, recipe, origin),
            _balance(curated, source),
            _levels(curated),
            _dropped(curated, source, recipe, rng),
            _clusters(curated, source, rng),
            "<section><h2>Recipe</h2><details><summary>every key</summary><pre><code>"
            f"{html.escape(json.dumps(dataclasses.asdict(recipe), indent=1))}"
            "</code></pre></details></section>",
        ]
    )
    write_text(path, page.frame(f"{recipe.name}: curation", body))


def _header(curated, recipe, origin):
    pool, dedup = curated.pool, curated.dedup
    n = len(pool.points)
    facts = {
        "Pool": origin,
        "Images": f"{n + len(pool.unreadable):,}",
        "Unreadable": f"{len(pool.unreadable):,}",
        "Known to evaluation sets": f"{int(dedup.seen.sum()):,}",
        "Near-duplicates": f"{n - int(dedup.seen.sum()) - len(dedup.kept):,}",
        "Left": f"{len(dedup.kept):,}",
        **{name: f"{len(rows):,}" for name, rows in curated.chosen.items()},
        "Curated": f"{len(curated.rows):,}",
    }
    items = "".join(
        f"<div><dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd></div>"
        for name, value in facts.items()
    )
    return (
        f"<header><h1>{html.escape(recipe.name)}: curation</h1><p class='lead'>From a raw pool to "
        "the images worth training on: what was dropped and why, and how evenly the rest is "
        f"spread.</p><dl class='facts'>{items}</dl></header>"
    )


def _balance(curated, source):
    if source.labels is None:
        return ""
    labels = source.labels[curated.pool.records]
    present, labels = np.unique(labels, return_inverse=True)
    names = [
        source.classes[label] if source.classes is not None else f"class {label}"
        for label in present.tolist()
    ]
    k = len(present)
    before, after = (np.bincount(x, minlength=k) for x in (labels, labels[curated.rows]))
    kls = {
        "pool": labels,
        "without duplicates": labels[curated.dedup.kept],
        **{name: labels[rows] for name, rows in curated.chosen.items()},
        "curated": labels[curated.rows],
    }
    tiles = "".join(
        f"<div class='card tile'><h3>{html.escape(name)}</h3><div class='big'>"
        f"{kl_to_uniform(found, k):.3f}</div><p class='note'>{len(found):,} images, smallest class "
        f"{np.bincount(found, minlength=k).min():,}</p></div>"
        for name, found in kls.items()
        if len(found)
    )
    return (
        "<section><h2>Class balance</h2><p class='lead'>The pool has labels, which curation did "
        f"not see. KL to uniform over {k} classes, in nats: 0 where all are as frequent.</p>"
        f"<div class='tiles'>{tiles}</div><div class='card' style='margin-top:16px'>{_LEGEND}"
        f"{charts.class_bars(names, before, after)}</div></section>"
    )


def _levels(curated):
    kept, tree = curated.dedup.kept, curated.tree
    balanced = np.isin(kept, curated.chosen["balanced"])
    cards = []
    for level, parents in enumerate(tree.centroids):
        clusters, k = tree.clusters(level), len(parents)
        before, after = (np.bincount(x, minlength=k) for x in (clusters, clusters[balanced]))
        kl = [kl_to_uniform(x, k) for x in (clusters, clusters[balanced])]
        cards.append(
            f"<div class='card panel'><h3>Level {level + 1}: {k:,} clusters</h3><p class='note'>KL "
            f"to uniform {kl[0]:.3f} → <b>{kl[1]:.3f}</b>. Images a cluster, smallest, median, "
            f"largest: {_spread(before)} → {_spread(after)}</p>"
            f"{charts.sizes_histogram(before, after)}</div>"
        )
    return (
        "<section><h2>Levels</h2><p class='lead'>Clusters by the number of their images, of all "
        "images without duplicates and of the balanced sample; lowest level first. The budget is "
        "shared out from the highest level down, each cluster's among its children. A bar counts "
        f"the clusters of at least as many images as stand below it.</p>{_LEGEND}"
        f"<div class='grid'>{''.join(cards)}</div></section>"
    )


def _dropped(curated, source, recipe, rng):
    pool, dedup = curated.pool, curated.dedup
    kept = np.zeros(len(pool.points), bool)
    kept[dedup.kept] = True
    twins = np.flatnonzero(~kept & ~dedup.seen)
    stays = dict(zip(dedup.groups[dedup.kept].tolist(), dedup.kept.tolist()))
    pairs = [(row, stays[int(dedup.groups[row])]) for row in twins]
    first, second = (np.array(side, np.int64) for side in (zip(*pairs) if pairs else ((), ())))
    cosine = np.sum(dedup.points[first] * dedup.points[second], axis=1)
    order = np.argsort(cosine, kind="stable")
    shown = np.unique(np.concatenate([order[: PAIRS // 2], rng.permutation(order)[: PAIRS // 2]]))
    shown = shown[np.argsort(cosine[shown], kind="stable")]
    cards = "".join(
        "<div class='card trio' style='grid-template-columns:1fr 1fr'>"
        f"{_figure(source, pool, int(second[i]), 'stays')}"
        f"{_figure(source, pool, int(first[i]), f'dropped, cosine {cosine[i]:.4f}')}</div>"
        for i in shown
    )
    seen = "".join(
        _figure(source, pool, int(row), "")
        for row in rng.permutation(np.flatnonzero(dedup.seen))[:SHOWN]
    )
    unreadable = "".join(
        f"<li><code>{html.escape(name)}</code>: {html.escape(why)}</li>"
        for name, why in pool.unreadable[:SHOWN]
    )
    settings = recipe.dedup
    joined = (
        "not looked for" if settings.threshold is None else f"cosine above {settings.threshold}"
    )
    return (
        "<section><h2>What was dropped</h2>"
        f"<p class='lead'>{len(twins):,} near-duplicates ({joined}), {int(dedup.seen.sum()):,} "
        f"images that an evaluation set knows (cosine above {settings.against_threshold}, and what "
        f"is joined to such an image), {len(pool.unreadable):,} that could not be read.</p>"
        + (
            "<p class='note'>Near-duplicates: those least like the image that stands for them, and "
            "some at random. Different things below mean that dedup.threshold is too low for this "
            "model. An image may be joined to another through a third, at a lower cosine.</p>"
            f"<div class='grid'>{cards}</div>"
            if cards
            else ""
        )
        + (
            f"<p class='note' style='margin-top:16px'>Known to an evaluation set:</p>{_grid(seen)}"
            if seen
            else ""
        )
        + (f"<ul class='findings'>{unreadable}</ul>" if unreadable else "")
        + "</section>"
    )


def _clusters(curated, source, rng):
    kept, tree = curated.dedup.kept, curated.tree
    level = len(tree.parents) - 1
    clusters = tree.clusters(level)
    balanced = np.isin(kept, curated.chosen["balanced"])
    k = len(tree.centroids[level])
    before, after = (np.bincount(x, minlength=k) for x in (clusters, clusters[balanced]))
    largest = np.argsort(-before, kind="stable")[:GRIDS]
    others = rng.permutation(np.setdiff1d(np.arange(k), largest))[:GRIDS]
    cards = []
    for name, chosen in (("Largest", largest), ("Random", others)):
        for c in chosen.tolist():
            members = rng.permutation(kept[clusters == c])[:SHOWN]
            pictures = "".join(_figure(source, curated.pool, int(row), "") for row in members)
            cards.append(
                f"<div class='card'><h3>{name}: cluster {c}</h3><p class='note'>{before[c]:,} "
                f"images → {after[c]:,} in the balanced sample</p>{_grid(pictures)}</div>"
            )
    return (
        f"<section><h2>Clusters of level {level + 1}</h2><p class='lead'>Random images of the "
        "largest clusters and of others. What a cluster shares is what the model tells apart.</p>"
        f"<div class='grid pair'>{''.join(cards)}</div></section>"
    )


def _figure(source, pool, row, caption):
    image = decode(source[int(pool.records[row])].image)
    small = fit(image, (SIDE, SIDE), how="crop", stride=1, fill=(0, 0, 0)).pixels
    shown = page.picture(small, alt=pool.ids[row])
    text = f"<figcaption>{html.escape(caption)}</figcaption>" if caption else ""
    return f"<figure title='{html.escape(pool.ids[row], quote=True)}'>{shown}{text}</figure>"


def _grid(figures):
    style = "display:grid;gap:6px;grid-template-columns:repeat(auto-fill,minmax(72px,1fr))"
    return f"<div style='{style}'>{figures}</div>"


def _spread(sizes):
    return f"{sizes.min():,}, {np.median(sizes):,.0f}, {sizes.max():,}"


_LEGEND = (
    "<ul class='legend'><li><svg viewBox='0 0 22 10'><rect width='22' height='10' "
    "fill='var(--muted)' opacity='.55'/></svg>before</li><li><svg viewBox='0 0 22 10'>"
    "<rect width='22' height='10' fill='var(--s1)'/></svg>after</li></ul>"
)
