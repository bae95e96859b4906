"""Tiny copies of the layouts of retrieval benchmarks: noise images, a few pixels a side."""

import json
import pickle

import numpy as np
from PIL import Image

from tests.features.models import images


def write(path, seed, height=20, width=28):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(images(1, height, width, seed=seed)[0]).save(path, quality=95)


def revisited(root, *, protocol=4, **changes):
    """Queries q0, q1 show what database images d0 and d1 show, to the pixel; d2, d3 are others."""
    for i in range(4):
        write(root / f"jpg/d{i}.jpg", seed=i)
        if i < 2:
            write(root / f"jpg/q{i}.jpg", seed=i)
    whole = np.array([0.0, 0.0, 28.0, 20.0])
    truth = [
        {"bbx": whole, "easy": np.array([0]), "hard": np.array([], int), "junk": [2]},
        {"bbx": whole, "easy": [], "hard": np.array([1]), "junk": []},
    ]
    lists = {"imlist": [f"d{i}" for i in range(4)], "qimlist": ["q0", "q1"], "gnd": truth}
    (root / "gnd_roxford5k.pkl").write_bytes(pickle.dumps(lists | changes, protocol=protocol))
    return root


def met(root, *, folder="ground_truth"):
    """Exhibits 3 and 7 of two images each; val and test show both, and a distractor each."""
    for i in range(4):
        write(root / f"images/MET/{i}.jpg", seed=i, height=20 + 8 * (i % 2))
    for split in ("val", "test"):
        for i in range(2):
            write(root / f"images/{split}/{i}.jpg", seed=2 * i)
        write(root / f"images/{split}/2.jpg", seed=9)
    lists = root / folder
    lists.mkdir(exist_ok=True)
    database = [{"path": f"MET/{i}.jpg", "id": (3, 3, 7, 7)[i]} for i in range(4)]
    (lists / "MET_database.json").write_text(json.dumps(database))
    for split in ("val", "test"):
        queries = [{"path": f"{split}/{i}.jpg", "MET_id": (3, 7)[i]} for i in range(2)]
        queries.append({"path": f"{split}/2.jpg"})
        (lists / f"{split}set.json").write_text(json.dumps(queries))
    return root


def amstertime(root):
    """Three places, where old and new are equal to the pixel."""
    for i in range(3):
        write(root / f"old/{i:04d}.png", seed=i)
        write(root / f"new/{i:04d}.png", seed=i)
    return root


def copydays(root):
    """Two photographs, three copies of them, and four other images in others/."""
    for i in range(2):
        write(root / f"original/20{i}000.png", seed=i)
    for i, number in enumerate((0, 0, 1)):
        write(root / f"strong/20{number}0{i + 1:02d}.png", seed=number)
    for i in range(4):
        write(root / f"others/{i}.png", seed=10 + i)
    return root


def classes(root):
    """Classes a and b in both folders, and the query of a class that the database lacks."""
    for i, name in enumerate("ab"):
        write(root / f"queries/{name}/0.png", seed=i)
        write(root / f"database/{name}/0.png", seed=i)
        write(root / f"database/{name}/1.png", seed=i)
    write(root / "queries/c/0.png", seed=5)
    return root


def pairs(root):
    """Two queries, one of them with two positives."""
    for i in range(3):
        write(root / f"database/{i}.png", seed=i % 2)
    for i in range(2):
        write(root / f"queries/{i}.png", seed=i)
    (root / "pairs.csv").write_text("query,positive\n0.png,0.png\n1.png,1.png\n0.png,2.png\n")
    return root
