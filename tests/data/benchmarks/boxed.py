"""Images of one coloured rectangle over noise, and its box, in each layout that is read."""

import json

import numpy as np
from PIL import Image

from dinov3_jax.data.benchmarks.boxes import COLUMNS

LAYOUTS = ("own", "voc", "coco")
BOXES = ((8, 0, 24, 16), (16, 16, 40, 24), (0, 8, 8, 24))  # x0, y0, x1, y1
VOC = """<annotation><object><name>dog</name><difficult>1</difficult><bndbox><xmin>{}</xmin>
<ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object></annotation>"""


def rectangles(height=32, width=48):
    """uint8 [3, H, W, 3]: red inside ``BOXES``."""
    noise = np.random.default_rng(0).integers(100, 140, (3, height, width, 3), np.uint8)
    for image, (x0, y0, x1, y1) in zip(noise, BOXES):
        image[y0:y1, x0:x1] = (240, 20, 20)
    return noise


def write_boxes(root, layout):
    """The three images below ``root``; their names end in 0, 1, 2."""
    if layout == "own":
        write_images(root / "images", ["0.png", "1.png", "2.png"])
        lines = [f"{i}.png,{','.join(map(str, box))}" for i, box in enumerate(BOXES)]
        (root / "boxes.csv").write_text("\n".join([",".join(COLUMNS), *lines]) + "\n")
    elif layout == "voc":
        write_images(root / "JPEGImages", ["0.jpg", "1.jpg", "2.jpg"])
        (root / "Annotations").mkdir()
        (root / "ImageSets/Main").mkdir(parents=True)
        for i, (x0, y0, x1, y1) in enumerate(BOXES):
            (root / f"Annotations/{i}.xml").write_text(VOC.format(x0 + 1, y0 + 1, x1, y1))
        (root / "ImageSets/Main/trainval.txt").write_text("0\n1\n2\n")
    else:
        names = [f"COCO_{part}_{i:012d}.jpg" for i, part in enumerate(("train2014",) * 2)]
        names.append(f"COCO_val2014_{2:012d}.jpg")
        (root / "annotations").mkdir(parents=True)
        for part in ("train2014", "val2014"):
            write_images(root / part, [name if part in name else None for name in names])
            content = {"images": [], "annotations": []}
            for i, (x0, y0, x1, y1) in enumerate(BOXES):
                if part not in names[i]:
                    continue
                content["images"].append({"id": 7 * i, "file_name": names[i]})
                entry = {"image_id": 7 * i, "bbox": [x0, y0, x1 - x0, y1 - y0], "iscrowd": 0}
                content["annotations"] += [entry, entry | {"bbox": [0, 0, 48, 32], "iscrowd": 1}]
            (root / f"annotations/instances_{part}.json").write_text(json.dumps(content))
        (root / "coco_20k_filenames.txt").write_text("\n".join(names))
    return root


def write_images(folder, names):
    folder.mkdir(parents=True)
    for name, pixels in zip(names, rectangles()):
        if name is not None:
            Image.fromarray(pixels).save(folder / name, quality=95)
