"""Labelled photographs for classification, as they are and in the layout of ImageNet-1k.

Each writer takes (photos, out) and returns the path for ``dinov3 eval --data``.
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

from PIL import Image, ImageFilter, ImageOps

# Groceries that are classes of ImageNet-1k too, and their wnids there.
WNIDS = {
    "Cabbage": "n07714571",
    "Zucchini": "n07716358",
    "Cucumber": "n07718472",
    "Brown-Cap-Mushroom": "n07734744",
    "Granny-Smith": "n07742313",
    "Orange": "n07747607",
    "Lemon": "n07749582",
    "Pineapple": "n07753275",
    "Banana": "n07753592",
    "Pomegranate": "n07768694",
}
_FRAME = 2  # pixels of red around each image of ObjectNet


def class_files(folder: Path, *, each: int | None = None) -> Iterator[tuple[str, list[Path]]]:
    """(class, its files or ``each`` of them, evenly spaced) of folder/CLASS/*.jpg, in order."""
    for place in sorted(path for path in folder.iterdir() if path.is_dir()):
        files = sorted(place.glob("*.jpg"))
        step = max(1, len(files) // (each or len(files) or 1))
        yield place.name, files[::step][:each]


def clothing(photos: Path, out: Path) -> str:
    """Class folders: 3,068 photographs of clothes in train/, 341 in val/, 372 in test/."""
    del out  # it is read where it is
    return str(photos / "clothing")


def few(photos: Path, out: Path) -> str:
    """At most 60 of each class of clothes to train on, 12 to choose by and 20 to test."""
    for split, each in (("train", 60), ("val", 12), ("test", 20)):
        for name, files in class_files(photos / "clothing" / split, each=each):
            (out / split / name).mkdir(parents=True, exist_ok=True)
            for file in files:
                shutil.copy(file, out / split / name / file.name)
    return str(out)


def imagenet(photos: Path, out: Path) -> str:
    """Ten kinds of groceries that ImageNet-1k has too, in its layout, and further test sets.

    train/ and val/ are photographs of the training and the test split, real.json has the labels of
    val/, V2 is photographs of the validation split. Made here are: R, five classes of val/ with
    two bits a colour; Sketch, the edges of val/ in grey; ObjectNet, V2 in a red frame. A and C are
    left out.
    """
    val, labels = [], []
    for label, (name, wnid) in enumerate(WNIDS.items()):
        for i, file in enumerate(_chosen(photos / "grocery/train" / name, 40)):
            _copy(file, out / "train" / wnid / f"{wnid}_{i}.JPEG")
        for file in _chosen(photos / "grocery/test" / name, 20):
            labels.append([label])
            val.append((file, out / "val" / wnid / f"ILSVRC2012_val_{len(labels):08d}.JPEG"))
        for file in sorted((photos / "grocery/val" / name).glob("*.jpg")):
            _copy(file, out / "imagenetv2-matched-frequency-format-val" / str(label) / file.name)
            with Image.open(file) as image:
                framed = ImageOps.expand(image.convert("RGB"), _FRAME, "red")
            _save(framed, out / "objectnet" / name / f"{file.stem}.png")
    for file, place in val:
        _copy(file, place)
        with Image.open(file) as image:
            pixels = image.convert("RGB")
        edges = ImageOps.invert(pixels.convert("L").filter(ImageFilter.FIND_EDGES))
        _save(edges.convert("RGB"), out / "sketch" / place.parent.name / f"{place.stem}.png")
        if place.parent.name in list(WNIDS.values())[::2]:
            posters = ImageOps.posterize(pixels, 2)
            _save(posters, out / "imagenet-r" / place.parent.name / f"{place.stem}.png")
    (out / "real.json").write_text(json.dumps(labels))
    (out / "objectnet.json").write_text(json.dumps({name: [x] for name, x in WNIDS.items()}))
    return str(out)


def _chosen(folder, most):
    files = sorted(folder.glob("*.jpg"))
    return files[:: max(1, len(files) // most)][:most]


def _copy(file, place):
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(file, place)


def _save(image, place):
    place.parent.mkdir(parents=True, exist_ok=True)
    image.save(place)
