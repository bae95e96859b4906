"""Files of tensors: safetensors, PyTorch's .pth and .bin; read tensor by tensor.

A safetensors file is 8 bytes (length of the header, little-endian), a JSON header {name: {dtype,
shape, data_offsets}}, the data. It is read here and not by the library ``safetensors``, whose numpy
side knows no bfloat16 and maps the whole file into memory beside the copy.
"""

import dataclasses
import functools
import hashlib
import json
import math
import os
import pathlib
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from dinov3_jax.convert.official import WeightsError
from dinov3_jax.convert.released import CATALOGUE

_DTYPES = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}  # exact in float32
_TORCH = ("float32", "float16", "bfloat16")
_OFFICIAL_NAME = re.compile(r"dinov3_\w+-([0-9a-f]{8})\.pth")
# What a folder may hold, the best first.
_IN_FOLDER = ("model.safetensors.index.json", "model.safetensors", "pytorch_model.bin")


@dataclasses.dataclass(frozen=True)
class Stored:
    """A tensor in a file: ``np.asarray`` reads it, as float32."""

    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]

    def __array__(self, dtype=None, copy=None):
        return self.read()


class Contents(NamedTuple):
    tensors: dict[str, Any]  # name -> Stored
    metadata: dict[str, str]  # of a safetensors file


def read(path: str | os.PathLike) -> Contents:
    """The tensors of a file, or of a folder as transformers and timm write it; none is read yet.

    Raises ``WeightsError`` for a file that is missing, truncated, damaged, of another kind or type,
    and for an official file whose content has another digest than its name.
    """
    path = pathlib.Path(path)
    if path.is_dir():
        found = [path / name for name in _IN_FOLDER if (path / name).exists()]
        if not found:
            raise WeightsError(f"{path} has none of {', '.join(_IN_FOLDER)}; name the file itself")
        path = found[0]
    if not path.exists():
        raise WeightsError(f"there is no file {path}")
    if path.name.endswith(".index.json"):
        return _read_shards(path)
    if path.suffix == ".safetensors":
        return read_safetensors(path)
    if path.suffix in (".pth", ".pt", ".bin"):
        _check_digest(path)
        return Contents(_read_torch(path), {})
    raise WeightsError(
        f"{path} is no file of weights that is known; wanted .safetensors, .pth, .pt, .bin or a "
        "folder with one"
    )


def write(path: pathlib.Path, tensors: Mapping[str, np.ndarray], metadata: dict[str, str]) -> None:
    """Float32 tensors into a .safetensors file with ``metadata``, or a .pth file, which has none.

    Whole or not at all. Raises ``WeightsError`` if there is something at ``path``.
    """
    if path.exists():
        raise WeightsError(f"{path} is there already; choose another name or remove it")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    if path.suffix == ".pth":
        torch = _torch(f"writing {path.name}", "give a name that ends in .safetensors")
        torch.save({k: torch.tensor(np.asarray(v)) for k, v in tensors.items()}, partial)
    elif path.suffix == ".safetensors":
        write_safetensors(partial, tensors, metadata)
    else:
        raise WeightsError(f"{path} must end in .safetensors or .pth")
    partial.rename(path)


def read_safetensors(path):
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > size - 8:
            raise WeightsError(_broken(path, f"{size} bytes, its header alone has {length}"))
        try:
            header = json.loads(file.read(length))
        except ValueError as error:
            raise WeightsError(_broken(path, f"its header is no JSON: {error}")) from error
    metadata, tensors = header.pop("__metadata__", {}), {}
    for name, entry in header.items():
        if entry["dtype"] not in _DTYPES:
            raise WeightsError(
                f"{path}: {name} is of type {entry['dtype']}, wanted {', '.join(_DTYPES)}"
            )
        dtype, shape = np.dtype(_DTYPES[entry["dtype"]]), tuple(entry["shape"])
        start, end = (8 + length + offset for offset in entry["data_offsets"])
        if end > size or end - start != math.prod(shape) * dtype.itemsize:
            raise WeightsError(
                _broken(path, f"{size} bytes, {name} {list(shape)} is at bytes {start} to {end}")
            )
        tensors[name] = Stored(shape, functools.partial(_slice, path, start, dtype, shape))
    return Contents(tensors, metadata)


def _slice(path, start, dtype, shape):
    flat = np.fromfile(path, dtype, math.prod(shape), offset=start)
    return flat.reshape(shape).astype(np.float32, copy=False)


def _read_shards(index):
    names = json.loads(index.read_text())["weight_map"]
    shards = {file: read(index.parent / file).tensors for file in sorted(set(names.values()))}
    missing = [name for name, file in names.items() if name not in shards[file]]
    if missing:
        raise WeightsError(f"{index} names {missing[0]}, which {names[missing[0]]} lacks")
    return Contents({name: shards[file][name] for name, file in names.items()}, {})


def _read_torch(path):
    torch = _torch(f"reading {path.name}", "take a .safetensors file of these weights")
    try:
        # weights_only: nothing that the file says is executed.
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # of a damaged file PyTorch raises almost any type
        raise WeightsError(_broken(path, str(error).splitlines()[0])) from error
    for key in ("teacher", "model", "state_dict"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        inside = sorted(state)[:6] if isinstance(state, dict) else type(state).__name__
        raise WeightsError(
            f"{path} holds {inside}; wanted tensors by name, or {{'teacher': those}}"
        )
    return {name: _stored(torch, path, name, tensor) for name, tensor in state.items()}


def _stored(torch, path, name, tensor):
    kind = str(tensor.dtype).removeprefix("torch.")
    if kind not in _TORCH and not name.endswith("bias_mask"):
        raise WeightsError(f"{path}: {name} is of type {kind}, wanted {', '.join(_TORCH)}")
    read = lambda: tensor.detach().to(torch.float32).numpy()  # noqa: E731
    return Stored(tuple(tensor.shape), read)


def write_safetensors(path, tensors, metadata):
    header: dict[str, Any] = {"__metadata__": metadata}
    offset = 0
    for name, tensor in tensors.items():
        end = offset + 4 * math.prod(tensor.shape)
        shape = list(tensor.shape)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # the data begin on a border of 8 bytes
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors.values():
            file.write(np.ascontiguousarray(tensor, np.float32).data)


def digest_in_name(name: str) -> str | None:
    """With which characters the sha256 of an official file begins; None for names of others."""
    match = _OFFICIAL_NAME.fullmatch(name)
    return match and match[1]


def _check_digest(path):
    wanted = digest_in_name(path.name)
    if wanted is None:
        return
    with path.open("rb") as file:
        got = hashlib.file_digest(file, "sha256").hexdigest()[:8]
    if got != wanted:
        known = {row.digest: row.official_file for row in CATALOGUE.values()}
        other = f"; it is {known[got]}" if got in known else ""
        raise WeightsError(
            f"{path} has the sha256 {got}..., its name says {wanted}{other}. It was cut off or "
            "changed: download it again; if you changed it yourself, give it another name"
        )


def _torch(purpose, instead):
    try:
        import torch
    except ImportError as error:
        raise WeightsError(f"{purpose} needs PyTorch: pip install torch; or {instead}") from error
    return torch


def _broken(path, reason):
    return f"{path} is cut off or damaged ({reason}); download or copy it again"
