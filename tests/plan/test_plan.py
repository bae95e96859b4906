import dataclasses
import json

import pytest

from configs import vit7b16_pretrain, vitl16_im1k
from dinov3_jax.cli import plan as verb
from dinov3_jax.config import ConfigError
from dinov3_jax.plan import report
from dinov3_jax.plan.plan import candidates, plan, rank, sweep
from dinov3_jax.plan.topology import parse_topology
from dinov3_jax.recipe import from_config_dict

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


def test_the_verb_prints_and_writes_json(capsys, tmp_path):
    flags = ["--config=configs/vitl16_im1k.py", "--topology=h100:32", f"--json={tmp_path}/p.json"]
    verb.run(flags)
    printed = capsys.readouterr().out
    assert "vitl16_im1k on h100:32: 32 chips as fsdp 32" in printed
    assert "(estimate)" in printed
    assert json.loads((tmp_path / "p.json").read_text())["chips"] == 32
