"""The pictures of the report: what patches see, and which images lie close together."""

import dataclasses
import html

import numpy as np

from dinov3_jax.evals import curves, page, pictures, similarity

SHOWN = 8  # images in the gallery, and rows of neighbours
NEIGHBOURS = 6  # neighbours a row

_SCALE = page.scale(pictures.heat(np.linspace(0.0, 1.0, 5)))
# What stands beside a strip: metric -> name and format.
_BESIDE = {
    "health/patch_cosine": ("patch to patch", "{:.3f}"),
    "health/cls_patch_cosine": ("CLS to patch", "{:.3f}"),
    "eval/knn": ("k-NN", "{:.1f} %"),
}


@dataclasses.dataclass(frozen=True)
class Pictures:
    """Images and their teacher features. Labels and classes are None where unknown."""

    images: np.ndarray  # uint8 [n, H, W, 3], RGB
    patch_tokens: np.ndarray  # float [n, h, w, D]
    cls: np.ndarray  # float [n, D]
    bank_images: np.ndarray  # uint8 [m, H, W, 3], RGB; m = 0: no neighbours are shown
    bank_cls: np.ndarray  # float [m, D]
    labels: np.ndarray | None  # int [n]
    bank_labels: np.ndarray | None  # int [m]
    classes: tuple[str, ...] | None  # names; label i is classes[i]


def check(shown: Pictures):
    """Raises ``ValueError`` where a shape or dtype of ``Pictures`` does not fit."""
    n, m = len(shown.images), len(shown.bank_images)
    wanted = {
        "images": (
            shown.images.ndim == 4 and shown.images.shape[-1] == 3,
            "[n, H, W, 3]",
        ),
        "patch_tokens": (
            shown.patch_tokens.ndim == 4 and len(shown.patch_tokens) == n,
            f"[{n}, h, w, D], one for each of images",
        ),
        "cls": (shown.cls.ndim == 2 and len(shown.cls) == n, f"[{n}, D]"),
        "bank_cls": (
            shown.bank_cls.ndim == 2 and len(shown.bank_cls) == m,
            f"[{m}, D]",
        ),
        "bank_images": (
            shown.bank_images.ndim == 4 and shown.bank_images.shape[-1] == 3,
            "[m, H, W, 3]",
        ),
        "labels": (shown.labels is None or len(shown.labels) == n, f"[{n}] or None"),
        "bank_labels": (
            shown.bank_labels is None or len(shown.bank_labels) == m,
            f"[{m}] or None",
        ),
    }
    for name, (fits, shape) in wanted.items():
        if not fits:
            raise ValueError(
                f"pictures.{name} has shape {np.shape(getattr(shown, name))}, wanted {shape}"
            )
    for name in ("images", "bank_images"):
        if getattr(shown, name).dtype != np.uint8:
            raise ValueError(f"pictures.{name} is {getattr(shown, name).dtype}, wanted uint8")


def patches(shown: Pictures) -> str:
    """Image, principal components and a similarity map of the first images, as HTML."""
    if not len(shown.images):
        return ""
    if not np.isfinite(shown.patch_tokens).all():
        return "<h2>What patches see</h2><p class='bad'>The patch features are not finite.</p>"
    colours = pictures.pca_rgb(shown.patch_tokens)
    rows, columns = shown.patch_tokens.shape[1:3]
    centre = (rows // 2, columns // 2)
    point = ((centre[1] + 0.5) / columns, (centre[0] + 0.5) / rows)
    cards = []
    for i in range(min(SHOWN, len(shown.images))):
        image, tokens, colour = shown.images[i], shown.patch_tokens[i], colours[i]
        cosine = pictures.similarity(tokens, centre)
        heat = pictures.heat(cosine)
        cards.append(
            "<div class='card trio'>"
            f"<figure>{page.picture(image, alt='image', point=point)}"
            "<figcaption>image</figcaption></figure>"
            f"<figure>{page.picture(colour, alt='principal components of patch features')}"
            "<figcaption>patch features</figcaption></figure>"
            f"<figure>{page.picture(heat, alt='cosine to the marked patch', point=point)}"
            f"<figcaption>cosine, from {cosine.min():.2f}</figcaption></figure></div>"
        )
    return (
        "<section><h2>What patches see</h2><p class='lead'>Middle: the three main directions of "
        "all patch features as red, green and blue, the same in every image: equal colour, equal "
        "feature. Right: cosine of every patch with the one under the ring, on a fixed scale, 0 "
        f"{_SCALE} 1. Good features make objects and parts stand out with clean edges.</p>"
        f"<div class='grid pair'>{''.join(cards)}</div></section>"
    )


def over_time(strips: dict[int, np.ndarray], metrics: list[dict]) -> str:
    """Similarity strips by step (``similarity.strip``) with their numbers, as HTML."""
    if not strips:
        return ""
    values = {name: curves.series(metrics, name) for name in _BESIDE}
    known = {name: dict(zip(c.steps.tolist(), c.values.tolist())) for name, c in values.items()}
    rows, drawn = [], None
    for step, strip in sorted(strips.items()):
        images, maps = similarity.split(strip)
        if drawn is None or not np.array_equal(images, drawn):  # again where they changed
            rows.append(_strip("<p>reference patches</p>", images, "images"))
            drawn = images
        numbers = "".join(
            f"<br>{label} {form.format(value) if np.isfinite(value) else 'not finite'}"
            for name, (label, form) in _BESIDE.items()
            if (value := known[name].get(step)) is not None
        )
        rows.append(_strip(f"<p><b>step {step:,}</b>{numbers}</p>", maps, f"maps at step {step}"))
    return (
        "<section><h2>Dense features over time</h2><p class='lead'>The cosine of every patch with "
        "the ringed one, for the same images, patches and colours at every evaluation: 0 "
        f"{_SCALE} 1. Sharp, object-shaped maps are good; when maps grow flat and bright "
        "everywhere while k-NN still rises, local structure is being lost, and Gram anchoring is "
        "the cure (docs/dense.md).</p>"
        f"<div class='card time'>{''.join(rows)}</div></section>"
    )


def _strip(text, picture, alt):
    return text + page.picture(picture, alt=alt, largest=max(picture.shape))


def neighbours(shown: Pictures) -> str:
    """Rows of query and nearest bank images, as HTML; empty where the bank is."""
    if not len(shown.images) or not len(shown.bank_images):
        return ""
    if not (np.isfinite(shown.cls).all() and np.isfinite(shown.bank_cls).all()):
        return "<h2>Nearest images</h2><p class='bad'>The image features are not finite.</p>"
    order = pictures.nearest(shown.cls[:SHOWN], shown.bank_cls, len(shown.bank_cls))
    rows = []
    for i, candidates in enumerate(order):
        # A query that is itself in the bank would be its own first neighbour.
        found = [j for j in candidates[: 4 * NEIGHBOURS] if not _same(shown, i, j)][:NEIGHBOURS]
        own = None if shown.labels is None else int(shown.labels[i])
        caption = f"<b>query</b>{'' if own is None else ' ' + _class(shown, own)}"
        cells = [_thumbnail(shown.images[i], "query", caption)]
        for j in found:
            cosine = f"{_cosine(shown.cls[i], shown.bank_cls[j]):.2f}"
            if shown.bank_labels is None:
                cells.append(_thumbnail(shown.bank_images[j], "neighbour", cosine))
                continue
            label = int(shown.bank_labels[j])
            mark = "" if own is None else ("✓ " if label == own else "✗ ")
            tone = "" if own is None else ("good" if label == own else "bad")
            caption = f"<span class='{tone}'>{mark}{_class(shown, label)}</span> {cosine}"
            cells.append(_thumbnail(shown.bank_images[j], "neighbour", caption))
        rows.append(f"<div class='row'>{''.join(cells)}</div>")
    return (
        "<section><h2>Nearest images</h2><p class='lead'>Left, an image the model is asked about; "
        "then the images whose CLS features have the highest cosine with it, best first. They "
        "should share what matters in your data.</p>"
        f"<div class='card'>{''.join(rows)}</div></section>"
    )


def _thumbnail(image, alt, caption):
    shown = page.picture(image, alt=alt, largest=128)
    return f"<figure>{shown}<figcaption>{caption}</figcaption></figure>"


def _class(shown, label):
    classes = shown.classes or ()
    return html.escape(str(classes[label]) if 0 <= label < len(classes) else f"class {label}")


def _same(shown, i, j):
    return np.array_equal(shown.images[i], shown.bank_images[j])


def _cosine(a, b):
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return float(a @ b / max(np.linalg.norm(a) * np.linalg.norm(b), 1e-12))
