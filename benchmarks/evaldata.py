"""Small real data for every evaluation: lays it out in a folder and prints flags of dinov3 eval.

``make evals`` runs ``dinov3 eval`` with them. PHOTOS holds clothing/{train,val,test}/CLASS/*.jpg.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple


class Chosen(NamedTuple):
    data: Callable[[Path, Path], str]  # (photos, out) -> the path that --data takes
    settings: tuple[str, ...]  # key=value


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    try:
        print(" ".join(flags(options.photos.absolute(), options.out.absolute())))
    except FileNotFoundError as error:
        sys.exit(f"evaldata: {error}")


def flags(photos: Path, out: Path) -> list[str]:
    """Of ``dinov3 eval``, for all evaluations of ``DATA``; their data lies in ``out`` then."""
    out.mkdir(parents=True, exist_ok=True)
    made = [f"--eval={','.join(DATA)}"]
    for name, chosen in DATA.items():
        made.append(f"--data={name}={chosen.data(photos, out)}")
        made += [f"--set={name}.{setting}" for setting in chosen.settings]
    return made


def clothing(photos: Path, out: Path) -> str:
    """Class folders: 3,068 photographs of clothes in train/, 341 in val/, 372 in test/."""
    del out  # it is read where it is
    if not (photos / "clothing" / "train").is_dir():
        raise FileNotFoundError(
            f"there is no {photos}/clothing/train; give --photos=FOLDER (make evals PHOTOS=FOLDER) "
            "that holds clothing/{train,val,test}/CLASS/*.jpg"
        )
    return str(photos / "clothing")


# 112 pixels are whole patches of 8, 14 and 16.
_SIZES = ("resize=128", "crop=112")
DATA = {
    "knn": Chosen(clothing, _SIZES),
    "logistic": Chosen(clothing, _SIZES),
}

if __name__ == "__main__":
    main()
