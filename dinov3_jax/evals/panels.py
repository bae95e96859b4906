"""The charts of the report: which metric stands where, and one sentence about each."""

import functools
import html
import math

import numpy as np

from dinov3_jax.evals import curves
from dinov3_jax.evals.health import THRESHOLDS
from dinov3_jax.evals.suite import EVALUATIONS


def sections(metrics: list[dict], config: dict, floors: dict) -> str:
    """All charts that have data, in titled sections, as HTML; arguments of ``write_report``."""
    dino = config["dino"]["head"]["prototypes"]
    ibot = config["ibot"]["head"]["prototypes"]
    # loss/ibot averages over unmasked crops too, at which it is 0.
    crops = 2 * config["batch"]["group"]
    share = int(crops * config["ibot"]["mask_probability"]) / crops
    limit = {name: threshold.value for name, threshold in THRESHOLDS.items()}
    entropy_limit = limit["teacher_entropy"] * math.log(dino)

    card = functools.partial(_card, metrics)
    grad_names = sorted({name for row in metrics for name in row if name.startswith("grad_norm/")})
    groups = [
        (
            "Losses",
            (
                "The teacher moves with the student, so a loss compares the two and does not "
                "measure quality. Look for terms that leave the dashed line, and for sudden jumps."
            ),
            [
                card(
                    "DINO",
                    "Cross-entropy between CLS targets and predictions. On the dashed line the "
                    "student finds all prototypes equally likely.",
                    {
                        "loss/dino_global": "global crops",
                        "loss/dino_local": "local crops",
                    },
                    lines={f"ln {dino}": math.log(dino)},
                ),
                card(
                    "iBOT",
                    "The same for masked patches, averaged over all global crops: predict what the "
                    "teacher sees there.",
                    {"loss/ibot": "masked patches"},
                    lines={f"{share:.3g} × ln {ibot}": share * math.log(ibot)},
                ),
                card(
                    "KoLeo",
                    "Minus the log distance to the nearest neighbour. Lower is more spread out; "
                    "below zero is normal.",
                    {"loss/koleo": "KoLeo"},
                ),
                card(
                    "Gram",
                    "Squared distance of the patch similarities from the Gram teacher's. It falls "
                    "as they return to what they were.",
                    {"loss/gram": "patches"},
                ),
                card(
                    "Total",
                    "The weighted sum that is minimised. It rises when the teacher temperature "
                    "does; it ranks no two runs.",
                    {"loss/total": "total"},
                ),
                card(
                    "Teacher temperature",
                    "Lower is sharper targets.",
                    {"teacher_temperature": "temperature"},
                ),
                card(
                    "Gradient norm",
                    "Before clipping.",
                    {name: name.removeprefix("grad_norm/") for name in grad_names[:4]},
                ),
            ],
        ),
        (
            "Features",
            (
                "Measured on the teacher. The shaded band is where nothing is wrong; outside it, "
                "the findings above say what to try."
            ),
            [
                card(
                    "k-NN accuracy",
                    "Percent of held-out images whose nearest labelled images vote for the right "
                    "class. Learning shows above every dashed line.",
                    {"eval/knn": "this run"},
                    lines=finite_items(floors),
                ),
                card(
                    "RankMe",
                    "Directions that the features spread over. Near 1 everything looks the same.",
                    {"health/rankme_cls": "CLS", "health/rankme_patch": "patches"},
                    healthy=(limit["rankme_cls"], None),
                ),
                card(
                    "Teacher entropy",
                    "Nats of doubt in one CLS target. At the dashed line targets say nothing.",
                    {"health/teacher_entropy": "one target"},
                    lines={f"ln {dino}": math.log(dino)},
                    healthy=(0.0, entropy_limit),
                ),
                card(
                    "Prototypes used",
                    "Different teacher choices over the health images. One means collapse.",
                    {"health/prototypes_used": "prototypes"},
                    healthy=(limit["prototypes_used"], None),
                ),
                card(
                    "Patches of one image",
                    "Mean cosine of two patches. Near 1 the image is a uniform smear.",
                    {"health/patch_cosine": "patch to patch"},
                    healthy=(None, limit["patch_cosine"]),
                ),
                card(
                    "CLS and patches",
                    "Mean cosine of CLS and patches. Near 1 the patches repeat the summary.",
                    {"health/cls_patch_cosine": "CLS to patch"},
                    healthy=(None, limit["cls_patch_cosine"]),
                ),
            ],
        ),
        (
            "Evaluations",
            "The protocols of eval.suite on the teacher, the metric to quote of each.",
            [
                card(name, evaluation.about, {f"eval/{name}/{evaluation.main}": evaluation.main})
                for name, evaluation in _measured(metrics).items()
            ],
        ),
        (
            "Schedules and machine",
            "What the run was told to do, and how fast it did it.",
            [
                card(
                    "Learning rate",
                    "At the top of the network; layer decay lowers it below.",
                    {"lr": "lr"},
                ),
                card(
                    "Weight decay",
                    "Decoupled, times lr.",
                    {"weight_decay": "weight decay"},
                ),
                card(
                    "Teacher momentum",
                    "Share of the old teacher kept in a step.",
                    {"teacher_momentum": "momentum"},
                ),
                card(
                    "Gram weight",
                    "Factor of the Gram loss in the total.",
                    {"gram_weight": "weight"},
                ),
                card(
                    "Throughput",
                    "Images a second, all devices.",
                    {"images_per_second": "images / s"},
                ),
                card(
                    "Waiting for data",
                    "Time the step stood idle for a batch. Far above zero, readers are too slow.",
                    {"data_wait": "wait"},
                ),
            ],
        ),
    ]
    return "\n".join(
        f"<section><h2>{title}</h2><p class='lead'>{text}</p><div class='grid'>"
        f"{''.join(cards)}</div></section>"
        for title, text, cards in groups
        if any(cards)
    )


def _measured(metrics):
    """NAME or NAME@LABEL -> its evaluation, of all that have rows."""
    keys = dict.fromkeys(key for row in metrics for key in row if key.startswith("eval/"))
    names = [key.split("/")[1] for key in keys if key.count("/") > 1]
    kinds = {name: name.partition("@")[0] for name in names}
    return {name: EVALUATIONS[kind] for name, kind in kinds.items() if kind in EVALUATIONS}


def _card(metrics, title, note, names, *, lines=None, healthy=None):
    """One chart with its legend; empty where no row has any of the metrics."""
    drawn = {label: curves.series(metrics, name) for name, label in names.items()}
    drawn = {label: curve for label, curve in drawn.items() if len(curve.steps)}
    if not drawn:
        return ""
    lost = sum(int(np.sum(~np.isfinite(curve.values))) for curve in drawn.values())
    lines = lines or {}
    legend = [
        _key(f"stroke='var(--s{i})' stroke-width='2.4'", label, curves.last(curve))
        for i, (label, curve) in enumerate(drawn.items(), 1)
    ]
    legend += [
        _key(
            "stroke='var(--muted)' stroke-width='1.6' stroke-dasharray='"
            + " ".join(str(length) for length in dash[1])
            + "'",
            label,
            height,
        )
        for (label, height), dash in zip(lines.items(), curves.DASHES, strict=False)
    ]
    if healthy:
        legend.append("<li><span class='band'></span>healthy</li>")
    if lost:
        values = "value is" if lost == 1 else "values are"
        legend.append(f"<li class='bad'>⚠ {lost} {values} not finite</li>")
    known = any(curves.last(curve) is not None for curve in drawn.values())
    chart = (
        curves.panel(list(drawn.values()), lines=list(lines.values()), healthy=healthy)
        if known
        else "<p class='bad'>No finite value.</p>"
    )
    return (
        f"<div class='card panel'><h3>{title}</h3><p class='note'>{note}</p>{chart}"
        f"<ul class='legend'>{''.join(legend)}</ul></div>"
    )


def _key(stroke, label, value):
    number = "" if value is None else f" <b>{compact(value)}</b>"
    return (
        f"<li><svg viewBox='0 0 22 10' aria-hidden='true'><path d='M0 5H22' {stroke}/></svg>"
        f"<span>{html.escape(label)}{number}</span></li>"
    )


def finite_items(floors):
    return {name: float(v) for name, v in floors.items() if v is not None and math.isfinite(v)}


def compact(value):
    """Four significant digits, thousands separated, no exponent for everyday numbers."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"
