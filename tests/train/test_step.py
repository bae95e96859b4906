import collections
import dataclasses
import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dinov3_jax.config import MeshConfig, TrainConfig
from dinov3_jax.distributed.mesh import make_mesh
from dinov3_jax.models import build
from dinov3_jax.train import step
from tests import collectives, regenerate
from tests.collectives import RANDOM
from tests.tiny import (
    compile_step,
    place,
    place_frozen,
    tiny_batch,
    tiny_config,
    tiny_frozen,
    tiny_state,
)

KEY = jax.random.key(7)
STEPS = 3
# Everything that could depend on the device: a load, a refresh, both resizings, selected patches.
GRAM = {
    "gram.teacher": "ema_at_step",
    "gram.load_step": 1,
    "gram.refresh_every": 2,
    "gram.level": "group",
    "gram.tokens": "unmasked",
    "gram.stats": True,
    "crops.gram_size": 24,
}
DISTILL = {
    "distill.backbone.embed_dim": 32,
    "distill.dino_head.hidden": 32,
    "distill.resolution_scale": 2.0,
}
RUNS = {
    "1": ((1, 1, 1), {}),
    "2": ((1, 2, 1), {}),
    "8": ((1, 8, 1), {}),
    "2x4": ((2, 4, 1), {}),
    "2x2x2": ((2, 2, 2), {}),
    "accumulate 2": ((1, 1, 1), {"batch.accumulate": 2}),
    "accumulate 4": ((1, 1, 1), {"batch.accumulate": 4}),
    "softmax": ((1, 1, 1), {"teacher.centering": "softmax", "optim.freeze_backbone": 2}),
    "gram 1": ((1, 1, 1), GRAM),
    "gram 2": ((1, 2, 1), GRAM),
    "gram 8": ((1, 8, 1), GRAM),
    "gram accumulate 4": ((1, 1, 1), {**GRAM, "batch.accumulate": 4}),
    "distill 1": ((1, 1, 1), DISTILL),
    "distill 2": ((1, 2, 1), DISTILL),
    "distill 8": ((1, 8, 1), DISTILL),
    "distill accumulate 4": ((1, 1, 1), {**DISTILL, "batch.accumulate": 4}),
}
ONES = ("gram 1", "distill 1", "1")
START = tiny_state(tiny_config(**RANDOM))


class Run(NamedTuple):
    config: TrainConfig
    states: list  # on the host, after 0, 1, ... steps
    metrics: list  # of each step
    program: str  # the optimised HLO text
    again: Callable  # (state, batch) -> (state, metrics) on the host, by the same program


@functools.cache
def run(name) -> Run:
    """Three steps on different batches; compiled once for all tests of this file.

    The executable takes the states that it makes: other shapes or shardings would be refused.
    """
    shape, changes = RUNS[name]
    config = tiny_config(**RANDOM, **changes)
    mesh = make_mesh(MeshConfig(*shape, 1), jax.devices()[: math.prod(shape)])
    frozen = place_frozen(mesh, tiny_frozen(config))
    host, metrics = [tiny_state(config)], []
    with jax.set_mesh(mesh):
        state, batch = place(config, mesh, host[0], tiny_batch(config))
        fn = compile_step(config, mesh).lower(state, batch, KEY, frozen).compile()
        for i in range(STEPS):
            _, batch = place(config, mesh, host[0], tiny_batch(config, seed=i))
            state, scalars = fn(state, batch, KEY, frozen)
            host.append(jax.tree.map(np.asarray, state))
            metrics.append({k: float(v) for k, v in scalars.items()})

    def again(state, batch):
        with jax.set_mesh(mesh):
            state, metrics = fn(*place(config, mesh, state, batch), KEY, frozen)
        return jax.tree.map(np.asarray, state), {k: float(v) for k, v in metrics.items()}

    return Run(config, host, metrics, fn.as_text(), again)


def distance(got, wanted, origin):
    """‖got - wanted‖ / ‖wanted - origin‖ over whole trees."""
    square = lambda a, b: sum(  # noqa: E731
        float(np.sum((x.astype(np.float64) - y) ** 2))
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )
    return (square(got, wanted) / square(wanted, origin)) ** 0.5


@pytest.mark.parametrize("name", [name for name in RUNS if name not in (*ONES, "softmax")])
def test_devices_and_micro_batches_do_not_change_the_numbers(name):
    """Losses, gradients, moments and parameters, stochastic depth and RoPE augmentation on."""
    ours = run(name)
    one = run(next(one for one in ONES if name.startswith(one[:-1])))
    for got, wanted in zip(ours.metrics, one.metrics):
        assert got.keys() == wanted.keys()
        for metric in wanted:
            # Float32 sums in another order, through a forward pass (losses) and a backward pass.
            rel = 1e-4 if metric.startswith("grad_norm") else 2e-5
            assert got[metric] == pytest.approx(wanted[metric], rel=rel), metric
    zeros = jax.tree.map(np.zeros_like, START.student)
    # After one step the first moment is 0.1 times the clipped gradient.
    gradients = [r.states[1].opt_state.mu for r in (ours, one)]
    assert distance(*gradients, zeros) < 1e-4
    assert distance(ours.states[-1].opt_state.nu, one.states[-1].opt_state.nu, zeros) < 2e-4
    # Adam divides by the root of the second moment: where a gradient is near 0, rounding decides
    # its sign. The whole update keeps three digits.
    for network in ("student", "teacher"):
        got, wanted = (getattr(r.states[-1], network) for r in (ours, one))
        assert distance(got, wanted, getattr(START, network)) < 2e-3, network
    if ours.config.gram is not None:
        gram_teachers = [r.states[-1].gram_teacher for r in (ours, one)]
        assert distance(*gram_teachers, START.teacher["backbone"]) < 2e-3


def test_the_step_is_random_where_it_should_be():
    """The comparison above would be empty if nothing were drawn."""
    batch = tiny_batch(run("1").config)
    later = dataclasses.replace(START, step=np.int32(1))
    losses = [run("1").again(state, batch)[1]["loss/dino_local"] for state in (START, later)]
    assert abs(losses[0] - losses[1]) > 1e-3


@pytest.mark.parametrize("name", ["8", "2x4", "gram 8", "distill 8"])
def test_no_sample_leaves_its_device(name):
    """Stochastic depth, masks and crops gather within groups: nothing is sent for them."""
    found = collectives.find(run(name).program)
    assert {kind for kind, _ in found} <= {"all-gather", "all-reduce", "reduce-scatter"}
    for kind, operation in found:
        # "/gather" and "/scatter": primitives of that name in our code, not the collectives.
        for word in ("/gather", "/scatter", "/sort", "/dynamic_slice", "permut", "select"):
            assert word not in operation, (kind, operation)


def test_one_device_says_nothing():
    assert collectives.find(run("1").program) == []


def test_collectives():
    """Golden, for one version of the compiler; others may combine differently."""
    golden = (regenerate.FOLDER / "collectives.txt").read_text()
    if f"jax {jax.__version__};" not in golden:
        pytest.skip(f"the golden is not of jax {jax.__version__}")
    regenerate.compare("collectives.txt", collectives.summary(run("8").program))


def test_gram_and_distillation_send_nothing_but_weights():
    """A Gram teacher's are gathered once more; a frozen teacher's instead of the EMA teacher's."""
    plain, gram, distill = (
        collections.Counter(kind for kind, _ in collectives.find(run(name).program))
        for name in ("8", "gram 8", "distill 8")
    )
    assert distill == plain
    # Four matrices of a block, in the scan, and the patch embedding.
    assert gram == plain + collections.Counter({"all-gather": 5})
    new = [kind for kind, name in collectives.find(run("gram 8").program) if "gram_targets" in name]
    assert new == ["all-gather"] * 5


def test_metrics_are_complete():
    assert run("1").metrics[0].keys() == {
        "loss/total", "loss/dino_global", "loss/dino_local", "loss/ibot", "loss/koleo",
        "grad_norm/backbone", "grad_norm/dino_head", "grad_norm/ibot_head",
        "lr", "last_layer_lr", "weight_decay", "teacher_momentum", "teacher_temperature",
    }  # fmt: skip


def test_step_and_moments_count_up():
    for number, state in enumerate(run("1").states):
        assert state.step == number
        assert state.opt_state.count == number


def test_frozen_prototypes_do_not_move_but_their_moments_do():
    states = run("1").states
    for head in ("dino_head", "ibot_head"):
        kernel = lambda tree: tree[head]["prototypes"]["kernel"]  # noqa: E731, B023
        np.testing.assert_array_equal(kernel(states[2].student), kernel(START.student))
        assert (kernel(states[3].student) != kernel(START.student)).mean() > 0.9
        assert np.abs(kernel(states[1].opt_state.mu)).max() > 0
        assert (
            states[1].student[head]["fc1"]["kernel"] != START.student[head]["fc1"]["kernel"]
        ).any()
    assert [m["last_layer_lr"] > 0 for m in run("1").metrics] == [False, False, True]


def test_the_teacher_is_the_moving_average_of_the_new_student():
    before, after = run("1").states[:2]
    wanted = jax.tree.map(lambda t, s: 0.9 * t + 0.1 * s, before.teacher, after.student)
    # atol: float32, a fused multiply-add.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), after.teacher, wanted)


@pytest.mark.parametrize("where", ["global_crops", "local_crops"])
def test_a_nan_pixel_changes_nothing_but_the_step(where):
    config, call = run("1").config, run("1").again
    before = run("1").states[2]  # moments are not zero
    batch = tiny_batch(config)
    images = getattr(batch, where).at[3, 1, 2, 2, 0].set(jnp.nan)
    after, metrics = call(before, batch._replace(**{where: images}))
    assert np.isnan(metrics["loss/total"])
    assert after.step == before.step + 1
    for part in ("student", "teacher", "opt_state", "centers"):
        jax.tree.map(np.testing.assert_array_equal, getattr(after, part), getattr(before, part))
    recovered, metrics = call(after, batch)
    assert np.isfinite(metrics["loss/total"])
    assert distance(recovered.student, before.student, START.student) > 0


def test_softmax_centering_uses_the_centre_of_the_step_before():
    ours = run("softmax")
    config, networks = ours.config, build.networks(ours.config)
    batch = tiny_batch(config)
    outputs = jax.jit(functools.partial(step.teacher_outputs, config=config, networks=networks))(
        START.teacher, batch
    )
    centers = jax.tree.map(jnp.zeros_like, ours.states[0].centers)
    assert {k: v.shape for k, v in centers.items()} == {"cls": (32,), "patch": (24,)}
    *targets, first = step.assign(outputs, centers, 0.07, config=config)
    for name in first:
        # Float32 means in another program.
        np.testing.assert_allclose(ours.states[1].centers[name], first[name], atol=1e-5)
        assert np.abs(first[name]).max() > 0.01
    *later, second = step.assign(outputs, first, 0.07, config=config)
    # Another centre c multiplies targets by exp(-c / τ), row by row normalised.
    for name, before, after in zip(("cls", "patch"), targets, later):
        wanted = before * np.exp(-np.asarray(first[name]) / 0.07)
        wanted /= wanted.sum(axis=-1, keepdims=True)
        np.testing.assert_allclose(after, wanted, atol=1e-5)  # float32
        # The mean of the logits is ten times the first centre.
        np.testing.assert_allclose(second[name], 0.9 * first[name] + first[name], atol=1e-5)


def test_a_frozen_backbone_waits_for_its_heads():
    """For two steps; its moments advance meanwhile."""
    states = run("softmax").states

    def moved(state, *path):
        now, start = state.student, START.student
        for key in path:
            now, start = now[key], start[key]
        return jax.tree.leaves(jax.tree.map(lambda a, b: bool((a != b).any()), now, start))

    for state in states[1:3]:
        assert not any(moved(state, "backbone"))
        assert all(moved(state, "dino_head", "fc1") + moved(state, "ibot_head", "fc1"))
        assert all(np.abs(mu).max() > 0 for mu in jax.tree.leaves(state.opt_state.mu["backbone"]))
    assert all(moved(states[3], "backbone"))


def test_softmax_and_sinkhorn_differ():
    assert run("softmax").metrics[0]["loss/ibot"] != pytest.approx(run("1").metrics[0]["loss/ibot"])


def test_hyperparameters():
    config = tiny_config(**{
        "optim.freeze_last_layer": 5, "optim.freeze_backbone": 7, "optim.lr_scaling": "linear_256",
    })  # fmt: skip
    scalars = step.hyperparameters(jnp.int32(4), config)
    assert float(scalars["lr"]) == pytest.approx(1e-3 * 16 / 256, rel=1e-6)  # float32
    assert scalars["last_layer_lr"] == 0.0
    held = [float(step.hyperparameters(jnp.int32(i), config)["backbone_lr"]) for i in (0, 6, 7)]
    assert held == [0.0, 0.0, float(scalars["lr"])]
    assert step.hyperparameters(jnp.int32(5), config)["last_layer_lr"] == scalars["lr"]
    assert float(scalars["teacher_complement"]) == pytest.approx(0.1, rel=1e-6)  # float32


def test_student_sees_masks_on_global_crops_only():
    config = tiny_config(**{"student.rope_rescale": None})
    distilled = tiny_config(**{"student.rope_rescale": None, **DISTILL})
    networks, batch = build.networks(config), tiny_batch(config)
    keys = jax.random.split(KEY, 8)
    fn = jax.jit(
        functools.partial(step.student_outputs, networks=networks), static_argnames="config"
    )
    got = fn(START.student, batch, keys, config=config)
    assert [x.shape for x in got] == [
        (16, 2, 32),
        (16, 2, 32),
        (*batch.mask_indices.shape, 24),
        (16, 2, 16),
        (16, 2, 16, 16),
    ]
    backbone = nnx.merge(networks.backbone, START.student["backbone"])
    features = backbone.forward(
        [batch.global_crops.reshape(32, 16, 16, 3)], masks=[batch.masks.reshape(32, 16)], keys=keys
    )[0]
    # atol: float32 in another program.
    np.testing.assert_allclose(got.global_cls.reshape(32, 16), features.cls, atol=2e-5)
    got_tokens = got.patch_tokens.reshape(32, 16, 16)
    np.testing.assert_allclose(got_tokens, features.patch_tokens, atol=2e-5)
    unmasked = fn(
        START.student, batch._replace(masks=jnp.zeros_like(batch.masks)), keys, config=config
    )
    np.testing.assert_allclose(got.local_logits, unmasked.local_logits, atol=2e-5)
    assert np.abs(got.global_cls - unmasked.global_cls).max() > 0.01
    got = fn(START.student, batch, keys, config=distilled)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), got, unmasked)
