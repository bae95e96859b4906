"""All stages on flat colours, with a tiny random model: whole, killed anywhere, and refused."""

import dataclasses
import functools
import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest

from dinov3_jax.config import ConfigError
from dinov3_jax.curate.curate import Pool, curate
from dinov3_jax.curate.recipe import LevelConfig, SampleConfig
from dinov3_jax.data.pack import read_about
from dinov3_jax.data.record import Record
from dinov3_jax.data.shards import open_shards, verify_shards, write_shards
from dinov3_jax.data.sources import SourceError, open_images, open_kind
from tests.curate.pools import model, recipe, write_colours
from tests.features.models import mesh, vit


def run(folder, out, *, kind="folder", chosen=model, more=None, on=None, **changes):
    """What ``write_sets`` has written below ``folder``, curated into ``out``.

    ``more``: a folder beside the others that is a further seed set of this name.
    """
    path = str(folder / "pool")
    pool = Pool(open_kind(kind, path, labels="folders"), kind, path, "folders")
    seeds = {"yellow": open_images(str(folder / "seeds"))}
    if more is not None:
        seeds["more"] = open_images(str(folder / more))
    against = [open_images(str(folder / "against"))]
    return curate(chosen(), pool, seeds, against, recipe(**changes), out, mesh=on or mesh(1))


def write_sets(folder):
    folder.mkdir(exist_ok=True)
    write_colours(folder / "pool")
    write_colours(folder / "seeds", (0, 0, 0, 4), copies=0, seed=1)
    # An evaluation set that knows two green images of the pool.
    place = folder / "against"
    place.mkdir()
    for name in ("00.png", "01.png"):
        shutil.copy(folder / "pool/c1" / name, place)
    return folder


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    return write_sets(tmp_path_factory.mktemp("sets"))


@pytest.fixture(scope="module")
def whole(sets, tmp_path_factory):
    """(result, its folder) of a run that nothing disturbed."""
    out = tmp_path_factory.mktemp("whole") / "out"
    return run(sets, out), out


def tree(out):
    return {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file()}


def test_every_stage(whole):
    done, out = whole
    pool = done.pool
    dropped = {pool.ids[row] for row in np.setdiff1d(np.arange(47), done.dedup.kept)}
    # Of an image and its copy the first by name stays: 00.png, not copy0.png.
    assert dropped == {"c0/copy0.png", "c0/copy1.png", "c0/copy2.png", "c1/00.png", "c1/01.png"}
    assert done.dedup.seen.sum() == 2
    assert len(done.chosen["balanced"]) == 16
    found = done.chosen["retrieved:yellow"]
    assert 1 <= len(found) <= 8  # two neighbours of each of four seed images
    lines = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
    assert [line["record"] for line in lines] == pool.records[done.rows].tolist()
    assert lines[0].keys() == {"id", "source", "record", "part", "clusters", "why"}
    for line in lines:
        (place,) = np.flatnonzero(pool.records[done.dedup.kept] == line["record"])
        assert line["clusters"] == [done.tree.clusters(level)[place] for level in (0, 1)]
    assert sum("balanced" in line["why"] for line in lines) == 16
    assert sum("retrieved:yellow" in line["why"] for line in lines) == len(found)
    assert not dropped & {line["id"] for line in lines}
    level1 = np.load(out / "cluster/level1.centroids.npy")
    assert (level1.dtype, level1.shape[1]) == (np.float32, 16)
    assert np.load(out / "cluster/level2.assignments.npy").dtype == np.int32


def test_it_can_be_trained_on(whole):
    out = whole[1]
    verify_shards(str(out / "shards"))
    packed = open_shards(str(out / "shards"))
    records = [packed[i] for i in range(len(packed))]
    lines = (out / "manifest.jsonl").read_text().splitlines()
    assert sorted(r.id for r in records) == sorted(json.loads(line)["id"] for line in lines)
    by_id = {line["id"]: line for line in map(json.loads, lines)}
    beside = [read_about(str(out / "shards"), i)["records"] for i in range(len(packed.files))]
    for columns in beside:
        for name in ("clusters", "why"):
            assert columns[name] == [by_id[id_][name] for id_ in columns["id"]]
    assert packed.classes == ("c0", "c1", "c2", "c3")
    assert all(packed.classes[r.label] == os.path.dirname(r.id) for r in records)


def test_again_changes_nothing(sets, whole):
    before = tree(whole[1])
    run(sets, whole[1])
    assert tree(whole[1]) == before


def test_killed_after_any_file(sets, whole, tmp_path, monkeypatch):
    """Dies again and again, each time a few files further, between a draft and its name."""
    replace, out, deaths = os.replace, tmp_path / "out", 0

    def dying(draft, path):
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        replace(draft, path)

    monkeypatch.setattr(os, "replace", dying)
    finished = False
    while not finished:
        left = 3 + deaths // 4  # files that are made anew each time stand at the end
        try:
            run(sets, out)
            finished = True
        except KeyboardInterrupt:
            deaths += 1
    assert deaths > 8
    assert tree(out) == tree(whole[1])


@pytest.fixture
def copied(whole, tmp_path):
    shutil.copytree(whole[1], tmp_path / "out")
    return tmp_path / "out"


def test_kill_9(sets, whole, copied):
    """A process that is shot while it writes the second level; another one goes on."""
    for path in (copied / "cluster").glob("level2*"):
        path.unlink()
    for name in ("sample", "retrieve", "shards"):
        shutil.rmtree(copied / name)
    code = f"""
import os, pathlib, signal
from tests import conftest
from tests.curate.test_curate import run
replace = os.replace
def deadly(draft, path):
    if str(path).endswith("level2.centroids.npy"):
        os.kill(os.getpid(), signal.SIGKILL)
    replace(draft, path)
os.replace = deadly
run(pathlib.Path({str(sets)!r}), pathlib.Path({str(copied)!r}))
"""
    died = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert died.returncode == -signal.SIGKILL, died.stderr
    assert (copied / "cluster/level2.centroids.npy.new").exists()
    run(sets, copied)
    assert tree(copied) == tree(whole[1])


def test_other_settings_are_refused(sets, copied):
    more = SampleConfig(budget=17)
    message = r"sample holds other results \(budget: 16 there, 17 now\); set these back, or delete"
    with pytest.raises(ConfigError, match=message):
        run(sets, copied, sample=more)
    dedup = dataclasses.replace(recipe().dedup, threshold=None)
    with pytest.raises(ConfigError, match=r"dedup holds other results \(threshold: 0.999999"):
        run(sets, copied, dedup=dedup)
    with pytest.raises(ConfigError, match=r"cluster holds other results \(seed: 0 there, 1 now\)"):
        run(sets, copied, seed=1)
    # What was made from the old sample refuses too, and when it is gone all is made anew.
    shutil.rmtree(copied / "sample")
    message = r"another choice \(balanced: 16 images there, 17 now\); set sample.budget and --seeds"
    with pytest.raises(ConfigError, match=message):
        run(sets, copied, sample=more)
    (copied / "manifest.jsonl").unlink()
    with pytest.raises(ConfigError, match="shards was packed with other settings: listing"):
        run(sets, copied, sample=more)
    assert not (copied / "manifest.jsonl").exists()  # none beside other shards
    shutil.rmtree(copied / "shards")
    assert len(run(sets, copied, sample=more).chosen["balanced"]) == 17


@pytest.mark.parametrize("pack", [recipe().pack, None])
def test_one_more_seed_set_is_refused(sets, copied, pack):
    """What was chosen, packed and reported stays as it is."""
    if pack is None:
        shutil.rmtree(copied / "shards")
    results = ("manifest.jsonl", "report.html", "shards/manifest.json")
    before = {name: tree(copied).get(name) for name in results}
    message = r"another choice \(retrieved:more: 0 images there, \d+ now\); set sample.budget and -"
    with pytest.raises(ConfigError, match=message):
        run(sets, copied, more="pool/c1", pack=pack)
    assert {name: tree(copied).get(name) for name in results} == before


def test_other_inputs_are_refused(sets, copied, tmp_path):
    other = functools.partial(vit, 1)
    with pytest.raises(ConfigError, match=r"embed/pool holds other features \(weights: "):
        run(sets, copied, chosen=other)
    shutil.rmtree(copied / "embed")
    with pytest.raises(ConfigError, match=r"dedup holds other results \(made from against 0: "):
        run(sets, copied, chosen=other)
    # Seeds of another model than the pool's, perhaps of another width.
    seeds = copied / "embed/seeds-yellow/features.json"
    shutil.rmtree(copied)
    run(sets, copied)
    settings = json.loads(seeds.read_text())
    settings["model config"]["embed_dim"] = 32
    seeds.write_text(json.dumps(settings))
    with pytest.raises(ConfigError, match=r"seeds-yellow holds other features.*'embed_dim': 32"):
        run(sets, copied)
    moved = tmp_path / "moved"
    shutil.copytree(sets, moved)
    with pytest.raises(ConfigError, match=r"out holds other curation \(pool: 'folder .*' there"):
        run(moved, copied)


def test_embeddings_that_do_not_match_their_shards(sets, tmp_path):
    records = [Record(np.full((8, 8, 3), i, np.uint8), f"{i}", i % 2) for i in range(40)]
    for folder in (tmp_path, tmp_path / "again"):
        shutil.copytree(sets / "seeds", folder / "seeds")
        shutil.copytree(sets / "against", folder / "against")
    write_shards(records, str(tmp_path / "pool"))
    off = dataclasses.replace(recipe().dedup, threshold=None)
    done = run(tmp_path, tmp_path / "out", kind="shards", dedup=off)
    assert done.pool.ids == [f"{i}" for i in range(40)]
    shutil.rmtree(tmp_path / "pool")
    write_shards(records[::-1], str(tmp_path / "pool"))
    with pytest.raises(ConfigError, match=r"embed/pool holds other features \(listing of images"):
        run(tmp_path, tmp_path / "out", kind="shards", dedup=off)


def test_pools_that_are_too_small(sets, tmp_path):
    with pytest.raises(ConfigError, match=r"sample.budget is 48, but there are 47 images \(the p"):
        run(sets, tmp_path / "out", sample=SampleConfig(budget=48))
    level = LevelConfig(clusters=47, split=1, resamplings=0, kept=2)
    message = r"recipe for 47 images \(the pool\): level 1 asks for 47 clusters of 47 inputs"
    with pytest.raises(ConfigError, match=message):
        run(sets, tmp_path / "out", levels=(level,))
    unknown = dataclasses.replace(recipe().retrieve, neighbours_of=(("yelow", 3),))
    with pytest.raises(ConfigError, match="speaks of yelow, but the seed sets are yellow; give"):
        run(sets, tmp_path / "out", retrieve=unknown)
    assert not (tmp_path / "out").exists()  # known before anything is computed
    message = r"sample.budget is 45, but there are 42 images \(the pool without duplicates\)"
    with pytest.raises(ConfigError, match=message):
        run(sets, tmp_path / "out", sample=SampleConfig(budget=45))


def test_unreadable_images(sets, tmp_path):
    for name in ("seeds", "against", "pool"):
        shutil.copytree(sets / name, tmp_path / name)
    (tmp_path / "pool/c0/05.png").write_bytes(b"torn")
    done = run(tmp_path, tmp_path / "out")
    ((name, why),) = done.pool.unreadable
    assert name == "c0/05.png"
    assert "unreadable image of 4 bytes" in why
    assert len(done.rows) >= 16
    # Rows and records differ from here on: the pictures chosen are still those that are named.
    packed = open_shards(str(tmp_path / "out/shards"))
    for record in (packed[i] for i in range(len(packed))):
        assert record.image == (tmp_path / "pool" / record.id).read_bytes()
    assert "1 that could not be read" in (tmp_path / "out/report.html").read_text()
    for path in sorted((tmp_path / "pool").rglob("*.png"))[::2]:
        path.write_bytes(b"torn")
    with pytest.raises(SourceError, match=r"of 47 images cannot be read, more than half"):
        run(tmp_path, tmp_path / "other")


def test_two_images_of_one_id(sets, tmp_path):
    shutil.copytree(sets / "seeds", tmp_path / "seeds")
    shutil.copytree(sets / "against", tmp_path / "against")
    records = [Record(np.full((8, 8, 3), i, np.uint8), f"{i // 2}", 0) for i in range(40)]
    write_shards(records, str(tmp_path / "pool"))
    with pytest.raises(SourceError, match=r"pool has the id '0' 2 times; give each image its own"):
        run(tmp_path, tmp_path / "out", kind="shards")
