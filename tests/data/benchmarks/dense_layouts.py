"""Tiny data sets for segmentation and depth in every layout, and what is stored in them."""

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 24, 32


def pixels(seed, height=HEIGHT, width=WIDTH):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def numbers(seed, largest, height=HEIGHT, width=WIDTH):
    """Labels 0 .. largest, in blocks of 8 pixels."""
    blocks = np.random.default_rng(seed).integers(0, largest + 1, (height // 8, width // 8))
    return np.kron(blocks, np.ones((8, 8))).astype(np.uint8)


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, array)
    else:
        Image.fromarray(array).save(path, compress_level=0)  # of PNG: noise takes long to pack


def ade20k(root, counts=(3, 2)):
    """Masks store 0 (other) to 150; returns the labels of the two splits."""
    made = []
    for split, count in zip(("training", "validation"), counts):
        masks = [numbers(i, 150) for i in range(count)]
        masks[0][:8, :8] = 0
        for i, mask in enumerate(masks):
            save(root / "images" / split / f"ADE_{i:08d}.jpg", pixels(i))
            save(root / "annotations" / split / f"ADE_{i:08d}.png", mask)
        made.append([np.where(mask == 0, 255, mask.astype(int) - 1) for mask in masks])
    return made


def cityscapes(root):
    for split, cities in (("train", ("aachen", "bremen")), ("val", ("ulm",))):
        for city in cities:
            name = f"{split}/{city}/{city}_000000_000019"
            save(root / "leftImg8bit" / f"{name}_leftImg8bit.png", pixels(1))
            save(root / "gtFine" / f"{name}_gtFine_labelTrainIds.png", numbers(1, 18))
            save(root / "gtFine" / f"{name}_gtFine_labelIds.png", numbers(2, 33))


def voc12(root):
    """Masks with a palette, as published: the numbers count, not the colours."""
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    for split, names in (("train", ("2007_000032", "2007_000039")), ("val", ("2007_000033",))):
        (lists / f"{split}.txt").write_text("\n".join(names) + "\n")
        for i, name in enumerate(names):
            save(root / "JPEGImages" / f"{name}.jpg", pixels(i))
            mask = Image.fromarray(numbers(i, 20))
            mask.putpalette(np.random.default_rng(0).integers(0, 256, 768, np.uint8).tobytes())
            path = root / "SegmentationClass" / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            mask.save(path)


def own_masks(root, counts=(3, 2), classes=("sky", "sea", "sand")):
    root.mkdir(parents=True, exist_ok=True)
    (root / "classes.txt").write_text("\n".join(classes))
    for split, count in zip(("train", "val"), counts):
        for i in range(count):
            save(root / "images" / split / f"{i}.png", pixels(i))
            save(root / "masks" / split / f"{i}.png", numbers(i, len(classes) - 1))


def metres(seed, height=HEIGHT, width=WIDTH):
    """Float32, 1 to 8 m, whole millimetres."""
    values = np.random.default_rng(seed).integers(1000, 8001, (height, width))
    return (values / 1000).astype(np.float32)


def png16(depth, per_metre):
    return np.round(depth * per_metre).astype(np.uint16)


def nyu(root):
    """Paths of the training list begin with a slash, as published."""
    for split, slash in (("train", "/"), ("test", "")):
        lines = []
        for i in range(2):
            rgb, depth = f"{split}/kitchen/rgb_{i:05d}.jpg", f"{split}/kitchen/depth_{i:05d}.png"
            save(root / rgb, pixels(i, 48, 64))
            save(root / depth, png16(metres(i, 48, 64), 1000))
            lines.append(f"{slash}{rgb} {slash}{depth} 518.8579")
        (root / f"nyu_{split}.txt").write_text("\n".join(lines) + "\n")


def kitti(root, height=375, width=1242):
    """The second line of each list has no depth."""
    for split in ("train", "test"):
        rgb, depth = f"2011_09_26/{split}/0000000000.png", f"{split}/0000000000.png"
        save(root / "input" / rgb, pixels(0, height, width))
        save(root / "gt_depth" / depth, png16(metres(0, height, width), 256))
        lines = f"{rgb} {depth} 721.5377\n2011_09_26/{split}/0000000001.png None 721.5377\n"
        (root / f"kitti_eigen_{split}.txt").write_text(lines)


def own_depth(root, counts=(2, 2), suffix=".png", per_metre=1000):
    for split, count in zip(("train", "test"), counts):
        for i in range(count):
            save(root / "images" / split / f"{i}.png", pixels(i))
            depth = metres(i) if suffix == ".npy" else png16(metres(i), per_metre)
            save(root / "depth" / split / f"{i}{suffix}", depth)
