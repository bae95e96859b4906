import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dinov3_jax.config import MeshConfig, TrainConfig
from dinov3_jax.distributed.mesh import make_mesh
from dinov3_jax.losses.koleo import koleo_loss
from dinov3_jax.models import build
from dinov3_jax.train import step
from tests import collectives, regenerate
from tests.collectives import RANDOM
from tests.tiny import compile_step, place, tiny_batch, tiny_config, tiny_state

KEY = jax.random.key(7)
STEPS = 3
RUNS = {
    "1": ((1, 1), {}),
    "2": ((1, 2), {}),
    "8": ((1, 8), {}),
    "2x4": ((2, 4), {}),
    "accumulate 2": ((1, 1), {"batch.accumulate": 2}),
    "accumulate 4": ((1, 1), {"batch.accumulate": 4}),
    "softmax": ((1, 1), {"teacher.centering": "softmax"}),
}
START = tiny_state(tiny_config(**RANDOM))


class Run(NamedTuple):
    config: TrainConfig
    states: list  # on the host, after 0, 1, ... steps
    metrics: list  # of each step
    compiled: int  # programs made
    program: str  # the optimised HLO text
    again: Callable  # (state, batch) -> (state, metrics) on the host, by the same program


@functools.cache
def run(name) -> Run:
    """Three steps on different batches; compiled once for all tests of this file."""
    shape, changes = RUNS[name]
    config = tiny_config(**RANDOM, **changes)
    mesh = make_mesh(MeshConfig(*shape, 1), jax.devices()[: shape[0] * shape[1]])
    fn = compile_step(config, mesh)

    def again(state, batch):
        with jax.set_mesh(mesh):
            state, metrics = fn(*place(config, mesh, state, batch), KEY)
        return jax.tree.map(np.asarray, state), {k: float(v) for k, v in metrics.items()}

    with jax.set_mesh(mesh):
        host, metrics = [tiny_state(config)], []
        state, batch = place(config, mesh, host[0], tiny_batch(config))
        program = fn.lower(state, batch, KEY).compile().as_text()
        for i in range(STEPS):
            _, batch = place(config, mesh, host[0], tiny_batch(config, seed=i))
            state, scalars = fn(state, batch, KEY)
            host.append(jax.tree.map(np.asarray, state))
            metrics.append({k: float(v) for k, v in scalars.items()})
    return Run(config, host, metrics, fn._cache_size(), program, again)


def distance(got, wanted, origin):
    """‖got - wanted‖ / ‖wanted - origin‖ over whole trees."""
    square = lambda a, b: sum(  # noqa: E731
        float(np.sum((x.astype(np.float64) - y) ** 2))
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )
    return (square(got, wanted) / square(wanted, origin)) ** 0.5


@pytest.mark.parametrize("name", ["2", "8", "2x4", "accumulate 2", "accumulate 4"])
def test_devices_and_micro_batches_do_not_change_the_numbers(name):
    """Losses, gradients, moments and parameters, stochastic depth and RoPE augmentation on."""
    ours, one = run(name), run("1")
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
        got, wanted, start = (getattr(s, network) for s in (ours.states[-1], one.states[-1], START))
        assert distance(got, wanted, start) < 2e-3, network


def test_the_step_is_random_where_it_should_be():
    """The comparison above would be empty if nothing were drawn."""
    batch = tiny_batch(run("1").config)
    later = dataclasses.replace(START, step=np.int32(1))
    losses = [run("1").again(state, batch)[1]["loss/dino_local"] for state in (START, later)]
    assert abs(losses[0] - losses[1]) > 1e-3


@pytest.mark.parametrize("name", ["1", "8", "accumulate 2"])
def test_several_steps_one_program(name):
    assert run(name).compiled == 1


@pytest.mark.parametrize("name", ["8", "2x4"])
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
    targets_of = jax.jit(functools.partial(
        step.teacher_targets, temperature=0.07, config=config, networks=networks
    ))  # fmt: skip
    centers = jax.tree.map(jnp.zeros_like, ours.states[0].centers)
    assert {k: v.shape for k, v in centers.items()} == {"cls": (32,), "patch": (24,)}
    targets, first = targets_of(START.teacher, centers, tiny_batch(config))
    # rtol of order 1: float32 means in another program.
    for name in first:
        np.testing.assert_allclose(ours.states[1].centers[name], first[name], atol=1e-5)
        assert np.abs(first[name]).max() > 0.01
    later, second = targets_of(START.teacher, first, tiny_batch(config))
    # Another centre c multiplies targets by exp(-c / τ), row by row normalised.
    for name, before, after in (
        ("cls", targets.cls, later.cls),
        ("patch", targets.patch, later.patch),
    ):
        wanted = before * np.exp(-np.asarray(first[name]) / 0.07)
        wanted /= wanted.sum(axis=-1, keepdims=True)
        np.testing.assert_allclose(after, wanted, atol=1e-5)  # float32
        # The mean of the logits is ten times the first centre.
        np.testing.assert_allclose(second[name], 0.9 * first[name] + first[name], atol=1e-5)


def test_softmax_and_sinkhorn_differ():
    assert run("softmax").metrics[0]["loss/ibot"] != pytest.approx(run("1").metrics[0]["loss/ibot"])


def test_teacher_targets_are_assignments_without_gradient():
    config = tiny_config()
    networks, batch = build.networks(config), tiny_batch(config)

    def total(teacher):
        targets, _ = step.teacher_targets(
            teacher, {}, batch, 0.07, config=config, networks=networks
        )
        return sum(jnp.sum(t * jnp.arange(t.shape[-1])) for t in targets), targets

    gradient, targets = jax.jit(jax.grad(total, has_aux=True))(START.teacher)
    assert targets.cls.shape == (16, 2, 32)
    assert targets.patch.shape == (*batch.mask_indices.shape, 24)
    for part in targets:
        np.testing.assert_allclose(part.sum(axis=-1), 1.0, atol=1e-5)  # float32
    jax.tree.map(lambda g: np.testing.assert_array_equal(g, 0.0), gradient)


def outputs_and_targets(*, local=2):
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.standard_normal(shape), jnp.float32)  # noqa: E731
    outputs = step.Outputs(draw(16, 2, 32), draw(16, local, 32), draw(8, 5, 24), draw(16, 2, 16))
    targets = step.Targets(jax.nn.softmax(draw(16, 2, 32)), jax.nn.softmax(draw(8, 5, 24)))
    batch = tiny_batch(tiny_config())._replace(mask_weights=jnp.abs(draw(8, 5)))
    return outputs, targets, batch


@pytest.mark.parametrize("ignore_diagonal", [True, False])
def test_total_is_the_weighted_sum(ignore_diagonal):
    outputs, targets, batch = outputs_and_targets(local=8)
    config = tiny_config(**{
        "dino.ignore_diagonal": ignore_diagonal, "dino.weight": 0.7, "ibot.weight": 0.5,
        "koleo.weight": 0.3, "crops.local_count": 8,
        **{f"dino.local_weight.{key}": 0.25 for key in ("start", "peak", "end")},
    })  # fmt: skip
    total, terms = step.total_loss(outputs, targets, batch, jnp.int32(0), config=config)
    pairs_global, pairs_local = (2 if ignore_diagonal else 4), 16
    share = pairs_local / (pairs_local + pairs_global)
    wanted = (
        0.7 * (share * 0.25 * terms["loss/dino_local"] + (1 - share) * terms["loss/dino_global"])
        + 0.5 * terms["loss/ibot"]
        + 0.3 * 2 * terms["loss/koleo"]
    )
    assert float(total) == pytest.approx(float(wanted), rel=1e-6)  # float32
    assert terms["loss/total"] == total


def test_without_local_crops():
    outputs, targets, batch = outputs_and_targets(local=0)
    total, terms = step.total_loss(
        outputs, targets, batch, jnp.int32(0), config=tiny_config(**{"crops.local_count": 0})
    )
    assert "loss/dino_local" not in terms
    wanted = terms["loss/dino_global"] + terms["loss/ibot"] + 0.2 * terms["loss/koleo"]
    assert float(total) == pytest.approx(float(wanted), rel=1e-6)  # float32


@pytest.mark.parametrize(("group", "size"), [(None, 2), (4, 4), (1, 1)])
def test_koleo_looks_at_each_crop_and_group(group, size):
    cls = outputs_and_targets()[0].global_cls
    config = tiny_config(**{"koleo.group": group})
    groups = step.koleo_groups(cls, config)
    assert groups.shape == (2, 16 // size, size, 16)
    by_hand = [
        koleo_loss(cls[start : start + size, crop])
        for crop in (0, 1)
        for start in range(0, 16, size)
    ]
    wanted = float(sum(by_hand) / len(by_hand))
    assert float(koleo_loss(groups)) == pytest.approx(wanted, rel=1e-5, abs=1e-7)  # float32


def test_masked_patches_are_gathered_within_groups():
    config = tiny_config()
    batch = tiny_batch(config)
    masks = np.asarray(batch.masks)
    tokens = jnp.arange(32 * 16, dtype=jnp.float32).reshape(32, 16, 1)
    got = step.masked_patches(tokens, batch.mask_indices)
    np.testing.assert_array_equal(np.asarray(got).reshape(-1), np.flatnonzero(masks))


def test_split_takes_every_nth_group_and_join_undoes_it():
    batch = {"images": jnp.arange(24).reshape(12, 2), "indices": jnp.arange(6)}
    parts = step.split_groups(batch, groups=6, parts=3)
    np.testing.assert_array_equal(parts["indices"], [[0, 3], [1, 4], [2, 5]])
    np.testing.assert_array_equal(parts["images"][1, :, 0], [4, 6, 16, 18])  # groups 1 and 4
    joined = step.join_groups(parts, groups=6, parts=3)
    jax.tree.map(np.testing.assert_array_equal, joined, batch)


def test_hyperparameters():
    config = tiny_config(**{"optim.freeze_last_layer": 5, "optim.lr_scaling": "linear_256"})
    scalars = step.hyperparameters(jnp.int32(4), config)
    assert float(scalars["lr"]) == pytest.approx(1e-3 * 16 / 256, rel=1e-6)  # float32
    assert scalars["last_layer_lr"] == 0.0
    assert step.hyperparameters(jnp.int32(5), config)["last_layer_lr"] == scalars["lr"]
    assert float(scalars["teacher_complement"]) == pytest.approx(0.1, rel=1e-6)  # float32


def test_student_sees_masks_on_global_crops_only():
    config = tiny_config(**{"student.rope_rescale": None})
    networks, batch = build.networks(config), tiny_batch(config)
    keys = jax.random.split(KEY, 8)
    fn = jax.jit(lambda batch: step.student_outputs(START.student, batch, keys, networks=networks))
    got = fn(batch)
    assert [x.shape for x in got] == [
        (16, 2, 32),
        (16, 2, 32),
        (*batch.mask_indices.shape, 24),
        (16, 2, 16),
    ]
    backbone = nnx.merge(networks.backbone, START.student["backbone"])
    features = backbone.forward(
        [batch.global_crops.reshape(32, 16, 16, 3)], masks=[batch.masks.reshape(32, 16)], keys=keys
    )[0]
    # atol: float32 in another program.
    np.testing.assert_allclose(got.global_cls.reshape(32, 16), features.cls, atol=2e-5)
    unmasked = fn(batch._replace(masks=jnp.zeros_like(batch.masks)))
    np.testing.assert_allclose(got.local_logits, unmasked.local_logits, atol=2e-5)
    assert np.abs(got.global_cls - unmasked.global_cls).max() > 0.01
