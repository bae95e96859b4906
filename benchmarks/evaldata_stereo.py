"""The stereo pair of a motorcycle, with true disparity, in the layouts of dense benchmarks.

The pair comes with scikit-image (Scharstein et al., GCPR 2014). Each writer takes (photos, out),
the photographs unused, and returns the path for ``dinov3 eval --data``.
"""

import csv
import json
from pathlib import Path

import numpy as np
from PIL import Image

FOCAL, BASELINE = 994.978, 193.001  # pixels, mm; of the images as scikit-image has them
SCALE = 0.25  # of the scene in navi/, whose depth PNGs grow too coarse beyond a metre
CENTRE, SHIFT = (311.193, 254.877), 31.086  # principal point of the left; the right's is further


def pair() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Left and right image, uint8 [h, w, 3], and disparity of the left [h, w], inf unknown."""
    try:
        from skimage.data import stereo_motorcycle
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "the stereo pair comes with scikit-image; pip install -e .[evals]"
        ) from error
    return stereo_motorcycle()


def visible(disparity: np.ndarray) -> np.ndarray:
    """Which pixels of the left image the right camera sees, bool [h, w].

    ``disparity`` [h, w]: pixel x of the left is at x - d in the right, in the same row. Hidden is a
    pixel that a nearer one, of larger disparity, covers there to within a pixel.
    """
    h, w = disparity.shape
    place = np.where(np.isfinite(disparity), np.arange(w) - disparity, -1.0)
    inside = (place >= 0) & (place <= w - 1)
    column = np.clip(np.round(place).astype(int), 0, w - 1)
    nearest = np.zeros((h, w))
    rows = np.broadcast_to(np.arange(h)[:, None], (h, w))
    np.maximum.at(nearest, (rows[inside], column[inside]), disparity[inside])
    return inside & (np.where(inside, disparity, 0) >= nearest[rows, column] - 1)


def matches(photos: Path, out: Path, *, points: int = 400, seed: int = 0) -> str:
    """``points.csv`` of random visible pixels, and the two images."""
    del photos
    left, right, disparity = pair()
    out.mkdir(parents=True, exist_ok=True)
    Image.fromarray(left).save(out / "left.png")
    Image.fromarray(right).save(out / "right.png")
    with (out / "points.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image_a", "image_b", "xa", "ya", "xb", "yb"])
        for x, y, d in _points(disparity, points, seed):
            writer.writerow(["left.png", "right.png", x + 0.5, y + 0.5, x + 0.5 - d, y + 0.5])
    return str(out / "points.csv")


def spair(photos: Path, out: Path, *, points: int = 200, seed: int = 0) -> str:
    """One pair; the box is the whole image."""
    del photos
    left, right, disparity = pair()
    (out / "JPEGImages/motorbike").mkdir(parents=True, exist_ok=True)
    (out / "PairAnnotation/test").mkdir(parents=True, exist_ok=True)
    for name, image in (("left", left), ("right", right)):
        Image.fromarray(image).save(out / f"JPEGImages/motorbike/{name}.jpg", quality=95)
    chosen = _points(disparity, points, seed)
    entry = {
        "category": "motorbike",
        "src_imname": "left.jpg",
        "trg_imname": "right.jpg",
        "src_kps": [[x, y] for x, y, _ in chosen],
        "trg_kps": [[x - d, y] for x, y, d in chosen],
        "trg_bndbox": [0, 0, right.shape[1], right.shape[0]],
    }
    (out / "PairAnnotation/test/0.json").write_text(json.dumps(entry))
    return str(out)


def navi(photos: Path, out: Path) -> str:
    """Two views; each image is cut so that the axis of its camera goes through the middle.

    depth = FOCAL BASELINE / (disparity + SHIFT) in mm, times SCALE, as for a model of that size: of
    the motorcycle, 1 cm there is 4 cm. The right camera's depth is the left's,
    moved to where it sees it; what it sees alone stays unknown.
    """
    del photos
    left, right, disparity = pair()
    scene = out / "motorbike/wild_set"
    for name in ("images", "depth"):
        (scene / name).mkdir(parents=True, exist_ok=True)
    h, w = disparity.shape
    known = np.isfinite(disparity)
    baseline = SCALE * BASELINE
    depth = np.where(known, FOCAL * baseline / (np.where(known, disparity, 0) + SHIFT), np.inf)
    moved = np.full((h, w), np.inf)
    y, x = np.nonzero(visible(disparity))
    np.minimum.at(moved, (y, np.round(x - disparity[y, x]).astype(int)), depth[y, x])
    entries = []
    for i, (image, far, offset) in enumerate(((left, depth, 0.0), (right, moved, SHIFT))):
        cx, cy = round(CENTRE[0] + offset), round(CENTRE[1])
        half_x, half_y = min(cx, w - cx), min(cy, h - cy)
        part = np.s_[cy - half_y : cy + half_y, cx - half_x : cx + half_x]
        Image.fromarray(image[part]).save(scene / f"images/{i:03d}.jpg", quality=95)
        stored = np.where(np.isfinite(far), 655350 / far, 0)[part].round().astype(np.uint16)
        Image.fromarray(stored).save(scene / f"depth/{i:03d}.png")
        camera = {"q": [1, 0, 0, 0], "t": [-i * baseline, 0, 0], "focal_length": FOCAL}
        size = list(stored.shape)
        entries.append({"filename": f"{i:03d}.jpg", "camera": camera, "image_size": size})
    (scene / "annotations.json").write_text(json.dumps(entries))
    return str(out)


def depth(photos: Path, out: Path) -> str:
    """The left image, its left half to train and its right half to test, and its metres: FOCAL
    BASELINE / (disparity + SHIFT), stored in millimetres, 0 where the disparity is unknown."""
    del photos
    image, _, disparity = pair()
    known = np.isfinite(disparity)
    far = FOCAL * BASELINE / (np.where(known, disparity, 0) + SHIFT)
    stored = np.where(known, np.round(far), 0).astype(np.uint16)
    middle = image.shape[1] // 2
    for split, columns in (("train", slice(0, middle)), ("test", slice(middle, None))):
        for kind, pixels in (("images", image), ("depth", stored)):
            (out / kind / split).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels[:, columns]).save(out / kind / split / "motorcycle.png")
    return str(out)


def _points(disparity, count, seed) -> list[tuple[int, int, float]]:
    y, x = np.nonzero(visible(disparity))
    chosen = np.random.default_rng(seed).choice(len(x), min(count, len(x)), replace=False)
    return [(int(x[i]), int(y[i]), float(disparity[y[i], x[i]])) for i in chosen]
