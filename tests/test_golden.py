"""Reference activations and trajectories; ``python -m tests.golden PATH.npz`` prints the errors."""

import functools
import json
import pathlib

import jax
import numpy as np
import pytest

from dinov3_jax.data.check import check_config
from dinov3_jax.models import build
from dinov3_jax.train.state import init_state
from dinov3_jax.train.step import train_step
from tests import golden
from tests.test_configs import abstract_batch

OURS = pathlib.Path(__file__).parent / "goldens"
SHARED = pathlib.Path(__file__).parents[2] / "shared" / "golden"


@pytest.mark.parametrize(
    "name", ["vit_mlp", "vit_swiglu_registers", "convnext", "pretrain", "gram", "distill"]
)
def test_replay(name, capsys):
    folder = OURS if (OURS / f"{name}.npz").exists() else SHARED
    path = folder / f"{name}.npz"
    if not path.exists():
        pytest.skip(f"no {name}.npz beside this repository (../shared/golden)")
    result = golden.replay(path)
    assert result.pop("ok"), capsys.readouterr().out
    # Every kind of number was compared.
    forward = name.startswith(("vit", "convnext"))
    trajectory = (
        golden.LIMITS.keys() - {"outputs"} - (set() if name == "gram" else {"gram_teacher"})
    )
    assert result.keys() - {"file"} == ({"outputs"} if forward else trajectory)


def test_limits_are_tight():
    """The agreement that the references promise in float32, parameters apart."""
    assert golden.LIMITS["outputs"] <= 1e-5
    assert golden.LIMITS["losses"] <= 2e-5
    assert golden.LIMITS["gradients"] <= 1e-4


def test_an_unknown_constructor_argument_is_an_error():
    with pytest.raises(ValueError, match="not understood: \\['swirl'\\]"):
        golden.forward_config({"embed_dim": 48, "swirl": 1})


def reference_section(name):
    path = SHARED / f"{name}.json"
    if not path.exists():
        pytest.skip(f"no {name}.json beside this repository (../shared/golden)")
    return json.loads(path.read_text())


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({"ema_teacher": True, "ckpt": None}, {"teacher": "ema", "refresh_every": None}),
        ({"it_load_ema_teacher": 2, "ckpt": None}, {"teacher": "ema_at_step", "load_step": 2}),
        ({"rep_update": False}, {"refresh_every": None}),
        ({"max_updates": 1}, {"refresh_every": 2, "refresh_first": 3, "refresh_count": 1}),
        ({"img_level": False, "tokens_used": "masked"}, {"level": "group", "tokens": "masked"}),
        ({"remove_neg": True}, {"negatives": "remove"}),
        ({"remove_only_teacher_neg": True}, {"negatives": "clip_teacher"}),
        ({"normalized": False, "compute_stats": True}, {"normalize": False, "stats": True}),
        (
            {"global_teacher_resize_method": "bilinear", "global_teacher_resize_antialias": True},
            {"resize": "bilinear", "antialias": True},
        ),
    ],
)
def test_every_gram_key_is_understood(given, wanted):
    """And such a step traces."""
    spec = reference_section("gram")
    spec["config"]["gram"] |= given
    if "ema" in wanted.get("teacher", ""):
        spec["config"]["crops"]["gram_teacher_crops_size"] = None
    config = golden.trajectory_config(spec)
    assert {key: getattr(config.gram, key) for key in wanted} == wanted
    check_config(config)
    networks = build.networks(config)
    state = jax.eval_shape(lambda: init_state(config, jax.random.key(0)))
    step = functools.partial(train_step, config=config, networks=networks)
    _, metrics = jax.eval_shape(
        step, state, abstract_batch(config, config.crops), jax.random.key(0)
    )
    assert ("stats/gram_masked" in metrics) == given.get("compute_stats", False)


def test_a_gram_weight_schedule_is_understood():
    spec = reference_section("gram")
    schedule = {"start": 0, "peak": 0, "end": 2, "warmup_epochs": 1, "cosine_epochs": 2}
    spec["config"]["gram"]["loss_weight_schedule"] = schedule
    weight = golden.trajectory_config(spec).gram.weight
    assert (weight.end, weight.warmup, weight.cosine) == (2.0, 2, 4)  # an epoch has 2 steps


def test_each_process_is_a_group():
    """Two processes: rows of one batch, each with the indices it had alone."""
    spec = reference_section("pretrain") | {"world_size": 2, "per_device_batch": 3}
    rng = np.random.default_rng(0)

    def rank():
        masks = np.zeros((6, 16), bool)
        masks[1, [2, 5]] = masks[4, [0, 7]] = True
        return {
            "collated_global_crops": rng.standard_normal((6, 3, 16, 16)),
            "collated_local_crops": rng.standard_normal((12, 3, 8, 8)),
            "collated_masks": masks,
            "mask_indices_list": masks.reshape(-1).nonzero()[0],
            "masks_weight": np.full(4, 0.5, np.float32),
        }

    ranks = [rank(), rank()]
    for layout in ("step0/rank{}/", "step0/rank{}/batch/"):
        arrays = {
            layout.format(r) + name: x for r, part in enumerate(ranks) for name, x in part.items()
        }
        batch = golden.step_batch(arrays, 0, spec)
        assert batch.global_crops.shape == (6, 2, 16, 16, 3)
        assert batch.mask_indices.shape == (2, 4)
        for r, part in enumerate(ranks):
            alone = golden.reference_batch(part, 3)
            group = slice(3 * r, 3 * r + 3)
            np.testing.assert_array_equal(batch.global_crops[group], alone.global_crops)
            np.testing.assert_array_equal(batch.mask_indices[r], alone.mask_indices[0])
            # Crop-major row 1 is the second image's first crop: [b, G, N] = (1, 0).
            np.testing.assert_array_equal(np.flatnonzero(batch.masks[group][1, 0]), [2, 5])
    config = golden.trajectory_config(spec)
    assert (config.batch.images, config.batch.group) == (6, 3)
