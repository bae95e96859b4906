"""``dinov3 plan --config=FILE.py --topology=v5p:8x8x4``: what a recipe needs and costs there.

Compiles the real train step for chips that are not here (TPUs: pip install libtpu) and reads the
compiler's program. docs/scale.md explains the output.
"""

import argparse
import json

import jax
from etils import epath

from dinov3_jax.cli.flags import parse_recipe
from dinov3_jax.config import ConfigError
from dinov3_jax.plan import report
from dinov3_jax.plan.plan import plan, rank, sweep
from dinov3_jax.plan.topology import parse_topology
from dinov3_jax.recipe import from_config_dict


def run(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(
        "dinov3 plan",
        description="Memory, collectives, time and cost of a recipe on chips that are not here. "
        "Keys of the recipe can be set as in train: --config.mesh.fsdp=16.",
    )
    parser.add_argument("--topology", required=True, help="v5p:8x8x4, v6e:16x16, h100:64 ...")
    parser.add_argument("--codegen", action="store_true", help="to machine code: takes minutes")
    parser.add_argument("--sweep", action="store_true", help="try layouts, remat, batches")
    parser.add_argument("--price", type=float, help="money per chip-hour")
    parser.add_argument("--json", help="also write the plan there")
    options, rest = parser.parse_known_args(argv)
    recipe, _ = parse_recipe([*rest, "--workdir=none"])
    students = recipe.to_dict().get("students", {}) or {"": recipe}
    configs = {k: from_config_dict(v, path=f"students.{k}") for k, v in students.items()}
    topology = parse_topology(options.topology)
    jax.config.update("jax_platforms", "cpu")  # it asks no accelerator of this machine
    if options.sweep:
        if len(configs) > 1:
            raise ConfigError("--sweep takes a recipe of one student")
        plans = []
        for made in sweep(next(iter(configs.values())), topology, price=options.price):
            plans.append(made)
            print(report.text(made), end="\n\n", flush=True)
        result = rank(plans)
        print(report.ranking(result))
    else:
        result = plan(configs, topology, codegen=options.codegen, price=options.price)
        print(report.text(result))
    if options.json:
        epath.Path(options.json).write_text(json.dumps(result, indent=1) + "\n")
