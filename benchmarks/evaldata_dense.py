"""Small real data for the dense probes, in the layouts for one's own data.

Segmentation: mosaics of four labelled photographs, so that the class of every pixel is known
exactly. Depth: the stereo pair of scikit-image (Middlebury 2014, "Motorcycle"), whose disparities
were measured; the left half trains, the right half tests.
"""

import csv
from pathlib import Path

import numpy as np
from PIL import Image

from dinov3_jax.data.decode import decode

# Of dinov3 eval, sized for these data and a few minutes on two CPU cores; 112 pixels are whole
# patches of 8, 14 and 16. The batches of crops are kept: the backbone sees each once.
SEGMENTATION = (
    "size=112", "stride=75", "scale=(1.0,2.0)", "steps=200", "warmup=20", "cached=12",
)  # fmt: skip
DEPTH = (
    "train_crop=(224,224)", "lr=(3e-3,)", "steps=200", "warmup=60", "cached=8", "batch=8",
)  # fmt: skip

SIDE = 224  # pixels of a mosaic
TRAIN, VAL = 200, 40  # mosaics
CLASSES = ("Apple", "Juice", "Melon", "Milk", "Pepper", "Tomato")
_SEAM = 1  # pixels on each side of a border between photographs that have no class
_FOCAL, _BASELINE, _OFFSET = 994.978, 0.193001, 31.086  # pixels, metres, pixels


def mosaics(photos: Path, out: Path) -> str:
    """Of photographs in ``photos``/grocery/{train,test}/NAME, whose classes.csv says which names
    are of one class; returns the folder, in ``out``."""
    source, data = photos / "grocery", out / "mosaics"
    if not (source / "classes.csv").is_file():
        raise FileNotFoundError(
            f"there is no {source}/classes.csv; give --photos=FOLDER (make evals PHOTOS=FOLDER) "
            "that holds grocery/classes.csv and grocery/{train,val,test}/CLASS/*.jpg"
        )
    with open(source / "classes.csv", encoding="utf-8", newline="") as file:
        coarse = {row["class"]: row["coarse_class"] for row in csv.DictReader(file)}
    for split, photographs, count in (("train", "train", TRAIN), ("val", "test", VAL)):
        rng = np.random.default_rng(0)
        files = [
            sorted(f for f in (source / photographs).glob("*/*.jpg") if coarse[f.parent.name] == c)
            for c in CLASSES
        ]
        for kind in ("images", "masks"):
            (data / kind / split).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            image, mask = _mosaic(files, rng)
            Image.fromarray(image).save(data / "images" / split / f"{i:04d}.jpg", quality=95)
            Image.fromarray(mask).save(data / "masks" / split / f"{i:04d}.png")
    (data / "classes.txt").write_text("\n".join(CLASSES) + "\n")
    return str(data)


def _mosaic(files, rng):
    """Four photographs, the centre of each, around a point that is drawn."""
    image = np.empty((SIDE, SIDE, 3), np.uint8)
    mask = np.empty((SIDE, SIDE), np.uint8)
    y, x = rng.integers(SIDE * 3 // 8, SIDE * 5 // 8, 2)
    for rows in (slice(0, y), slice(y, SIDE)):
        for columns in (slice(0, x), slice(x, SIDE)):
            label = int(rng.integers(len(files)))
            photo = decode(files[label][rng.integers(len(files[label]))].read_bytes())
            image[rows, columns] = _cover(
                photo, rows.stop - rows.start, columns.stop - columns.start
            )
            mask[rows, columns] = label
    mask[y - _SEAM : y + _SEAM] = mask[:, x - _SEAM : x + _SEAM] = 255
    return image, mask


def _cover(photo, height, width):
    factor = max(height / photo.shape[0], width / photo.shape[1])
    h, w = (max(a, round(factor * b)) for a, b in zip((height, width), photo.shape))
    drawn = np.asarray(Image.fromarray(photo).resize((w, h), Image.Resampling.BILINEAR))
    top, left = (h - height) // 2, (w - width) // 2
    return drawn[top : top + height, left : left + width]


def stereo(photos: Path, out: Path) -> str:
    """The left image of the pair and metres = focal · baseline / (disparity + offset), stored in
    millimetres, 0 where the disparity was not measured; returns their folder, in ``out``."""
    del photos
    from skimage.data import stereo_motorcycle

    data = out / "motorcycle"
    image, _, disparity = stereo_motorcycle()
    metres = _FOCAL * _BASELINE / (disparity + _OFFSET)
    depth = np.where(np.isfinite(disparity), np.round(1000 * metres), 0).astype(np.uint16)
    middle = image.shape[1] // 2
    for split, columns in (("train", slice(0, middle)), ("test", slice(middle, None))):
        for kind, pixels in (("images", image), ("depth", depth)):
            (data / kind / split).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels[:, columns]).save(data / kind / split / "motorcycle.png")
    return str(data)
