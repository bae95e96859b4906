"""How one file of features is written and read: npz, npy, ArrayRecord or Parquet.

Every writer takes (stem, paths [n], name -> array [n, ...]) and writes whole files or none; every
reader takes (stem, names) and gives name -> array [n, ...] back, None meaning all names.
"""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import msgpack
import numpy as np

from dinov3_jax.config import ConfigError

Arrays = dict[str, np.ndarray]


class Format(NamedTuple):
    write: Callable[[Path, Sequence[str], Arrays], None]
    read: Callable[[Path, Sequence[str] | None], Arrays]


def check_format(name: str) -> None:
    """``ConfigError`` for an unknown format, or one whose library is not installed."""
    if name not in FORMATS:
        raise ConfigError(f"format is {name!r}, wanted one of {', '.join(FORMATS)}")
    if name == "parquet":
        try:
            import pyarrow.parquet  # noqa: F401
        except ImportError as error:
            raise ConfigError(
                "Parquet needs pyarrow: pip install dinov3_jax[parquet], or take another format"
            ) from error


def write_whole(path: Path, write: Callable[[Path], None]) -> None:
    """``write`` to a draft beside ``path``, which then takes its name."""
    draft = path.with_name(path.name + ".new")
    write(draft)
    os.replace(draft, path)


def write_text(path: Path, text: str) -> None:
    """``text`` to ``path``, whole at any time."""

    def write(draft):
        draft.write_text(text)

    write_whole(path, write)


def _write_npz(stem, paths, arrays):
    def write(draft):
        with open(draft, "wb") as file:  # given a name, numpy would add a suffix
            np.savez(file, paths=np.array(paths), **arrays)

    write_whole(_file(stem, ".npz"), write)


def _read_npz(stem, names):
    with np.load(_file(stem, ".npz")) as file:
        return {name: file[name] for name in names or file.files if name != "paths"}


def _write_npy(stem, paths, arrays):
    """One file an array, which ``np.load(..., mmap_mode="r")`` opens without reading it."""

    def write(draft, array):
        with open(draft, "wb") as file:
            np.save(file, array)

    for name, array in arrays.items():
        write_whole(_file(stem, f".{name}.npy"), lambda draft, array=array: write(draft, array))


def _read_npy(stem, names):
    names = names or [
        path.name.split(".")[-2] for path in sorted(stem.parent.glob(f"{stem.name}.*.npy"))
    ]
    return {name: np.load(_file(stem, f".{name}.npy"), mmap_mode="r") for name in names}


def _write_arrayrecord(stem, paths, arrays):
    """One record an image: msgpack {"s": path, name: {"dtype", "shape", "data"}, ...}."""
    from array_record.python.array_record_module import ArrayRecordWriter

    def write(draft):
        writer = ArrayRecordWriter(str(draft), "group_size:1,uncompressed")
        for i, path in enumerate(paths):
            fields = {
                name: {"dtype": x.dtype.str, "shape": x.shape[1:], "data": x[i].tobytes()}
                for name, x in arrays.items()
            }
            writer.write(msgpack.packb({"s": path, **fields}))
        writer.close()

    write_whole(_file(stem, ".array_record"), write)


def _read_arrayrecord(stem, names):
    from array_record.python.array_record_module import ArrayRecordReader

    reader = ArrayRecordReader(str(_file(stem, ".array_record")), "readahead_buffer_size:0")
    records = [msgpack.unpackb(record) for record in reader.read_all()]
    reader.close()
    names = names or [name for name in records[0] if name != "s"]
    return {name: np.stack([_array(record[name]) for record in records]) for name in names}


def _array(field):
    return np.frombuffer(field["data"], field["dtype"]).reshape(field["shape"])


def _write_parquet(stem, paths, arrays):
    """A column ``path`` and one column of fixed-size lists an array, flattened row by row.

    The shapes of the arrays, without n, stand as JSON in the schema's metadata under ``shapes``.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {"path": pa.array(paths, pa.string())}
    for name, x in arrays.items():
        width = x[0].size
        columns[name] = pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), width)
    shapes = json.dumps({name: x.shape[1:] for name, x in arrays.items()})
    table = pa.table(columns).replace_schema_metadata({"shapes": shapes})
    # Features do not compress.
    write = lambda draft: pq.write_table(table, str(draft), compression="none")  # noqa: E731
    write_whole(_file(stem, ".parquet"), write)


def _read_parquet(stem, names):
    import pyarrow.parquet as pq

    file = str(_file(stem, ".parquet"))
    shapes = json.loads(pq.read_schema(file).metadata[b"shapes"])
    table = pq.read_table(file, columns=list(names or shapes))
    return {
        name: np.concatenate([chunk.flatten().to_numpy() for chunk in table[name].chunks]).reshape(
            len(table), *shapes[name]
        )
        for name in table.column_names
    }


def _file(stem, suffix):
    return stem.with_name(stem.name + suffix)


FORMATS = {
    "npz": Format(_write_npz, _read_npz),
    "npy": Format(_write_npy, _read_npy),
    "arrayrecord": Format(_write_arrayrecord, _read_arrayrecord),
    "parquet": Format(_write_parquet, _read_parquet),
}
