"""Small real data for every evaluation: lays it out in a folder and prints flags of dinov3 eval.

``make evals`` runs ``dinov3 eval`` with them. PHOTOS holds clothing/ and grocery/, each with
{train,val,test}/CLASS/*.jpg, and grocery/classes.csv with the columns class and coarse_class.
"""

import argparse
import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from benchmarks import (
    evaldata_classes as classes,
    evaldata_mosaics as mosaics,
    evaldata_objects as objects,
    evaldata_retrieval as retrieval,
    evaldata_stereo as stereo,
    evaldata_video as video,
)


class Chosen(NamedTuple):
    # (photos, out) -> the path that --data takes; what it writes lies in ``out``, its alone.
    data: Callable[[Path, Path], str]
    settings: tuple[str, ...]  # key=value, where {data} is that path


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    try:
        print(" ".join(flags(options.photos.absolute(), options.out.absolute())))
    except (FileNotFoundError, ModuleNotFoundError) as error:
        sys.exit(f"evaldata: {error}")


def flags(photos: Path, out: Path) -> list[str]:
    """Of ``dinov3 eval``, for all evaluations of ``DATA``; their data lies in ``out``/NAME then.

    What is written depends on the photographs alone, so that a second call changes nothing.
    """
    for wanted in ("clothing/train", "grocery/classes.csv"):
        if not (photos / wanted).exists():
            raise FileNotFoundError(
                f"there is no {photos / wanted}; give --photos=FOLDER (make evals PHOTOS=FOLDER) "
                "that holds clothing/ and grocery/ with {train,val,test}/CLASS/*.jpg, and "
                "grocery/classes.csv"
            )
    made = [f"--eval={','.join(DATA)}"]
    for name, chosen in DATA.items():
        data = chosen.data(photos, out / name)
        made.append(f"--data={name}={data}")
        made += [f"--set={name}.{setting.format(data=data)}" for setting in chosen.settings]
    return made


# Sizes are whole patches of 8, 14 and 16 pixels, small for two CPU cores.
_SIZES = ("resize=128", "crop=112")
_FROZEN = (*_SIZES, "augment=False", "batch=256")
DATA = {
    "knn": Chosen(classes.clothing, _SIZES),
    "logistic": Chosen(classes.few, (*_SIZES, "C=(0.01,0.1,1.0,10.0)", "tol=1e-6")),
    "linear": Chosen(classes.few, (*_FROZEN, "steps=500")),
    "imagenet": Chosen(classes.imagenet, (*_FROZEN, "steps=500")),
    "attentive": Chosen(
        video.shots,
        (
            "frames=4",
            "crop=112",
            "width=192",
            "blocks=1",
            "heads=3",
            "augment=False",
            "lrs=(5e-4,2e-3)",
            "weight_decays=(1e-2,)",
            "epochs=20",
            "batch=16",
        ),
    ),
    "finetune": Chosen(classes.few, (*_SIZES, "epochs=3", "batch=64")),
    "voc07": Chosen(mosaics.voc07, ("resize=112", "crop=112", "C=(0.01,0.1,1.0,10.0)", "tol=1e-6")),
    "oxford": Chosen(retrieval.oxford, ("size=112",)),
    "met": Chosen(retrieval.met, ("longest=112",)),
    "amstertime": Chosen(retrieval.amstertime, _SIZES),
    "copydays": Chosen(
        retrieval.copydays,
        ("size=112", "whitening={data}/others", "distractors={data}/distractors"),
    ),
    "retrieval": Chosen(retrieval.class_folders, ("size=112",)),
    "navi": Chosen(stereo.navi, ("size=336", "every=1", "grid=48")),
    # 2.5 % of 741 pixels: with the usual 10 % a point that stays where it is would count as found.
    "spair": Chosen(stereo.spair, ("size=784", "alpha=0.025", "batch=1")),
    "matches": Chosen(stereo.matches, ("longest=448", "alpha=0.025")),
    # The batches of crops are kept: the backbone sees each once.
    "segmentation": Chosen(
        mosaics.segmentation,
        ("size=112", "stride=75", "scale=(1.0,2.0)", "steps=200", "warmup=20", "cached=12"),
    ),
    "depth": Chosen(
        stereo.depth,
        ("train_crop=(224,224)", "lr=(3e-3,)", "steps=200", "warmup=60", "cached=8", "batch=8"),
    ),
    "davis": Chosen(objects.clips, ("short_side=224", "radius=6")),
    "tokencut": Chosen(objects.boxes, ()),
    "attention": Chosen(objects.masks, ("size=224",)),
    "foreground": Chosen(
        functools.partial(objects.masks, count=9),  # every C is fitted for each fold
        ("height=224", "folds=3"),
    ),
}

if __name__ == "__main__":
    main()
