"""The report of a run: one HTML file with the curves, the verdicts and what the features see."""

import html
import json

import jax
import numpy as np
from etils import epath

from dinov3_jax.evals import curves, gallery, page, panels
from dinov3_jax.evals.gallery import Pictures


def write_report(
    path,
    *,
    metrics: list[dict],
    config: dict,
    pictures: Pictures,
    strips: dict[int, np.ndarray],
    floors: dict,
    findings: list[str],
):
    """Writes one self-contained HTML file; it needs no network, script or other file.

    Args:
      path: where; local or gs://. The folder must exist. An old report is replaced.
      metrics: rows of metrics.jsonl, training and evaluation rows mixed, each with "step" (int).
        A metric that no row has is left out of the page; None, NaN and infinities become gaps
        that are counted.
      config: the run's ``TrainConfig`` as nested dicts.
      pictures: at most 8 of the n images are shown; the colours are fitted on all n.
      strips: step -> picture of ``similarity.read_strips``; empty: no section about them.
      floors: name -> k-NN top-1 in percent to compare with, for instance
        {"random backbone": 31.0, "raw pixels": 48.5}; at most 3. Empty without labels.
      findings: sentences of ``health.diagnose``.

    The device named on the page is that of this process.
    """
    if not metrics:
        raise ValueError("metrics has 0 rows, wanted at least 1; was metrics.jsonl written?")
    gallery.check(pictures)
    body = "\n".join(
        [
            _header(metrics, config),
            _tiles(metrics, config, floors),
            _findings(findings),
            panels.sections(metrics, config, floors),
            gallery.patches(pictures),
            gallery.over_time(strips, metrics),
            gallery.neighbours(pictures),
            _configuration(config),
        ]
    )
    epath.Path(path).write_text(page.frame(f"{config['name']}: report", body))


# Sizes a recipe may set itself; without any the preset's name says it all.
_SIZES = {"embed_dim": "wide", "depth": "blocks", "num_heads": "heads"}


def _header(metrics, config):
    steps = max(int(row["step"]) for row in metrics)
    speeds = curves.series(metrics, "images_per_second").values
    speeds = speeds[np.isfinite(speeds)]
    devices = jax.devices()
    student, data = config["student"], config["data"]
    own = [f"{student[key]} {what}" for key, what in _SIZES.items() if student[key] is not None]
    model = "ViT of " + ", ".join(own) if own else student["arch"]
    model += f", patch {student['patch_size']} px"
    if student["arch"].startswith("convnext"):  # it reads neither the sizes nor the patch
        model = student["arch"]
    facts = {
        "Model": model,
        "Data": " ".join(part for part in (data["source"], data["path"]) if part),
        "Steps": f"{steps:,} of {config['steps']:,}",
        "Batch": f"{config['batch']['images']:,} images",
        "Images seen": f"{steps * config['batch']['images']:,}",
        "Images a second": panels.compact(np.median(speeds)) if len(speeds) else None,
        "Device": f"{len(devices)} × {devices[0].device_kind}",
    }
    items = "".join(
        f"<div><dt>{name}</dt><dd>{html.escape(value)}</dd></div>"
        for name, value in facts.items()
        if value
    )
    return (
        f"<header><h1>{html.escape(config['name'])}</h1>"
        '<p class="lead">Self-supervised training: how the losses went, whether the features '
        f"are healthy, and what they see.</p><dl class='facts'>{items}</dl></header>"
    )


def _tiles(metrics, config, floors):
    tiles = []
    knn = curves.last(curves.series(metrics, "eval/knn"))
    if knn is not None:
        bars = {"this run": knn, **panels.finite_items(floors)}
        rows = "".join(
            f"<span>{html.escape(name)}</span>"
            f"<i{' class=own' if name == 'this run' else ''} style='width:{max(v, 0.5):.1f}%'></i>"
            f"<span>{v:.1f} %</span>"
            for name, v in bars.items()
        )
        tiles.append(
            f"<div class='card tile wide'><h3>k-NN accuracy</h3><div class='big'>{knn:.1f} "
            f"<small>% top-1</small></div><div class='bars'>{rows}</div></div>"
        )
    dino = config["dino"]["head"]["prototypes"]
    width = config["student"].get("embed_dim")
    for name, title, unit, note in (
        (
            "health/rankme_cls",
            "RankMe of CLS",
            f"of {width:,}" if width else "directions",
            "directions that the features spread over; collapse is 1",
        ),
        (
            "health/prototypes_used",
            "Prototypes used",
            f"of {dino:,}",
            f"different teacher choices over {config['eval']['health_images']:,} images",
        ),
    ):
        value = curves.last(curves.series(metrics, name))
        if value is not None:
            tiles.append(
                f"<div class='card tile'><h3>{title}</h3><div class='big'>{panels.compact(value)} "
                f"<small>{unit}</small></div><p class='note'>{note}</p></div>"
            )
    return f"<section class='tiles'>{''.join(tiles)}</section>" if tiles else ""


def _findings(findings):
    if not findings:
        return (
            "<h2>Findings</h2><p class='fine'><b class='good'>✓ Nothing found.</b> No sign of "
            "collapse, of a loss that stands still, or of numbers that are not finite.</p>"
        )
    items = "".join(f"<li>{page.prose(finding)}</li>" for finding in findings)
    return f"<h2>Findings</h2><ul class='findings'>{items}</ul>"


def _configuration(config):
    text = html.escape(json.dumps(config, indent=2, default=str))
    return (
        "<h2>Configuration</h2><details class='card'><summary>Every key of this run</summary>"
        f"<pre><code>{text}</code></pre></details>"
    )
