"""``dinov3 curate --pool=... --model=... --recipe=configs/curation/FILE.py --out=DIR``."""

import argparse
import dataclasses
import json
import os
import re

import jax

from dinov3_jax.cli import hosts
from dinov3_jax.cli.flags import parse_recipe
from dinov3_jax.cli.models import add_model_flags, open_model
from dinov3_jax.config import ConfigError, MeshConfig
from dinov3_jax.curate.curate import Pool, curate, embed_sources
from dinov3_jax.curate.recipe import CurationConfig
from dinov3_jax.data.sources import KINDS, Source, open_images, open_kind
from dinov3_jax.distributed import agree
from dinov3_jax.distributed.mesh import make_mesh
from dinov3_jax.recipe import from_config_dict


def run(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(
        "dinov3 curate",
        description="From a raw pool to the images worth training on: embed, dedup, cluster, "
        "sample, retrieve, manifest, shards, report. The same command again goes on where it "
        "stopped. Any key of the recipe can be set: --config.sample.budget=5000",
        allow_abbrev=False,
    )
    parser.add_argument("--pool", required=True, metavar="PATH")
    parser.add_argument(
        "--pool-kind", choices=KINDS, help="default: shards if PATH is a folder of them, or folder"
    )
    parser.add_argument(
        "--labels",
        default="none",
        choices=("none", "folders"),
        help="folders: the class of a pool image is its parent folder; for the report alone",
    )
    parser.add_argument(
        "--seeds",
        action="append",
        default=[],
        metavar="NAME=PATH",
        help="folder, shards or glob of images whose like is wanted; may be given again",
    )
    parser.add_argument(
        "--against",
        action="append",
        default=[],
        metavar="PATH",
        help="folder, shards or glob of an evaluation set; may be given again",
    )
    add_model_flags(parser)
    parser.add_argument("--recipe", required=True, metavar="FILE.py")
    parser.add_argument("--out", required=True, metavar="DIR")
    parser.add_argument(
        "--embed-share",
        type=_share,
        metavar="I/N",
        help="only embed, and only every N-th part from the I-th (0 to N - 1): N machines, each "
        "with its I, fill one folder; afterwards the same command without this flag goes on",
    )
    hosts.add_flags(parser)
    options, rest = parser.parse_known_args(argv)
    hosts.join(options)
    chosen, out = parse_recipe([*rest, f"--config={options.recipe}", f"--workdir={options.out}"])
    recipe = from_config_dict(chosen, CurationConfig)
    pool = open_pool(options.pool, options.pool_kind, options.labels)
    seeds = open_seeds(options.seeds)
    against = [open_images(path) for path in options.against]
    model = open_model(options)
    # Whole parameters on every device, images and centroids spread over them.
    mesh = make_mesh(MeshConfig(-1, 1, 1, 1))
    if options.embed_share is not None:
        if jax.process_count() > 1:
            raise ConfigError(
                "--embed-share is for machines that do not find each other; these processes have: "
                "leave it out, and each embeds its share"
            )
        share = options.embed_share
        embed_sources(model, pool, seeds, against, recipe, out, mesh=mesh, share=share)
        print(f"{out}: embedded share {share[0]} of {share[1]}; when all are, run without it")
        return
    agree.check_same("the recipe", json.dumps(dataclasses.asdict(recipe), sort_keys=True))
    numbered = {f"against {i}": source for i, source in enumerate(against)}
    for name, source in {"pool": pool.source, **seeds, **numbered}.items():
        agree.check_same(f"the data set {name}", source.fingerprint)
    done = curate(model, pool, seeds, against, recipe, out, mesh=mesh)
    if jax.process_index() != 0:
        return
    trained = "shards" if recipe.pack is not None else "manifest.jsonl (data.source = 'curated')"
    print(
        f"{out}: {len(done.rows)} of {len(pool.source)} images; open {out}/report.html, "
        f"train on {out}/{trained}"
    )


def open_pool(path: str, kind: str | None, labels: str) -> Pool:
    """The pool of the flags of that name."""
    if kind is None:
        manifest = os.path.join(os.path.expanduser(path), "manifest.json")
        kind = "shards" if os.path.exists(manifest) else "folder"
    return Pool(open_kind(kind, path, labels=labels), kind, path, labels)


def open_seeds(flags: list[str]) -> dict[str, Source]:
    """Seed sets by name; ``ConfigError`` for a flag without a name, or a name given twice."""
    seeds = {}
    for flag in flags:
        name, _, path = flag.partition("=")
        if not path or not re.fullmatch(r"[\w.-]+", name):
            raise ConfigError(
                f"--seeds={flag} is not NAME=PATH; a name has letters, digits, -, _ and ."
            )
        if name in seeds:
            raise ConfigError(f"--seeds names {name} twice; give each seed set its own name")
        seeds[name] = open_images(path)
    return seeds


def _share(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if not found or not int(found[1]) < int(found[2]):
        raise argparse.ArgumentTypeError(f"{text!r} is no share; wanted I/N with I from 0 to N - 1")
    return int(found[1]), int(found[2])
