"""The evaluations of ``eval.suite``, asked of the teacher while it trains."""

import logging

import jax
from jax.sharding import Mesh

from dinov3_jax.config import ConfigError, TrainConfig
from dinov3_jax.data.sources import SourceError
from dinov3_jax.evals import results
from dinov3_jax.evals.settings import check_names, find, parse
from dinov3_jax.models import presets
from dinov3_jax.models.model import Model, frozen
from dinov3_jax.types import Params

_log = logging.getLogger(__name__)


def suite_row(config: TrainConfig, teacher: Params, mesh: Mesh, *, first: bool) -> dict[str, float]:
    """``eval/NAME/METRIC`` of every evaluation, as ``dinov3 eval`` measures it of this teacher:
    in float32. Of several processes all call, and all get the same row.

    ``first``: of the run; then data that cannot be read is an error. Later it has been read before,
    and training must not end with it: a warning, and the row lacks that evaluation. Of several
    processes one that went on alone would wait for the others, so that it stays an error.
    """
    crops = config.crops
    backbone = frozen(presets.complete(config.student), dtype="float32")
    model = Model(config.name, backbone, teacher["backbone"], crops.mean, crops.std)
    row = {}
    # What evaluations compute beside features is the business of each process alone, as it is in
    # ``dinov3 eval``; under the mesh of the run it would be one of all.
    with jax.set_mesh(None):
        for name, data, assignments in config.eval.suite:
            try:
                result = find(name).evaluate(model, parse(name, data, assignments), mesh)
            except (SourceError, OSError) as error:
                if first or jax.process_count() > 1:
                    raise
                _log.warning("evaluation %s is left out this time: %s", name, error)
                continue
            results.check(name, result)
            row |= {f"eval/{name}/{metric}": value for metric, value in result.metrics.items()}
    return row


def check_suite(config: TrainConfig) -> None:
    """``ConfigError`` for an evaluation, a setting or a value that does not exist, for one name
    twice, and on several processes for an evaluation that is trained on one."""
    check_names([name for name, _, _ in config.eval.suite], "eval.suite")
    for name, data, assignments in config.eval.suite:
        parse(name, data, assignments)
        if find(name).alone and jax.process_count() > 1:
            raise ConfigError(
                f"{name} of eval.suite trains on one process, here are {jax.process_count()}; "
                "leave it out and run dinov3 eval on a checkpoint"
            )
