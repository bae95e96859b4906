"""A workdir belongs to one run: one recipe on one data set."""

import json
import secrets
import time

import jax
from etils import epath

from dinov3_jax.config import ConfigError, TrainConfig
from dinov3_jax.data.sources import Source
from dinov3_jax.distributed import agree
from dinov3_jax.distributed.rollcall import named
from dinov3_jax.recipe import to_dict
from dinov3_jax.train.metrics import write_whole

# Keys that may change between two starts of one run. They do not touch what is computed, but for
# the order of sums: where and in what parts, what is kept for the backward pass, by which kernel.
_FREE = ("mesh", "eval", "checkpoint", "log", "name", "data.threads", "data.workers", "data.buffer",
         "data.path", "data.max_bad_fraction", "batch.accumulate", "student.remat",
         "student.remat_blocks", "student.attention", "distill.backbone.remat",
         "distill.backbone.remat_blocks", "distill.backbone.attention")  # fmt: skip
_PATIENCE = 60  # seconds; NFS remembers for as long, by default, that a file was not there


def identity(config: TrainConfig, source: Source) -> str:
    """What decides the numbers of a run, as text: the keys that may not change, and the data."""
    return json.dumps([_bound(to_dict(config)), source.fingerprint], sort_keys=True)


def claim(workdir: epath.Path, config: TrainConfig, source: Source) -> int:
    """Writes config.json into a fresh workdir; ``ConfigError`` if another run lives there.

    A run lives there once it has a checkpoint; before that the recipe may still change. All
    processes look, the first one writes, and it is an error if one does not see what it wrote.
    Returns a random number that stays in config.json: a workdir that was deleted gets another.
    """
    if "://" in str(workdir):
        raise ConfigError(f"workdir {workdir} is remote; give a local or mounted folder")
    path = workdir / "config.json"
    ours, saved = to_dict(config), {}
    begun = any((workdir / "checkpoints").glob("[0-9]*"))
    if path.exists():
        try:
            saved = json.loads(path.read_text())
        except json.JSONDecodeError as error:
            if begun:
                raise ConfigError(f"{path} is damaged ({error}); take another --workdir") from error
    if saved and begun:
        changed = _differences(_bound(saved["config"]), _bound(json.loads(json.dumps(ours))))
        if changed:
            raise ConfigError(
                f"{workdir} holds a run of another recipe ({'; '.join(changed)}); take another "
                "--workdir, or set these keys back to resume that run"
            )
        if saved["data"] != source.fingerprint:
            raise ConfigError(
                f"{workdir} holds a run on other data: the listing of its images has "
                "changed since it started. Restore the files to resume it, or take another "
                "--workdir"
            )
    number = saved.get("number", secrets.randbits(31))
    number = agree.largest(number if jax.process_index() == 0 else 0)  # all have looked
    text = json.dumps({"config": ours, "data": source.fingerprint, "number": number}, indent=2)
    if jax.process_index() == 0:
        workdir.mkdir(parents=True, exist_ok=True)
        write_whole(path, text)
    agree.barrier("config.json is written")
    blind = agree.which(not _sees(path, text))
    if blind:
        raise ConfigError(
            f"{named(blind)} cannot see {path}, which process 0 wrote; give a --workdir on a "
            "file system that all hosts share"
        )
    return number


def _sees(path, text):
    """Network file systems show what another host wrote after some seconds."""
    for _ in range(_PATIENCE):
        if path.exists() and path.read_text() == text:
            return True
        time.sleep(1.0)
    return False


def begins(folder: epath.Path) -> dict[str, int]:
    """Student -> step of the run in ``folder`` at which it was at its own step 0.

    That is where it joined, unless it came with steps (``init.optimizer``). Empty for a run of one.
    """
    path = folder / "students.json"
    return json.loads(path.read_text()) if path.exists() else {}


def write_begins(folder: epath.Path, steps: dict[str, int]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "students.json", json.dumps(steps))


def _bound(recipe, path=""):
    """``recipe`` without what may change."""
    if not isinstance(recipe, dict):
        return recipe
    return {k: _bound(v, f"{path}{k}.") for k, v in recipe.items() if path + k not in _FREE}


def _differences(old, new, path=""):
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            line
            for key in sorted(old.keys() | new.keys())
            for line in _differences(old.get(key), new.get(key), f"{path}.{key}".lstrip("."))
        ]
    return [] if old == new else [f"{path}: {old!r} there, {new!r} now"]
