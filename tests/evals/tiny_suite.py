"""``eval.suite`` of all evaluations on tiny data, for models whose patches are 4 pixels."""

import pathlib

from dinov3_jax.evals.suite import EVALUATIONS
from tests.data.benchmarks import correspondence_layouts, dense_layouts, retrieval_layouts
from tests.data.benchmarks.boxed import write_boxes
from tests.data.benchmarks.folders import write_class_folders
from tests.data.benchmarks.masked import write_masked
from tests.data.benchmarks.masked_clips import write_clips
from tests.data.benchmarks.voc07 import write_voc07

SETTINGS = {
    "knn": ("resize=8", "crop=8", "neighbours=2,5"),
    "logistic": ("resize=8", "crop=8", "C=1.0,", "tol=1e-6"),
    "voc07": ("resize=8", "crop=8", "C=1.0,", "max_iter=20", "tol=1e-3"),
    "oxford": ("size=16",),
    "met": ("longest=16", "dims=2"),
    "amstertime": ("resize=20", "crop=16"),
    "copydays": ("size=16", "whitening={data}/others", "distractors={data}/others"),
    "retrieval": ("size=16",),
    "navi": ("size=16", "grid=16", "every=1", "matches=50"),
    "spair": ("size=32",),
    "matches": (),
    "segmentation": ("steps=6", "warmup=1", "batch=8", "size=16", "stride=11", "lr=1e-2,"),
    "depth": ("steps=6", "warmup=1", "batch=8", "bins=16", "train_crop=14,22", "lr=1e-2,"),
    "davis": ("short_side=32", "context=2", "radius=3", "top_k=2", "temperature=0.02"),
    "tokencut": ("taus=0.3,0.6",),
    "attention": ("size=32",),
    "foreground": ("height=32", "Cs=0.1,1.0"),
}
assert [*SETTINGS] == [name for name, evaluation in EVALUATIONS.items() if not evaluation.alone]


def tiny_suite(root: pathlib.Path) -> tuple[tuple[str, str, tuple[str, ...]], ...]:
    """Writes all data below ``root``; one entry for each evaluation that may run on several
    processes."""
    suite = []
    for name, settings in SETTINGS.items():
        data = str(_write(name, root / name))
        suite.append((name, data, tuple(text.format(data=data) for text in settings)))
    return tuple(suite)


def _write(name, root):
    root.mkdir(parents=True)
    if name in ("segmentation", "depth"):
        {"segmentation": dense_layouts.own_masks, "depth": dense_layouts.own_depth}[name](root)
        return root
    write = {
        "knn": write_class_folders,
        "logistic": write_class_folders,
        "voc07": write_voc07,
        "oxford": retrieval_layouts.revisited,
        "met": retrieval_layouts.met,
        "amstertime": retrieval_layouts.amstertime,
        "copydays": retrieval_layouts.copydays,
        "retrieval": retrieval_layouts.classes,
        "navi": correspondence_layouts.navi,
        "spair": correspondence_layouts.spair,
        "matches": correspondence_layouts.matches,
        "davis": lambda root: write_clips(root, "own"),
        "tokencut": lambda root: write_boxes(root, "own"),
        "attention": lambda root: write_masked(root, "own"),
        "foreground": lambda root: write_masked(root, "own"),
    }[name]
    return write(root)
