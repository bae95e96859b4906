"""Tiny copies of the layouts of correspondence benchmarks."""

import json

import numpy as np
from PIL import Image

from tests.data.benchmarks.retrieval_layouts import write
from tests.features.models import images

UPRIGHT = [1.0, 0.0, 0.0, 0.0]


def navi(root, *, translations=((0, 0, 500),) * 2, q=UPRIGHT, name="000", size=(24, 32)):
    """One object: the same noise before the same plane, by cameras at ``translations`` in mm.

    The plane fills a square of 16 pixels in the middle, half a metre away.
    """
    scene = root / "mug/wild_set"
    (scene / "images").mkdir(parents=True)
    (scene / "depth").mkdir()
    disparity = np.zeros(size, np.uint16)
    disparity[4:20, 8:24] = round(655350 / 500)
    entries = []
    for i, translation in enumerate(translations):
        Image.fromarray(images(1, *size)[0]).save(scene / f"images/{i:03d}.png")
        Image.fromarray(disparity).save(scene / f"depth/{i:03d}.png")
        camera = {"q": q if i else UPRIGHT, "t": translation, "focal_length": 40.0}
        entries.append(
            {"filename": f"{i:03d}.png", "camera": camera, "image_size": list(size)}
        )  # fmt: skip
    (scene / "annotations.json").write_text(json.dumps(entries))
    return root


def spair(root, **changes):
    """Two pairs of one cat each and one of dogs: equal images, so equal keypoints."""
    for category, count in (("cat", 2), ("dog", 1)):
        for i in range(count):
            for side in "ab":
                write(root / f"JPEGImages/{category}/{i}{side}.png", seed=i, height=24, width=32)
            entry = {
                "category": category,
                "src_imname": f"{i}a.png",
                "trg_imname": f"{i}b.png",
                "src_kps": [[10, 10], [25, 17]],
                "trg_kps": [[10, 10], [25, 17]],
                "trg_bndbox": [0, 0, 32, 24],
            }
            folder = root / "PairAnnotation/test"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{category}{i}.json").write_text(json.dumps(entry | changes))
    return root


def matches(root, *, points=((4, 4, 4, 4), (20, 12, 20, 12))):
    """One pair of equal images, ``points`` of (xa, ya, xb, yb)."""
    for side in "ab":
        write(root / f"{side}.png", seed=0, height=16, width=32)
    lines = [f"a.png,b.png,{','.join(map(str, point))}" for point in points]
    file = root / "points.csv"
    file.write_text("\n".join(["image_a,image_b,xa,ya,xb,yb", *lines]) + "\n")
    return file
