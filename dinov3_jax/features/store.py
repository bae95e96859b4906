"""A folder of features: part files of a fixed number of images, an index, and what made them.

    features.json        the settings, and digests of the images' listing and the weights
    00000-256x256.npz    features of the images of part 0 that are 256 x 256, in source order
    00000.jsonl          the index of part 0, one line an image; it is written last

A line of the index: ``path``, ``part``, and either ``file`` (stem), ``row`` (in that file), ``h``,
``w`` (patches of the model's stride) and ``height``, ``width`` (pixels that show the image), or
``error``. The line of a file's row 0 also has ``crc32``: array name -> that of its dtype, shape and
bytes. A part whose index is there is whole; nothing else of a run that was killed counts.
"""

import collections
import dataclasses
import hashlib
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import jax
import numpy as np

from dinov3_jax.config import ConfigError
from dinov3_jax.data.sources import Source
from dinov3_jax.distributed.sharding import path_name
from dinov3_jax.features.claim import claim_folder, read_claim
from dinov3_jax.features.formats import FORMATS, Arrays, write_text
from dinov3_jax.models.model import Model


@dataclasses.dataclass(frozen=True)
class Settings:
    """What decides the content of a folder of features, beside the model and the images."""

    tokens: str  # a key of ``extract.TOKENS``
    layers: tuple[int, ...] | None  # 0-based; None: the output
    size: tuple[int, int] | None  # height, width in pixels; None: each image's own
    fit: str  # one of ``data.fit.FITS``
    dtype: str  # one of ``extract.DTYPES``
    format: str  # a key of ``formats.FORMATS``
    part: int  # images a part


def local(out: str | Path) -> Path:
    """The folder as a path; ``ConfigError`` for a remote one."""
    if "://" in str(out):
        raise ConfigError(f"{out} is remote; give a local or mounted folder")
    return Path(out).expanduser()


def claim(out: Path, model: Model, source: Source, settings: Settings) -> None:
    """Writes features.json into a fresh folder, or finds the same there.

    Raises ``ConfigError`` that names what differs if the folder holds other features, or is none.
    """
    ours = {
        "model": model.name,
        "model config": dataclasses.asdict(model.config),
        "weights": weights_digest(model),
        "mean": model.mean,
        "std": model.std,
        "images": len(source),
        "listing of images": source.fingerprint,
        **dataclasses.asdict(settings),
    }
    claim_folder(
        out,
        "features.json",
        ours,
        holds="features",
        advice="take another folder, or set these back to go on with that run",
    )


def weights_digest(model: Model) -> str:
    """Hex sha256 of all parameters and their names: after more steps a run is another model."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(model.params):
        value = np.ascontiguousarray(leaf)
        digest.update(f"{path_name(path)} {value.dtype} {value.shape}\n".encode())
        digest.update(value.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def finished(out: Path, part: int) -> list[dict] | None:
    """The index of a part, one row an image, or None if it is not whole yet."""
    path = _index(out, part)
    if not path.exists():
        return None
    return [json.loads(line) for line in path.read_text().splitlines()]


def write_part(
    out: Path,
    part: int,
    rows: list[dict],
    files: Mapping[str, tuple[Sequence[str], Arrays]],
    *,
    format: str,
) -> None:
    """Writes the ``files`` of a part, stem -> (paths [n], name -> [n, ...]), then its index."""
    sums = {}
    for stem, (paths, arrays) in files.items():
        FORMATS[format].write(out / stem, paths, arrays)
        sums[stem] = {name: _crc32(array) for name, array in arrays.items()}
    rows = [{**row, "crc32": sums[row["file"]]} if row.get("row") == 0 else row for row in rows]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    write_text(_index(out, part), text)


def read_parts(
    out: str | Path, names: Sequence[str] | None = None
) -> Iterator[tuple[list[dict], dict[str, Arrays]]]:
    """Part by part: index rows, and stem -> name -> array [n, ...] of the files they speak of.

    ``names``: only these arrays. Of format npy they are memory maps. Raises ``ConfigError`` for a
    folder without features, one whose run has not finished, and a file that cannot be read or does
    not have the rows of its index; whether it is the one that was written, ``check_sums`` says.
    """
    out = local(out)
    settings = _settings(out)
    count = parts(settings["images"], settings["part"])
    found = [finished(out, part) for part in range(count)]
    indexes = [rows for rows in found if rows is not None]
    if len(indexes) < count:
        raise ConfigError(
            f"{out} has {len(indexes)} of {count} parts; run the same dinov3 features again, it "
            "goes on where it stopped"
        )
    for rows in indexes:
        held = collections.Counter(row["file"] for row in rows if "file" in row)
        yield rows, {stem: _read(out, stem, names, settings, n) for stem, n in held.items()}


def check_sums(out: str | Path, rows: list[dict], files: Mapping[str, Arrays]) -> None:
    """``ConfigError`` unless the ``files`` of a part hold what was written; reads every byte.

    Arguments as ``read_parts`` gives them. Parts that were written without sums pass.
    """
    for row in rows:
        for name, wanted in row.get("crc32", {}).items():
            array = files[row["file"]].get(name)
            if array is not None and _crc32(array) != wanted:
                found = f"has {name} of crc32 {_crc32(array)}, wanted {wanted} as in its index"
                raise _damaged(out, row["file"], found)


def read_features(
    out: str | Path, names: Sequence[str] | None = None
) -> tuple[list[str], dict[str, np.ndarray | list[np.ndarray]]]:
    """(paths [n], name -> array [n, ...]) of all readable images, in the order of their source.

    Where images differ in the shape of an array (patch tokens of images of several sizes), it is
    a list of n arrays instead. ``names``: only these arrays. Errors as ``read_parts`` and
    ``check_sums``.
    """
    paths: list[str] = []
    values: dict[str, list[np.ndarray]] = {}
    for rows, files in read_parts(out, names):
        check_sums(out, rows, files)
        for row in rows:
            if "file" not in row:
                continue
            paths.append(row["path"])
            for name, array in files[row["file"]].items():
                values.setdefault(name, []).append(array[row["row"]])
    return paths, {
        name: np.stack(found) if len({x.shape for x in found}) == 1 else found
        for name, found in values.items()
    }


def parts(images: int, part: int) -> int:
    return -(-images // part)


def _read(out, stem, names, settings, count):
    try:
        arrays = FORMATS[settings["format"]].read(out / stem, names)
    except (OSError, ValueError, EOFError) as error:  # numpy's for a file that is cut short
        raise _damaged(out, stem, f"cannot be read ({error})") from error
    for name, array in arrays.items():
        if len(array) != count:
            raise _damaged(out, stem, f"has {len(array)} rows of {name}, its index {count}")
    return arrays


def _damaged(out, stem, what):
    return ConfigError(
        f"{out}/{stem} {what}; delete {stem.split('-')[0]}.jsonl there and run the same command "
        "again, which makes that part anew"
    )


def _crc32(array):
    start = zlib.crc32(f"{array.dtype.str} {array.shape}".encode())
    return zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data, start)


def _settings(out):
    path = out / "features.json"
    if not path.exists():
        raise ConfigError(f"there is no {path}; give a folder written by dinov3 features")
    return read_claim(out, "features.json")


def _index(out, part):
    return out / f"{part:05d}.jsonl"
