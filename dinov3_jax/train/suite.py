"""The evaluations of ``eval.suite``, asked of the teacher while it trains."""

import jax
from jax.sharding import Mesh

from dinov3_jax.config import TrainConfig
from dinov3_jax.evals import results
from dinov3_jax.evals.settings import check_names, find, parse
from dinov3_jax.models import presets
from dinov3_jax.models.model import Model, frozen
from dinov3_jax.types import Params


def suite_row(config: TrainConfig, teacher: Params, mesh: Mesh) -> dict[str, float]:
    """``eval/NAME/METRIC`` of every evaluation, as ``dinov3 eval`` measures it of this teacher:
    in float32. Of several processes all call, and all get the same row."""
    crops = config.crops
    backbone = frozen(presets.complete(config.student), dtype="float32")
    model = Model(config.name, backbone, teacher["backbone"], crops.mean, crops.std)
    row = {}
    # What evaluations compute beside features is the business of each process alone, as it is in
    # ``dinov3 eval``; under the mesh of the run it would be one of all.
    with jax.set_mesh(None):
        for name, data, assignments in config.eval.suite:
            result = find(name).evaluate(model, parse(name, data, assignments), mesh)
            results.check(name, result)
            row |= {f"eval/{name}/{metric}": value for metric, value in result.metrics.items()}
    return row


def check_suite(config: TrainConfig) -> None:
    """``ConfigError`` for an evaluation, a setting or a value that does not exist, and for one name
    twice."""
    check_names([name for name, _, _ in config.eval.suite], "eval.suite")
    for name, data, assignments in config.eval.suite:
        parse(name, data, assignments)
