"""Model FLOPs against published sums, and against the matmuls that jax traces."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from jax.extend.core import jaxprs_in_params

from dinov3_jax.data.resolution import crops_at
from dinov3_jax.models import build, presets
from dinov3_jax.recipe import from_config_dict
from dinov3_jax.train.flops import (
    forward_flops,
    head_flops,
    image_flops,
    recomputed_flops,
    step_flops,
)
from dinov3_jax.train.step import student_outputs
from dinov3_jax.train.targets import teacher_outputs
from tests import regenerate
from tests.tiny import CONVNEXT, tiny_batch, tiny_config, tiny_frozen, tiny_state


@functools.cache
def resolve(name):
    return from_config_dict(regenerate.recipe(name))


def sized(arch):
    """The ViT-L recipe with another backbone and without stochastic depth."""
    config = resolve("vitl16_im1k")
    student = dataclasses.replace(config.student, arch=arch, drop_path=0.0)
    return dataclasses.replace(config, student=student)


# The performance study's sums, made with the same definition but without patch embeddings, which
# are below 1 % of a ViT.
@pytest.mark.parametrize(
    ("config", "tera"),
    [
        pytest.param(resolve("vit7b16_pretrain"), 30.17, id="7b"),
        pytest.param(resolve("vit7b16_gram"), 59.2, id="7b-gram"),
        pytest.param(resolve("vitl16_im1k"), 1.152, id="vitl"),
        pytest.param(sized("vit_large"), 1.538, id="vitl-all-samples"),
        pytest.param(sized("vit_base"), 0.446, id="vitb-all-samples"),
    ],
)
def test_published_sums(config, tera):
    assert image_flops(config).total == pytest.approx(tera * 1e12, rel=0.01)


def test_the_parts_of_the_7b():
    got = image_flops(resolve("vit7b16_gram"))
    heads = got.student_heads + got.teacher_heads
    parts = [got.student, got.student_attention, got.teacher, heads, got.gram_teacher]
    # Two digits are given of attention and heads.
    assert [x / 1e12 for x in parts] == pytest.approx([22.81, 0.19, 7.10, 0.062, 29.0], rel=0.02)


def traced_flops(function, *args) -> float:
    """FLOP of every matmul and convolution in the jaxpr, scan bodies as often as they run."""
    return _count(jax.make_jaxpr(function)(*args).jaxpr)


def _count(jaxpr) -> float:
    total = 0.0
    for equation in jaxpr.eqns:
        # Differentiation leaves calls without results.
        out = math.prod(equation.outvars[0].aval.shape) if equation.outvars else 0
        times = equation.params["length"] if equation.primitive.name == "scan" else 1
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left = equation.invars[0].aval.shape
            total += 2 * out * math.prod(left[i] for i in contracted)
        elif equation.primitive.name == "conv_general_dilated":
            kernel = equation.invars[1].aval.shape
            where = equation.params["dimension_numbers"].rhs_spec[0]  # of the output features
            total += 2 * out * math.prod(kernel) / kernel[where]
        for inner in jaxprs_in_params(equation.params):
            total += times * _count(inner)
    return total


@pytest.mark.parametrize(
    "overrides", [{}, {"student.ffn": "swiglu"}, CONVNEXT], ids=["mlp", "swiglu", "convnext"]
)
def test_a_forward_counts_what_is_traced(overrides):
    config = tiny_config(**overrides)
    side = config.crops.global_size
    params = jax.eval_shape(lambda: build.init_params(config, jax.random.key(0)))
    graph = build.networks(config).backbone
    images = jax.ShapeDtypeStruct((3, side, 2 * side, 3), jnp.float32)
    traced = traced_flops(lambda p, x: nnx.merge(graph, p)(x), params["backbone"], images)
    assert 3 * sum(forward_flops(presets.complete(config.student), side, 2 * side)) == traced


@pytest.mark.parametrize(
    "overrides",
    [{}, {"batch.group": 8, "student.drop_path": 0.4}, {"dino.head.layers": 2}],
    ids=["vit", "drop_path", "shallow_head"],
)
def test_a_student_counts_what_is_traced_forward_and_backward(overrides):
    config = tiny_config(**overrides)
    got = image_flops(config)
    counted = (got.student + got.student_attention + got.student_heads) * config.batch.images
    assert counted == pytest.approx(traced_training(config), rel=1e-12)


def traced_training(config):
    """FLOP of the student's forward and backward pass on one batch."""
    batch, state, networks = tiny_batch(config), tiny_state(config), build.networks(config)
    keys = jax.random.split(jax.random.key(0), len(batch.mask_indices))

    def loss(student):
        # Not the plain sum: a constant gradient of the logits must not be folded away.
        outputs = student_outputs(student, batch, keys, config=config, networks=networks)
        logits = (outputs.global_logits, outputs.local_logits, outputs.patch_logits)
        return sum((z**2).sum() for z in logits)

    return traced_flops(jax.grad(loss), state.student)


@pytest.mark.parametrize(
    "overrides",
    [
        {"student.remat": "full"},
        {"student.remat": "dots"},
        {"student.remat": "attention+proj+fc1", "student.ffn": "swiglu"},
        {"student.remat": "qkv+attention+proj", "student.ffn": "swiglu", "student.remat_blocks": 1},
        {"student.remat": "fc1", "batch.group": 8, "student.drop_path": 0.4},
        CONVNEXT | {"student.remat": "full"},
        CONVNEXT | {"student.remat": "dots"},
    ],
)
def test_what_remat_computes_again_counts_what_is_traced(overrides):
    config = tiny_config(**overrides)
    kept = tiny_config(**overrides | {"student.remat": "none", "student.remat_blocks": 0})
    assert recomputed_flops(kept) == 0
    traced = traced_training(config) - traced_training(kept)
    assert recomputed_flops(config) * config.batch.images == pytest.approx(traced, rel=1e-12)


@pytest.mark.parametrize(
    ("remat", "share"),
    [("qkv+attention+proj+fc1", 0.002), ("attention+proj+fc1", 0.078), ("full", 0.204)],
)
def test_what_the_7b_computes_again(remat, share):
    """Shares of docs/scale.md."""
    config = resolve("vit7b16_pretrain")
    student = dataclasses.replace(config.student, remat=remat, remat_blocks=0)
    again = recomputed_flops(dataclasses.replace(config, student=student))
    # The table has three digits after the point.
    assert again / image_flops(config).total == pytest.approx(share, abs=5e-4)


@pytest.mark.parametrize(
    "overrides",
    [{}, {"distill.backbone.depth": 3, "distill.dino_head.hidden": 40}, CONVNEXT],
    ids=["ema", "frozen", "convnext"],
)
def test_a_teacher_counts_what_is_traced(overrides):
    config = tiny_config(**overrides)
    frozen = tiny_frozen(config)
    networks = build.networks(config) if frozen is None else build.distill_networks(config)
    teacher = tiny_state(config).teacher if frozen is None else frozen
    traced = traced_flops(
        lambda t: teacher_outputs(t, tiny_batch(config), config=config, networks=networks), teacher
    )
    got = image_flops(config)
    counted = (got.teacher + got.teacher_heads) * config.batch.images
    assert counted == pytest.approx(traced, rel=1e-12)


def test_a_mixture_counts_by_its_shares():
    config = resolve("vit7b16_hires")
    entries = config.crops.mixture
    each = [
        image_flops(dataclasses.replace(config, crops=crops_at(config.crops, i))).total
        for i in range(len(entries))
    ]
    assert sum(share for *_, share in entries) == pytest.approx(1)
    wanted = sum(entry[-1] * flops for entry, flops in zip(entries, each))
    assert image_flops(config).total == pytest.approx(wanted)


def test_students_share_their_teacher():
    students = {n: resolve(n) for n in regenerate.recipes("multidistill_s_b_l")}
    each = [image_flops(config) for config in students.values()]
    images = next(iter(students.values())).batch.images
    teacher = each[0].teacher + each[0].teacher_heads
    saved = (len(each) - 1) * teacher * images
    alone = sum(step_flops({n: config}) for n, config in students.items())
    assert step_flops(students) == pytest.approx(alone - saved)


def test_a_head_is_a_chain_of_matmuls():
    head = dataclasses.replace(
        resolve("vitl16_im1k").dino.head, layers=3, hidden=5, bottleneck=3, prototypes=7
    )
    assert head_flops(2, head) == 2 * (2 * 5 + 5 * 5 + 5 * 3 + 3 * 7)
