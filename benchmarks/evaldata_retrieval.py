"""Small retrieval data sets of real photographs, in the layouts of the published benchmarks.

Each writer takes (photos, out) and returns the path for ``dinov3 eval --data``. The photographs and
their classes are real; what is made here is said at each function.
"""

import csv
import io
import json
import pickle
import shutil
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance

from benchmarks.evaldata_classes import class_files

EACH = 6  # images of a class and split at most: minutes on a laptop, not hours


def class_folders(photos: Path, out: Path) -> str:
    """Class folders of clothing: the test split searches the training split."""
    for split, name in (("test", "queries"), ("train", "database")):
        for folder, files in class_files(photos / "clothing" / split, each=4 * EACH):
            (out / name / folder).mkdir(parents=True, exist_ok=True)
            for file in files:
                shutil.copy(file, out / name / folder / file.name)
    return str(out)


def oxford(photos: Path, out: Path) -> str:
    """Groceries in the layout of Revisited Oxford; a query is not in the database."""
    coarse = _coarse(photos / "grocery" / "classes.csv")
    (out / "jpg").mkdir(parents=True, exist_ok=True)
    database, queries = [], []
    for rows, split, each in ((database, "train", EACH), (queries, "test", 1)):
        for name, files in class_files(photos / "grocery" / split, each=each):
            for file in files:
                rows.append((f"{split}_{name}_{file.stem}", name))
                shutil.copy(file, out / "jpg" / f"{rows[-1][0]}.jpg")
    fine = np.array([name for _, name in database])
    kind = np.array([coarse[name] for name in fine])
    truth = []
    for image, name in queries:
        with Image.open(out / "jpg" / f"{image}.jpg") as opened:
            box = [0.0, 0.0, *map(float, opened.size)]
        same = fine == name
        truth.append(
            {
                "bbx": np.array(box),
                "easy": np.flatnonzero(same),
                "hard": np.flatnonzero((kind == coarse[name]) & ~same),
                "junk": np.array([], int),
            }
        )
    lists = {"imlist": [i for i, _ in database], "qimlist": [i for i, _ in queries], "gnd": truth}
    (out / "gnd_grocery.pkl").write_bytes(pickle.dumps(lists, protocol=2))
    return str(out)


def met(photos: Path, out: Path) -> str:
    """Groceries in the layout of the Met dataset; as many queries again are of clothing."""
    lists = {"MET_database": [], "valset": [], "testset": []}
    numbers = {}
    for target, split, each in (("MET_database", "train", EACH), ("valset", "val", 1),
                                ("testset", "test", 2)):  # fmt: skip
        for name, files in class_files(photos / "grocery" / split, each=each):
            number = numbers.setdefault(name, len(numbers))
            for file in files:
                key = "id" if target == "MET_database" else "MET_id"
                lists[target].append(
                    {"path": _copy(file, out / "images", target, name), key: number}
                )
    for target, split in (("valset", "val"), ("testset", "test")):
        count = len(lists[target])
        others = [file for _, files in class_files(photos / "clothing" / split) for file in files]
        for file in others[:: max(1, len(others) // count)][:count]:
            lists[target].append({"path": _copy(file, out / "images", target, "other")})
    for target, entries in lists.items():
        (out / f"{target}.json").write_text(json.dumps(entries))
    return str(out)


def copydays(photos: Path, out: Path) -> str:
    """60 photographs and two attacked copies of each; others to learn whitening from."""
    rng = np.random.default_rng(0)
    files = [file for _, found in class_files(photos / "clothing" / "test") for file in found]
    others = [
        file for _, found in class_files(photos / "clothing" / "train", each=20) for file in found
    ]
    for folder in ("original", "strong", "others", "distractors"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    for i, file in enumerate(files[:: max(1, len(files) // 60)][:60]):
        shutil.copy(file, out / "original" / f"{2000 + i}00.jpg")
        for copy in (1, 2):
            with Image.open(file) as image:
                made = attack(image.convert("RGB"), rng)
            made.save(out / "strong" / f"{2000 + i}{copy:02d}.jpg", quality=15)
    for i, file in enumerate(others):
        shutil.copy(file, out / ("others" if i % 2 else "distractors") / f"{i:04d}.jpg")
    return str(out)


def amstertime(photos: Path, out: Path) -> str:
    """80 photographs, and each of them as an old one."""
    rng = np.random.default_rng(0)
    files = [file for _, found in class_files(photos / "clothing" / "test") for file in found]
    for name in ("old", "new"):
        (out / name).mkdir(parents=True, exist_ok=True)
    for i, file in enumerate(files[:: max(1, len(files) // 80)][:80]):
        with Image.open(file) as image:
            image.convert("RGB").save(out / "new" / f"{i:04d}.png")
            grey = np.asarray(attack(image.convert("RGB"), rng).convert("L"), np.float64)
        grain = np.clip(grey + rng.normal(0, 12, grey.shape), 0, 255).astype(np.uint8)
        Image.fromarray(grain).save(out / "old" / f"{i:04d}.jpg", quality=60)
    return str(out)


def attack(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Half of the area cut out, turned by up to 20 degrees, of another brightness."""
    width, height = image.size
    w, h = int(width * 0.7), int(height * 0.7)
    left, top = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
    part = image.crop((left, top, left + w, top + h))
    turned = part.rotate(rng.uniform(-20, 20), Image.Resampling.BICUBIC)
    made = ImageEnhance.Brightness(turned).enhance(rng.uniform(0.6, 1.4))
    file = io.BytesIO()
    made.save(file, "JPEG", quality=20)
    return Image.open(file)


def _coarse(file: Path) -> dict[str, str]:
    with file.open(newline="") as lines:
        return {row["class"]: row["coarse_class"] for row in csv.DictReader(lines)}


def _copy(file: Path, root: Path, *parts: str) -> str:
    path = Path(*parts) / file.name
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(file, root / path)
    return str(path)
