"""The train benchmark at toy size."""

import jax
import pytest

from benchmarks import train
from dinov3_jax.distributed.mesh import make_mesh
from dinov3_jax.train.flops import step_flops
from tests.tiny import tiny_config


def test_rows_of_a_toy_model_and_its_baseline():
    config = tiny_config(**{"student.depth": 1})
    mesh = make_mesh(config.mesh, jax.devices()[:1])
    rows = train.measure(config, mesh, rounds=2, baseline=True)
    assert [row[0] for row in rows] == ["tiny", "tiny, plain"]
    for row in rows:
        values = dict(zip(train.COLUMNS, row, strict=True))
        assert values["MFU"] == "-"  # a CPU
        # The step is printed to 1 ms, the rates to three digits.
        step = pytest.approx(float(values["step s"]), rel=0.01, abs=6e-4)
        assert config.batch.images / float(values["images/s"]) == step
        assert step_flops({"": config}) / 1e12 / float(values["TFLOP/s"]) == step
        assert float(values["start-up s"]) > float(values["compile s"]) > 0
    assert rows[1][-1] == "1.00"  # against itself


@pytest.mark.parametrize("size", train.SIZES)
def test_recipes_resolve(size):
    config = train.recipe(size, images=2, dtype="float32")
    assert config.batch.images == 2 * jax.device_count()
    assert config.student.arch == train.SIZES[size][0]
