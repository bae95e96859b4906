"""Every recipe resolves, is what the golden says, and traces one step of every shape it has."""

import functools
import operator

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractMesh, AxisType

from configs import (
    multidistill_s_b_l,
    vit7b16_gram,
    vit7b16_hires,
    vit7b16_pretrain,
    vitl16_im1k,
)
from dinov3_jax import schedules
from dinov3_jax.cli.flags import parse_recipe
from dinov3_jax.config import CropConfig, TrainConfig
from dinov3_jax.data.check import check_config
from dinov3_jax.data.masking import masked_total
from dinov3_jax.data.resolution import crops_at
from dinov3_jax.distributed.mesh import AXES, mesh_sizes
from dinov3_jax.models import build
from dinov3_jax.recipe import from_config_dict, to_dict
from dinov3_jax.train import gram, state, step
from dinov3_jax.train.check import check_recipe, check_students
from tests import regenerate

# Six digits are printed in the references; float32 holds seven.
PRINTED = 5e-6

MULTI = [file for file in regenerate.FILES if file not in regenerate.RECIPES]


@functools.cache
def resolve(name: str) -> TrainConfig:
    return from_config_dict(regenerate.recipe(name))


def test_there_are_recipes():
    assert "fashion_mnist_tiny" in regenerate.RECIPES
    assert "multidistill_s_b_l" in MULTI


@pytest.mark.parametrize("file", regenerate.FILES)
def test_resolved_recipe_is_the_golden(file):
    """python -m tests.regenerate writes it again and prints what changed."""
    regenerate.check(f"configs/{file}.txt")


def test_no_golden_without_a_recipe():
    goldens = {path.stem for path in (regenerate.FOLDER / "configs").glob("*.txt")}
    assert goldens == set(regenerate.FILES)


def abstract_batch(config: TrainConfig, crops: CropConfig) -> step.Batch:
    """The arrays of a step whose crops have the sizes of ``crops``, without their contents."""
    batch = config.batch
    patches = (crops.global_size // config.student.stride) ** 2
    groups = batch.images // batch.group
    masked = masked_total(
        crops=2 * batch.group,
        patches=patches,
        probability=config.ibot.mask_probability,
        ratio=config.ibot.mask_ratio,
    )
    shape = jax.ShapeDtypeStruct
    pixels = lambda n, side: shape(  # noqa: E731
        (batch.images, n, side, side, config.student.in_channels), jnp.float32
    )
    return step.Batch(
        pixels(2, crops.global_size),
        pixels(crops.local_count, crops.local_size),
        shape((batch.images, 2, patches), bool),
        shape((groups, masked), jnp.int32),
        shape((groups, masked), jnp.float32),
        None if crops.gram_size is None else pixels(2, crops.gram_size),
    )


@functools.cache
def abstract_state(name: str) -> state.TrainState:
    config = resolve(name)
    return jax.eval_shape(lambda: state.init_state(config, jax.random.key(0)))


@functools.cache
def abstract_teacher(config):
    """Parameters of the frozen teacher, None without one."""
    if config.distill is None:
        return None
    return jax.eval_shape(lambda: build.init_distill_params(config, jax.random.key(0)))


SHAPES = [  # one program each
    pytest.param(name, entry, id=name if entry is None else f"{name}-{entry}")
    for name in regenerate.RECIPES
    for entry in range(len(resolve(name).crops.mixture or ())) or (None,)
]


@pytest.mark.parametrize(("name", "entry"), SHAPES)
def test_one_step_traces(name, entry):
    """The whole step on shapes alone: nothing is computed, a 7B fits."""
    config = resolve(name)
    crops = config.crops if entry is None else crops_at(config.crops, entry)
    networks = build.networks(config)
    before = abstract_state(name)
    after, metrics = jax.eval_shape(
        lambda s, b, k, frozen: step.train_step(s, b, k, frozen, config=config, networks=networks),
        before, abstract_batch(config, crops), jax.random.key(0), abstract_teacher(config),
    )  # fmt: skip
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(
        lambda x: (x.shape, x.dtype), before
    )
    assert {x.dtype for x in metrics.values()} == {jnp.dtype("float32")}
    assert {x.shape for x in metrics.values()} == {()}
    assert ("loss/gram" in metrics) == (config.gram is not None)


@pytest.mark.parametrize("name", regenerate.RECIPES)
def test_sizes_agree(name):
    config = resolve(name)
    check_config(config)
    assert config.batch.images % (config.batch.group * config.batch.accumulate) == 0
    assert config.name == name


@pytest.mark.parametrize("file", MULTI)
def test_students_can_share_a_run(file):
    students = {name: resolve(name) for name in regenerate.recipes(file)}
    assert len(students) > 1
    check_students(students)


def test_one_flag_sets_a_shared_key_of_every_student():
    recipe = multidistill_s_b_l.get_config("teacher=T")
    recipe, _ = parse_recipe(["--workdir=W", "--config.data.path=P"], recipe)
    students = recipe.students.values()
    assert {(s.distill.source, s.data.path) for s in students} == {("T", "P")}


@pytest.mark.parametrize(
    ("recipe", "chips"),
    [(vit7b16_pretrain, 256), (vit7b16_gram, 256), (vit7b16_hires, 256), (vitl16_im1k, 8)],
)
def test_layouts_of_tpus_share_each_weight_over_two_axes(recipe, chips):
    """One axis over a whole torus makes synchronous all-reduces of weights."""
    layouts = getattr(recipe, "LAYOUTS", None) or recipe.REMAT
    for chip in layouts.keys() - {"gpu"}:
        config = from_config_dict(recipe.get_config(f"chip={chip}"))
        sizes = mesh_sizes(config.mesh, chips)
        assert min(sizes[1:3]) > 1
        mesh = AbstractMesh(sizes, AXES, axis_types=(AxisType.Auto,) * len(AXES))
        check_recipe(config, mesh, platform="tpu")
    with pytest.raises(ValueError, match="chip is 'v9', wanted one of gpu"):
        recipe.get_config("chip=v9")


def test_layouts_change_no_result():
    """Only where arrays lie and what is kept; micro-batches give the same step."""
    before, after = (to_dict(from_config_dict(vitl16_im1k.get_config(a))) for a in ("", "chip=v5e"))
    for recipe in (before, after):
        del recipe["mesh"], recipe["batch"]["accumulate"]
        del recipe["student"]["remat"], recipe["student"]["remat_blocks"]
    assert before == after


def test_stages_take_their_source_and_a_chip():
    config = vit7b16_gram.get_config("pretrain=gs://a,b/c,chip=v6e")
    assert (config.init["from"], config.gram.source) == ("gs://a,b/c", "gs://a,b/c")
    assert config.mesh.fsdp_minor == 16
    assert vit7b16_hires.get_config("gram=D").gram.source == "D"
    with pytest.raises(ValueError, match="chip is 'v6e', wanted one of gpu, v5p"):
        vit7b16_hires.get_config("gram=D,chip=v6e")


def test_later_stages_keep_the_networks_of_the_7b():
    """Or their checkpoints would not fit each other."""
    shapes = [
        jax.tree.map(lambda x: x.shape, abstract_state(name).student)
        for name in ("vit7b16_pretrain", "vit7b16_gram", "vit7b16_hires")
    ]
    distill = jax.tree.map(lambda x: x.shape, abstract_teacher(resolve("vitl16_distill")))
    assert shapes[0] == shapes[1] == shapes[2] == distill


def schedule_at(config: TrainConfig, key: str, i: int) -> float:
    """The schedule ``key`` at step ``i``; the learning rate as scaled."""
    scaled = key == "optim.lr"
    schedule = step.scaled_lr(config) if scaled else operator.attrgetter(key)(config)
    return float(schedules.value(schedule, i, steps=config.steps))


@pytest.mark.parametrize(
    ("name", "key", "values"),
    [
        # Executed values of the reference's schedules.
        (
            "vit7b16_pretrain",
            "optim.lr",
            {0: 0, 1: 4e-9, 50_000: 2e-4, 99_999: 3.99996e-4, 100_000: 4e-4},
        ),
        (
            "vit7b16_pretrain",
            "teacher.temperature",
            {50_000: 0.055, 99_999: 0.0699997, 100_000: 0.07},
        ),
        ("vit7b16_gram", "optim.lr", {100_000: 2.4e-4, 1_199_999: 2.4e-4}),
        (
            "vit7b16_gram",
            "gram.weight",
            {999_999: 0, 1_000_000: 0, 1_000_500: 1.00157, 1_000_999: 2, 1_199_999: 2},
        ),
        (
            "vit7b16_gram",
            "dino.local_weight",
            {1_000_000: 1, 1_000_500: 0.749607, 1_000_999: 0.5, 1_199_999: 0.5},
        ),
        (
            "vit7b16_hires",
            "optim.lr",
            {0: 0, 5_000: 3.53609e-5, 9_999: 7.0710678e-5, 29_999: 7.0710678e-5},
        ),
        (
            "vitl16_im1k",
            "optim.lr",
            {1: 4.52585e-7, 12_499: 5.65685425e-3, 68_750: 2.82892712e-3, 124_999: 1.0000011e-6},
        ),
        # What the tables say, where no value was executed.
        ("vit7b16_gram", "teacher.momentum", {1_000_000: 0.999}),
        ("vit7b16_gram", "teacher.temperature", {1_000_000: 0.07}),
        ("vit7b16_hires", "gram.weight", {0: 1.5, 29_999: 1.5}),
        ("vit7b16_hires", "dino.local_weight", {0: 0.5}),
        ("vit7b16_hires", "teacher.momentum", {0: 0.999}),
        ("vit7b16_hires", "teacher.temperature", {0: 0.07}),
        ("vitl16_distill", "teacher.momentum", {0: 0.994, 24_999: 1.0}),
        ("vitl16_distill", "teacher.temperature", {0: 0.07}),
        # Steps 1/4 and 4/25 of 625,000 along straight lines.
        ("convnext_base_distill", "optim.weight_decay", {0: 0.02, 156_250: 0.065, 625_000: 0.2}),
        ("convnext_tiny_distill", "optim.weight_decay", {0: 0.04, 156_250: 0.08, 625_000: 0.2}),
        ("convnext_tiny_distill", "teacher.momentum", {0: 0.994, 156_250: 0.9955, 625_000: 1.0}),
        ("convnext_tiny_distill", "teacher.temperature", {0: 0.04, 100_000: 0.06, 150_000: 0.07}),
        ("convnext_small_distill", "optim.lr", {0: 1e-6, 100_000: 1.6e-3, 624_999: 8e-6}),
        ("convnext_large_distill", "optim.lr", {0: 1e-6, 100_000: 8e-4, 624_999: 8e-6}),
    ],
)
def test_schedules(name, key, values):
    config = resolve(name)
    got = {i: schedule_at(config, key, i) for i in values}
    assert got == pytest.approx(values, rel=PRINTED, abs=1e-12)


@pytest.mark.parametrize(
    "name", ["vitl16_distill", *(n for n in regenerate.RECIPES if n.startswith("multidistill"))]
)
def test_distillation_lr(name):
    """The reference's values, but for its count of images: 296 accelerators with 6 each."""
    config = resolve(name)
    ratio = (1920 / 1776) ** 0.5
    got = [schedule_at(config, "optim.lr", i) for i in (0, 6_250, 24_999)]
    assert got == pytest.approx([0, 1.31712e-4 * ratio, 2.63391e-4 * ratio], rel=PRINTED)


def test_gram_teacher_is_refreshed_three_times():
    config = resolve("vit7b16_gram").gram
    assert config.step == 200_000
    refresh = jax.jit(lambda done: gram.refresh_gram_teacher(0, 1, done, config=config))
    done = [*range(10_000, 1_200_001, 10_000), 1_009_999, 1_010_001]
    assert [n for n in done if refresh(n)] == [1_010_000, 1_020_000, 1_030_000]
    constant = resolve("vit7b16_hires").gram
    assert constant.refresh_every is None


def test_high_resolution_reference_counts():
    """Masked tokens of a group of 8 images: those of the reference, for 512 and 768 pixels."""
    config = resolve("vit7b16_hires")
    entries = [crops_at(config.crops, i) for i in range(5)]
    batches = [abstract_batch(config, crops) for crops in entries]
    assert [b.mask_indices.shape for b in batches] == [(256, 2659), *[(256, 5987)] * 4]
    patches = [(c.local_size // config.student.stride) ** 2 for c in entries]
    assert patches == [7**2, 7**2, 10**2, 14**2, 21**2]
