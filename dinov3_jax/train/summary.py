"""The report at the end of a run."""

import logging

import jax
from etils import epath

from dinov3_jax.config import TrainConfig
from dinov3_jax.evals.gallery import Pictures
from dinov3_jax.evals.health import diagnose
from dinov3_jax.evals.report import write_report
from dinov3_jax.evals.similarity import read_strips
from dinov3_jax.recipe import to_dict
from dinov3_jax.train import evaluate
from dinov3_jax.train.metrics import read_metrics
from dinov3_jax.types import Params

_log = logging.getLogger(__name__)
_SHOWN = 8  # images
_BANK = 2000  # images among which their neighbours are looked for


def report(
    workdir: epath.Path,
    config: TrainConfig,
    data: evaluate.EvalData,
    forward: evaluate.Forward,
    teacher: Params,
) -> None:
    """Writes ``workdir/report.html`` from metrics.jsonl, similarity/ and the teacher's features.

    All processes make the features, the first one writes.
    """
    pictures = _pictures(config, data, forward, teacher)
    if jax.process_index() == 0:
        _write(workdir, config, data, pictures)


def _write(workdir, config, data, pictures):
    rows = read_metrics(workdir)
    newest = {key: value for row in rows for key, value in row.items()}
    findings = diagnose(
        newest,
        prototypes=config.dino.head.prototypes,
        ibot_prototypes=config.ibot.head.prototypes,
        masked_share=config.ibot.mask_probability,
        warmup=config.optim.lr.warmup,
    )
    for finding in findings:
        _log.warning("%s", finding)
    floors = {}
    knn = [row["eval/knn"] for row in rows if "eval/knn" in row]
    if knn and data.knn is not None:
        floors = {
            "random backbone": knn[0],
            "raw pixels": evaluate.pixel_floor(data.knn, neighbours=config.eval.neighbours),
        }
    evaluated = [row["step"] for row in rows if "health/patch_cosine" in row]
    path = workdir / "report.html"
    write_report(
        path,
        metrics=rows,
        config=to_dict(config),
        pictures=pictures,
        strips=read_strips(workdir, evaluated),
        floors=floors,
        findings=findings,
    )
    _log.info("report: %s", path)


def _pictures(config, data, forward, teacher) -> Pictures:
    """The first images of the queries (or of the data), neighbours from the bank (or the rest)."""
    if data.knn is not None:
        images, bank = data.knn.queries.images, data.knn.bank.images[:_BANK]
    else:
        images, bank = data.health, data.health[_SHOWN:]
    shown = forward.dense(teacher, images[:_SHOWN])
    side = config.crops.global_size // config.student.stride
    return Pictures(
        images=images[:_SHOWN],
        patch_tokens=shown.patch_tokens.reshape(-1, side, side, shown.patch_tokens.shape[-1]),
        cls=shown.cls,
        bank_images=bank,
        bank_cls=forward.cls(teacher, bank),
        labels=data.knn.queries.labels[:_SHOWN] if data.knn else None,
        bank_labels=data.knn.bank.labels[:_BANK] if data.knn else None,
        classes=data.knn.classes if data.knn else None,
    )
