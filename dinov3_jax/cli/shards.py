"""``dinov3 shards pack|inspect|verify``: docs/shards.md."""

import argparse
import collections
import os
import time

from dinov3_jax.data import pack
from dinov3_jax.data.pack_beam import write_shards_on_beam
from dinov3_jax.data.shards import open_shards, read_manifest, verify_shards
from dinov3_jax.data.sources import KINDS, open_kind


def run(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(
        "dinov3 shards",
        description="Images as ArrayRecord shards with a manifest, for data.source = 'shards'.",
        allow_abbrev=False,
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    _add_pack_flags(verbs)
    for verb, text in (
        ("inspect", "what a folder of shards holds, from its manifest"),
        ("verify", "reads every byte and names what is damaged or missing"),
    ):
        verbs.add_parser(verb, help=text, allow_abbrev=False).add_argument("folder")
    # What follows "--" is Beam's.
    cut = argv.index("--") if "--" in argv else len(argv)
    ours, beam = argv[:cut], argv[cut + 1 :]
    options = parser.parse_args(ours)
    if beam and options.verb != "pack":
        parser.error(f"{options.verb} takes no flags of Beam: {' '.join(beam)}")
    match options.verb:
        case "pack":
            _pack(options, beam)
        case "inspect":
            _inspect(options.folder)
        case "verify":
            verify_shards(options.folder)
            print(f"{options.folder}: every shard is whole")


def _add_pack_flags(verbs):
    parser = verbs.add_parser(
        "pack",
        help="writes shards; the same command again goes on where it stopped",
        epilog="Flags of Apache Beam stand after --, for instance -- --runner=FlinkRunner.",
        allow_abbrev=False,
    )
    parser.add_argument("--data", required=True, metavar="PATH", help="as data.path of a recipe")
    parser.add_argument("--source", default="folder", choices=KINDS, help="default %(default)s")
    parser.add_argument("--out", required=True, metavar="DIR")
    parser.add_argument(
        "--labels",
        default="none",
        choices=("none", "folders"),
        help="folders: the class of an image is its parent folder; default %(default)s",
    )
    parser.add_argument(
        "--shard-size", type=int, default=8192, metavar="IMAGES", help="default %(default)s"
    )
    parser.add_argument(
        "--seed", type=_seed, default=0, metavar="N|none", help="of the order; none keeps it"
    )
    parser.add_argument(
        "--longest", type=int, metavar="PIXELS", help="larger images are shrunk to this side"
    )
    parser.add_argument(
        "--quality", type=int, metavar="1..100", help="all images become JPEGs of this quality"
    )


def _pack(options: argparse.Namespace, beam: list[str]):
    folder, path = (os.path.abspath(os.path.expanduser(options.out)), options.data)
    if options.source != "tfds" and os.path.exists(os.path.expanduser(path)):
        path = os.path.abspath(os.path.expanduser(path))  # workers may stand elsewhere
    source = open_kind(options.source, path, labels=options.labels)
    settings = pack.Settings(
        source=options.source,
        labels=options.labels,
        listing=source.fingerprint,
        images=len(source),
        shard_size=options.shard_size,
        seed=options.seed,
        longest=options.longest,
        quality=options.quality,
    )
    todo = pack.begin(settings, folder)
    start = time.perf_counter()
    if todo:
        write_shards_on_beam(settings, path, folder, todo, beam)
    elif os.path.exists(os.path.join(folder, "manifest.json")):
        print(f"{folder}: all {settings.shards} shards are there already")
        return
    manifest = pack.finish(settings, source.classes, folder)
    print(
        f"{folder}: {manifest['total']} images in {settings.shards} shards; "
        f"{manifest['packed']['unreadable']} could not be read. Now: {len(todo)} shards in "
        f"{time.perf_counter() - start:.1f} s"
    )


def _inspect(folder: str):
    source, manifest = open_shards(folder), read_manifest(os.path.expanduser(folder))[1]
    size = sum(shard["bytes"] for shard in manifest["shards"])
    print(f"{len(source)} images in {len(manifest['shards'])} shards, {size / 1e6:.1f} MB")
    print(f"fingerprint {source.fingerprint}")
    images = manifest.get("images")  # shards of early versions have none
    if images:
        for name, unit in (("height", "px"), ("width", "px"), ("bytes", "")):
            low, mean, high = (images[name][key] for key in ("min", "mean", "max"))
            print(f"{name:8}{low} to {high} {unit}, mean {mean:.0f}".replace(" ,", ","))
        for name in ("mean", "std"):
            print(f"{name:8}{' '.join(f'{x:.3f}' for x in images[name])} (RGB, 0..1)")
    if source.labels is not None:
        counts = collections.Counter(source.labels.tolist())
        print(f"{len(counts)} classes, of {min(counts.values())} to {max(counts.values())} images")
    for key, value in (manifest.get("packed") or {}).items():
        print(f"packed with {key} = {value}")


def _seed(text: str) -> int | None:
    return None if text == "none" else int(text)
