"""``dinov3 pretrain --data=FOLDER --workdir=DIR [--config.a.b=v ...]``."""

import argparse
import dataclasses
import logging
import re

import jax

from configs import folder
from dinov3_jax.cli import hosts
from dinov3_jax.cli.flags import parse_recipe
from dinov3_jax.data.sources import open_source
from dinov3_jax.recipe import from_config_dict
from dinov3_jax.train.loop import train

_log = logging.getLogger(__name__)


def run(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(
        "dinov3 pretrain",
        description="Pretrains on a folder of images, labelled or not, choosing model, batch and "
        "schedule for its size and this machine. Any key can be set: --config.steps=500",
        allow_abbrev=False,
    )
    parser.add_argument("--data", required=True, help="folder, or several joined by commas")
    parser.add_argument("--workdir", required=True, help="folder of the run; resumes what is there")
    hosts.add_flags(parser)
    options, rest = parser.parse_known_args(argv)
    hosts.join(options)

    recipe = folder.get_config(f"data={options.data}")
    data = from_config_dict(recipe).data
    source = open_source(dataclasses.replace(data, labels="folders"))
    platform, devices = jax.default_backend(), jax.device_count()
    steps = [re.fullmatch(r"--config\.steps=(\d+)", argument) for argument in rest]
    length = next((int(found[1]) for found in reversed(steps) if found), None)
    folder.fit(recipe, images=len(source), platform=platform, devices=devices, steps=length)
    labelled = folder.class_folders(source.labels)
    if labelled:
        folder.label(recipe, options.data)
    recipe, workdir = parse_recipe([*rest, f"--workdir={options.workdir}"], recipe)
    _log.info(
        "%d images, %d %s device(s)%s; the recipe chosen for them:\n%s",
        len(source),
        devices,
        platform,
        ", class folders found: k-NN will be measured on them" if labelled else "",
        recipe,
    )
    train(from_config_dict(recipe), workdir)
