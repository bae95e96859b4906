"""One optimizer step of several students that learn from one frozen teacher."""

import jax

from dinov3_jax.config import TrainConfig
from dinov3_jax.models import build
from dinov3_jax.models.build import Networks
from dinov3_jax.train.state import TrainState
from dinov3_jax.train.step import student_step
from dinov3_jax.train.targets import Batch, teacher_outputs
from dinov3_jax.types import Params


def multistudent_step(
    states: dict[str, TrainState],
    batch: Batch,
    key: jax.Array,
    frozen: Params,
    *,
    configs: dict[str, TrainConfig],
    networks: dict[str, Networks],
) -> tuple[dict[str, TrainState], dict[str, dict[str, jax.Array]]]:
    """(states, batch, run key, teacher) -> (next states, float32 scalars), by student.

    The teacher runs once; each student then makes the step it would make alone (``train_step``),
    with its own temperature, optimizer and schedules, on the whole mesh. What configurations share
    is in ``train.check.SHARED``. Source: DINOv3 (arXiv 2508.10104, section 5.2).
    """
    any_config = next(iter(configs.values()))
    with jax.named_scope("teacher_targets"):
        theirs = build.distill_networks(any_config)
        outputs = teacher_outputs(frozen, batch, config=any_config, networks=theirs)
    made = {
        name: student_step(
            state, batch, outputs, key, config=configs[name], networks=networks[name]
        )
        for name, state in states.items()
    }
    return {k: state for k, (state, _) in made.items()}, {k: m for k, (_, m) in made.items()}
