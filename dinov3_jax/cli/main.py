"""``dinov3 VERB ...``, also ``python -m dinov3_jax VERB ...``."""

import importlib
import sys

from dinov3_jax.checkpoint import CheckpointError
from dinov3_jax.cli import logs
from dinov3_jax.config import ConfigError
from dinov3_jax.convert.official import WeightsError
from dinov3_jax.data.sources import SourceError
from dinov3_jax.distributed.rollcall import HostsError
from dinov3_jax.export.signature import ExportError
from dinov3_jax.train.guard import TrainingError

VERBS = {
    "train": "a recipe: dinov3 train --config=configs/photos_small.py --workdir=DIR",
    "pretrain": "a folder of images, everything else chosen: dinov3 pretrain --data=FOLDER "
    "--workdir=DIR",
    "plan": "memory, time and cost on chips that are not here: dinov3 plan --config=FILE.py "
    "--topology=v5p:8x8x4",
    "convert": "weights from one format to another: dinov3 convert SRC DST --to=hf",
    "features": "features of images into a folder: dinov3 features --model=NAME --images=FOLDER "
    "--out=DIR",
    "eval": "scores of a model: dinov3 eval --model=NAME --eval=knn,logistic --data=FOLDER "
    "--out=DIR; --list",
    "view": "pictures of what a model sees: dinov3 view pca IMAGE ... --model=NAME --out=DIR",
    "compare": "k-NN and dense quality of finished runs: dinov3 compare DIR DIR ...",
    "shards": "images as ArrayRecord shards: dinov3 shards pack --data=FOLDER --out=DIR; inspect, "
    "verify",
    "curate": "from a raw pool to the images worth training on: dinov3 curate --pool=SHARDS "
    "--model=NAME --recipe=configs/curation/tiny.py --out=DIR",
    "export": "a model for other programs: dinov3 export --model=NAME --to=onnx --out=FILE",
}
_USAGE = "usage: dinov3 VERB [options]; dinov3 VERB --help explains one\n\n" + "\n".join(
    f"  {verb:10} {text}" for verb, text in VERBS.items()
)


def main() -> None:
    """Runs the verb in argv; errors that a user can mend end in one sentence and exit code 2."""
    if len(sys.argv) < 2 or sys.argv[1] not in VERBS:
        asked_for_help = sys.argv[1:2] in (["--help"], ["-h"], ["help"])
        print(_USAGE, file=sys.stdout if asked_for_help else sys.stderr)
        sys.exit(0 if asked_for_help else 2)
    logs.set_up()
    module = importlib.import_module(f"dinov3_jax.cli.{sys.argv[1]}")
    try:
        module.run(sys.argv[2:])
    except (
        ConfigError,
        SourceError,
        CheckpointError,
        HostsError,
        TrainingError,
        WeightsError,
        ExportError,
    ) as error:
        print(f"dinov3 {sys.argv[1]}: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        print(
            f"dinov3 {sys.argv[1]}: {error}. If the disk is full, free space; if access is denied, "
            "change the permissions; then run the same command, it resumes",
            file=sys.stderr,
        )
        sys.exit(2)
