"""All stages in order, from a raw pool to a manifest, shards and a report.

curation.json           what the folder is of
embed/pool              features of the pool (features.store); also embed/seeds-NAME, against-I
dedup                   groups.npy, seen.npy
cluster                 levelL.centroids.npy float32, levelL.assignments.npy int32
sample                  chosen.npy, rows of the embedded pool
retrieve/NAME           chosen.npy
shards                  the curated images
manifest.jsonl          what they are, and why (curate.manifest)
report.html
"""

import logging
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from dinov3_jax.config import ConfigError
from dinov3_jax.curate import manifest, stages
from dinov3_jax.curate.embeddings import embed, read_embedded
from dinov3_jax.curate.recipe import CurationConfig, check_recipe, check_seeds
from dinov3_jax.curate.report import Curated, write_report
from dinov3_jax.data.record import check_ids
from dinov3_jax.data.sources import Source
from dinov3_jax.distributed import agree
from dinov3_jax.features import store
from dinov3_jax.features.claim import claim_folder
from dinov3_jax.models.model import Model

_log = logging.getLogger(__name__)


class Pool(NamedTuple):
    source: Source
    kind: str  # one of data.sources.KINDS
    path: str
    labels: str  # "none" | "folders", as it was opened

    @property
    def name(self) -> str:
        return f"{self.kind} {self.path}"


def curate(
    model: Model,
    pool: Pool,
    seeds: dict[str, Source],
    against: list[Source],
    recipe: CurationConfig,
    out: str | Path,
    *,
    mesh: Mesh,
) -> Curated:
    """Runs what is not in the folder ``out`` yet, and writes the report.

    ``seeds``: seed sets by name; ``against``: evaluation sets, whose images must not be chosen. A
    stage whose settings or inputs are not those of its folder refuses, and so does a manifest of
    another choice; delete them to have them made again. Results do not depend on where a run was
    killed, nor on the devices of ``mesh`` but for the embeddings. Several processes see one ``out``
    and share the work: each embeds its part on its own devices, all cluster and search on
    ``mesh``, which has those of all, and process 0 packs and writes.

    Raises:
      ConfigError: a recipe that the pool is too small for, a folder of something else.
      SourceError: more than half of the images of a source cannot be read; two of the pool have
        one id.
    """
    out = store.local(out)
    me, count = jax.process_index(), jax.process_count()
    own = mesh.local_mesh
    embed_sources(model, pool, seeds, against, recipe, out, mesh=own, share=(me, count))
    agree.barrier("all is embedded")
    images = read_embedded(out / "embed/pool")
    check_ids(images.ids, pool.name)
    sets = [read_embedded(out / f"embed/against-{i}") for i in range(len(against))]
    _log.info("dedup: %d images", len(images.points))
    dedup = stages.dedup_stage(out / "dedup", images, sets, recipe, mesh=mesh)
    if not len(dedup.kept):
        raise ConfigError("dedup leaves no image of the pool: raise dedup.against_threshold")
    check_recipe(recipe, len(dedup.kept), "the pool without duplicates")
    _log.info("cluster: %d images in %d levels", len(dedup.kept), len(recipe.levels))
    tree = stages.cluster_stage(out / "cluster", images, dedup.kept, recipe, mesh=mesh)
    _log.info("sample: %d images", recipe.sample.budget)
    chosen = {"balanced": stages.sample_stage(out / "sample", dedup.kept, tree, recipe)}
    for name in seeds:
        found = read_embedded(out / f"embed/seeds-{name}")
        _log.info("retrieve: for %d images of %s", len(found.points), name)
        folder = out / "retrieve" / name
        chosen[f"retrieved:{name}"] = stages.retrieve_stage(
            folder, name, found, images, dedup.kept, tree, recipe, mesh=mesh
        )
    manifest.check_manifest(out / "manifest.jsonl", images, chosen)
    agree.barrier("the manifest of another run is read")
    rows = np.unique(np.concatenate(list(chosen.values())))
    curated = Curated(images, dedup, tree, chosen, rows)
    if me == 0:
        _write(out, curated, pool, recipe)
    agree.barrier("all is written")
    return curated


def _write(out, curated, pool, recipe):
    images, rows = curated.pool, curated.rows
    about = manifest.about_rows(rows, curated.chosen, curated.dedup.kept, curated.tree)
    if recipe.pack is not None:  # shards of another choice refuse before the manifest changes
        _log.info("pack: %d images", len(rows))
        manifest.write_shards(
            out / "shards",
            pool.source,
            pool.kind,
            pool.labels,
            images.records[rows],
            recipe.pack,
            about,
            seed=recipe.seed,
        )
    manifest.write_manifest(out / "manifest.jsonl", images, pool.name, rows, about)
    write_report(out / "report.html", curated, pool.source, recipe, pool.name)


def embed_sources(
    model: Model,
    pool: Pool,
    seeds: dict[str, Source],
    against: list[Source],
    recipe: CurationConfig,
    out: str | Path,
    *,
    mesh: Mesh,
    share: tuple[int, int] = (0, 1),
) -> None:
    """The first stage of ``curate`` alone; with ``share`` (i, n) the i-th of n processes' part.

    When all n are done, ``curate`` goes on from there. Arguments and errors as ``curate``.
    """
    out = store.local(out)
    check_recipe(recipe, len(pool.source), "the pool")
    check_seeds(recipe, seeds)
    claim_folder(
        out,
        "curation.json",
        {"pool": pool.name, "model": model.name},
        holds="curation",
        advice="take another folder, or set these back to go on with that one",
    )
    sources = {
        "pool": pool.source,
        **{f"against-{i}": source for i, source in enumerate(against)},
        **{f"seeds-{name}": source for name, source in seeds.items()},
    }
    for name, source in sources.items():
        _log.info("embed: %d images of %s", len(source), name)
        embed(model, source, out / "embed" / name, recipe.embed, mesh=mesh, share=share)
