"""The real step, compiled by the TPU compiler for chips that are not here."""

import dataclasses
import json
import pathlib

import pytest

from configs import vit7b16_gram, vit7b16_hires, vit7b16_pretrain, vitl16_im1k
from dinov3_jax.plan.plan import plan
from dinov3_jax.plan.topology import parse_topology
from dinov3_jax.recipe import from_config_dict
from tests.tiny import tiny_config

libtpu = pytest.importorskip("libtpu", reason="no libtpu: pip install libtpu")
GOLDEN = pathlib.Path(__file__).parents[1] / "goldens" / "plan_vit7b16.json"
TOPOLOGIES = {"v5p": "v5p:8x8x4", "v6e": "v6e:16x16", "v5e": "v5e:16x16"}
# What the 7B may take, in GiB and GB. The limits of the peak on v5p and v6e are 38 and 28 GiB; only
# machine code has it, and it was 34.71 and 24.38 where the upper count before packing was 41.43 and
# 29.66: these limits of that count are the peak's plus the difference.
TOTALS = {"v5p": 38 + 6.72, "v6e": 28 + 5.28, "v5e": 15.2}
GATHERED, SCATTERED = 42.0, 28.5


def check_7b(chip):
    config = from_config_dict(vit7b16_pretrain.get_config(f"chip={chip}"))
    made = plan({"": config}, parse_topology(TOPOLOGIES[chip]))
    wanted = json.loads(GOLDEN.read_text())[chip]
    assert made["memory"]["fits"]
    # Another version of the compiler packs and fuses a little differently.
    assert made["memory"]["total"] / 2**30 < wanted["total_gib"] + 1.0
    assert made["memory"]["total"] / 2**30 < TOTALS[chip]
    rows = made["collectives"]
    assert rows["all-gather"]["bytes"] / 1e9 < GATHERED
    assert rows["reduce-scatter"]["bytes"] / 1e9 < SCATTERED
    for kind in ("all-gather", "reduce-scatter"):
        assert rows[kind]["bytes"] / 1e9 == pytest.approx(wanted[kind], rel=0.01)
        if chip != "v5e":
            assert rows[kind]["asynchronous"] > 0.95
    # No weight is reduced whole: those are 537 MB (the prototypes) and 134 MB (a block's matrix).
    assert rows["all-reduce"]["bytes"] / 1e9 < wanted["all-reduce"] * 1.1
    return made


def test_the_7b_fits_v5e_256_and_moves_no_more_than_its_weights():
    check_7b("v5e")


@pytest.mark.tpu_aot
@pytest.mark.parametrize("chip", ["v5p", "v6e"])
def test_the_7b_fits(chip):
    check_7b(chip)


@pytest.mark.tpu_aot
@pytest.mark.parametrize(
    ("recipe", "topology", "gib"),
    [
        (vitl16_im1k, "v5e:2x4", 14.43),
        (vitl16_im1k, "v6e:2x4", 24.03),
        (vit7b16_gram, "v5e:16x16", 14.13),
        (vit7b16_hires, "v5p:8x8x4", 83.03),
    ],
)
def test_layouts_fit(recipe, topology, gib):
    config = from_config_dict(recipe.get_config(f"chip={topology.partition(':')[0]}"))
    made = plan({"": config}, parse_topology(topology))
    assert made["memory"]["fits"]
    # As above: another version of the compiler.
    assert made["memory"]["total"] / 2**30 < gib + 1.0
    # Norms, sums of losses and, on v5p, shards of its 4 replicas; no whole weights.
    rows = made["collectives"]
    assert rows["all-reduce"]["bytes"] < 0.05 * rows["all-gather"]["bytes"]


@pytest.mark.tpu_aot
def test_a_chip_of_v4_is_one_device():
    config = tiny_config(**{"student.dtype": "bfloat16"})
    config = dataclasses.replace(config, mesh=dataclasses.replace(config.mesh, fsdp=4))
    made = plan({"": config}, parse_topology("v4:2x2x1"))
    assert made["chips"] == 4
    assert made["collectives"]["all-gather"]["count"] > 0


@pytest.mark.tpu_aot
def test_a_program_that_does_not_fit_is_told():
    recipe = vit7b16_pretrain.get_config("chip=v5e")
    recipe.student.remat, recipe.student.remat_blocks = "none", 0
    # To machine code: else the report of too much memory may be there before the refusal.
    made = plan({"": from_config_dict(recipe)}, parse_topology("v5e:16x16"), codegen=True)
    assert not made["memory"]["fits"]
    assert "Ran out of memory" in made["error"]


@pytest.mark.tpu_aot
def test_machine_code_has_cycles_and_a_peak():
    config = tiny_config(**{"student.dtype": "bfloat16"})
    config = dataclasses.replace(config, mesh=dataclasses.replace(config.mesh, fsdp=8))
    made = plan({"": config}, parse_topology("v5e:2x4"), codegen=True)
    assert made["memory"]["source"] == "compiler, peak"
    assert made["time"]["compiler"] > 0
