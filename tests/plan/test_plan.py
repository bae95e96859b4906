import dataclasses
import json

import pytest

from configs import vit7b16_hires, vit7b16_pretrain, vitl16_im1k
from dinov3_jax.cli import plan as verb
from dinov3_jax.config import ConfigError
from dinov3_jax.data.resolution import crops_at
from dinov3_jax.plan import report
from dinov3_jax.plan.estimate import activation_bytes, capacity
from dinov3_jax.plan.plan import candidates, plan, rank, sweep
from dinov3_jax.plan.topology import parse_topology
from dinov3_jax.recipe import from_config_dict
from dinov3_jax.train.flops import step_flops

pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")


def pretrain(chip):
    return from_config_dict(vit7b16_pretrain.get_config(f"chip={chip}"))


@pytest.fixture(scope="module")
def gpus():
    return plan({"": pretrain("gpu")}, parse_topology("h100:256"), price=2.0)


def test_state_of_the_7b_on_256_gpus(gpus):
    """spec: student, teacher and Adam of 7.03e9 parameters are 112.4 GB, 0.45 GiB a chip."""
    memory = gpus["memory"]
    assert gpus["checkpoint_bytes"] == pytest.approx(112.4e9, rel=1e-3)
    # Biases, norms and tokens lie whole on every chip: a little more than a 256th.
    state = memory["student"] + memory["teacher"] + memory["optimizer"]
    assert 112.4e9 / 256 < state < 1.15 * 112.4e9 / 256
    assert memory["optimizer"] == pytest.approx(2 * memory["student"], abs=100)
    assert memory["source"] == "estimate"
    assert memory["fits"]


def test_time_and_money_are_consistent(gpus):
    time, run = gpus["time"], gpus["whole_run"]
    assert gpus["flops"]["step"] == pytest.approx(4096 * 30.17e12, rel=0.01)
    assert time["floor"] == pytest.approx(0.488, rel=0.01)  # s at 989 TFLOP/s on 256
    assert time["mfu_bound"] == pytest.approx(time["floor"] / time["bound"])
    assert run["chip_hours"] == pytest.approx(time["bound"] * 1e6 * 256 / 3600)
    assert run["money"] == pytest.approx(2 * run["chip_hours"])


def test_too_few_chips_do_not_fit():
    config = pretrain("gpu")
    made = plan({"": config}, parse_topology("h100:2"))
    assert not made["memory"]["fits"]
    assert "DOES NOT FIT" in report.text(made)


def test_a_mesh_of_another_size_is_refused():
    with pytest.raises(ConfigError, match="does not fit 128 devices"):
        plan({"": pretrain("v5p")}, parse_topology("h100:128"))


def test_more_remat_keeps_less():
    config = from_config_dict(vitl16_im1k.get_config())
    topology = parse_topology("a100:32")
    kept = []
    for remat in ("none", "dots", "qkv+attention+proj+fc1", "attention+proj+fc1", "full"):
        student = dataclasses.replace(config.student, remat=remat)
        made = plan({"": dataclasses.replace(config, student=student)}, topology)
        kept.append(made["memory"]["activations"])
    assert kept == sorted(kept, reverse=True)


def test_none_keeps_gathered_weights_too():
    """Without remat the 24 blocks of a ViT-L keep 12 D² numbers each, in bfloat16."""
    config = from_config_dict(vitl16_im1k.get_config())
    whole = dataclasses.replace(config, mesh=dataclasses.replace(config.mesh, replica=32, fsdp=1))
    kept = [activation_bytes(c, 32) for c in (config, whole)]
    assert kept[0] - kept[1] == 24 * 12 * 1024**2 * 2


def test_gpus_keep_a_reserve():
    topology = parse_topology("h100:8")
    assert capacity(topology) == 0.75 * topology.chip.hbm_bytes


@pytest.fixture(scope="module")
def hires():
    return plan({"": from_config_dict(vit7b16_hires.get_config())}, parse_topology("h100:256"))


def test_larger_canvases_take_more_cores(gpus, hires):
    """Pixels: canvases of 1536 instead of 576, (1536 / 576)² = 7.1 times the work."""
    per_core = [
        m["whole_run"]["images_per_second"] / m["whole_run"]["host_cores"] for m in (gpus, hires)
    ]
    assert per_core[0] / per_core[1] == pytest.approx((1536 / 576) ** 2)


def test_a_mixture_is_planned_at_its_largest_sizes(hires):
    """768 and 336 pixels, Gram crops of 1152; the whole run at the mean of its FLOPs."""
    config = from_config_dict(vit7b16_hires.get_config())
    crops = crops_at(config.crops, 4)
    assert (crops.global_size, crops.local_size, crops.gram_size) == (768, 336, 1152)
    largest = {"": dataclasses.replace(config, crops=crops)}
    assert hires["crops"] == (768, 336)
    assert hires["flops"]["step"] == step_flops(largest)
    assert hires["memory"]["activations"] == activation_bytes(largest[""], 256)
    time, run = hires["time"], hires["whole_run"]
    assert time["mfu_bound"] == pytest.approx(time["floor"] / time["bound"])
    mean = step_flops({"": config}) / step_flops(largest)
    assert run["chip_hours"] == pytest.approx(run["steps"] * time["bound"] * mean * 256 / 3600)
    printed = report.text(hires)
    assert "Time of a step of the largest crops, 768 and 336 pixels" in printed
    assert f"a mean step having {mean:.1%} of that FLOP" in printed


def test_every_size_of_a_mixture_is_checked():
    recipe = vit7b16_hires.get_config()
    recipe.crops.mixture = ((500, 112, 768, 0.5), (768, 336, 1152, 0.5))
    with pytest.raises(ConfigError, match="500"):
        plan({"": from_config_dict(recipe)}, parse_topology("h100:256"))


def test_candidates_fit_the_number_of_chips():
    config, topology = pretrain("gpu"), parse_topology("v5e:16x16")
    made = candidates(config, topology)
    meshes = {(c.mesh.replica, c.mesh.fsdp, c.mesh.fsdp_minor) for c in made}
    assert meshes == {(1, 16, 16), (4, 8, 8)}
    assert len({(c.student.remat, c.batch.images) for c in made}) == 6


def test_a_batch_that_no_layout_shares():
    config = pretrain("gpu")
    config = dataclasses.replace(config, batch=dataclasses.replace(config.batch, images=1920))
    with pytest.raises(ConfigError, match="no layout of 256 chips shares 1920 images"):
        list(sweep(config, parse_topology("h100:256")))


def test_a_sweep_hides_no_error():
    recipe = vit7b16_pretrain.get_config()
    recipe.teacher.centering = "sinkhron"
    with pytest.raises(ConfigError, match=r"teacher\.centering"):
        list(sweep(from_config_dict(recipe), parse_topology("h100:256")))


def test_a_sweep_over_gpus():
    plans = list(sweep(pretrain("gpu"), parse_topology("h100:256")))
    assert len(plans) == 12
    assert rank(plans)


def test_ranking_leaves_out_what_does_not_fit(gpus):
    big = {**gpus, "memory": {**gpus["memory"], "fits": False}}
    slow = {**gpus, "time": {**gpus["time"], "bound": 9.0}}
    assert rank([big, slow, gpus]) == [gpus, slow]
    assert "nothing that was tried fits" in report.ranking(rank([big]))


def test_ranking_counts_what_remat_computes_again(gpus):
    """At equal time bounds the plan that computes less again is the faster one."""
    flops = gpus["flops"]
    least = {**gpus, "flops": {**flops, "recomputed": 0.0}}
    most = {**gpus, "flops": {**flops, "recomputed": 0.2 * flops["image"]}}
    assert rank([most, gpus, least]) == [least, gpus, most]
    with_cycles = {**most, "time": {**gpus["time"], "compiler": 1.1 * gpus["time"]["bound"]}}
    assert rank([most, with_cycles]) == [with_cycles, most]


def test_the_bound_says_that_it_leaves_out_kernels(gpus):
    time = {**gpus["time"], "compiler": gpus["time"]["bound"]}
    assert "Pallas kernels take no time" in report.text({**gpus, "time": time})
    assert "Pallas" not in report.text(gpus)


def test_the_verb_prints_and_writes_json(capsys, tmp_path):
    flags = ["--config=configs/vitl16_im1k.py", "--topology=h100:32", f"--json={tmp_path}/p.json"]
    verb.run(flags)
    printed = capsys.readouterr().out
    assert "vitl16_im1k on h100:32: 32 chips as fsdp 32" in printed
    assert "(estimate)" in printed
    assert json.loads((tmp_path / "p.json").read_text())["chips"] == 32
