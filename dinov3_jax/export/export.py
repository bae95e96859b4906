"""Writes a model for another program, then runs what was written against the model."""

import dataclasses
import json
import logging
import pathlib
import shutil
from collections.abc import Callable, Iterator

import jax
import numpy as np

from dinov3_jax.export import onnx, safetensors, savedmodel, stablehlo
from dinov3_jax.export.signature import (
    ExportError,
    Signature,
    check,
    metadata,
    portable,
    program,
)
from dinov3_jax.models.model import Model

_log = logging.getLogger(__name__)

_PROGRAMS = {"stablehlo": stablehlo, "savedmodel": savedmodel, "onnx": onnx}
FORMATS = (*_PROGRAMS, "safetensors")

# Of the output's scale, by compute dtype. float32: sums in another order differ by 1e-7 each, which
# grew to 1.3e-6 through the 12 blocks of a ViT-S; the 40 of a 7B have room. bfloat16: each rounding
# is up to 4e-3, compilers differ in which they spare, and a dozen may add up.
TOLERANCE = {"float32": 5e-5, "bfloat16": 5e-2}


def export(model: Model, out: pathlib.Path, *, to: str, signature: Signature | None) -> float:
    """Writes ``out`` and ``out``.json, which says what it takes and gives (``metadata``).

    ``to`` is one of ``FORMATS``; ``signature`` is None for "safetensors", which holds no program.
    Returns the largest difference between the file's outputs and ``model``'s, relative to the
    largest magnitude of that output; all is computed on the CPU.

    Raises ``ExportError`` for a ``signature`` that the format or the model does not have, a package
    that is missing, ``out`` that exists, and a difference above ``TOLERANCE``. The file has a name
    ending in ``.failed`` until it is found right.
    """
    if out.exists():
        raise ExportError(f"{out} exists: remove it or give another --out")
    model = dataclasses.replace(model, params=jax.device_get(model.params))
    if signature is not None:
        check(signature, model, to=to)
        model = onnx.in_float32(portable(model)) if to == "onnx" else portable(model)
    unchecked = out.with_name(out.name + ".failed")
    _remove(unchecked)
    out.parent.mkdir(parents=True, exist_ok=True)
    # The CPU is the one device on which all formats run, and on which float32 is float32.
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        if signature is None:
            safetensors.write(model, unchecked)
            loaded = dataclasses.replace(model, params=safetensors.load(unchecked, model.params))
            signature = Signature(None, None, "tokens", pixels=False)
            worst = _compare(_runner(loaded, signature), model, signature)
            facts = metadata(model, None)
        else:
            _PROGRAMS[to].write(model, unchecked, signature)
            worst = _compare(_PROGRAMS[to].load(unchecked), model, signature)
            facts = metadata(model, signature)
    tolerance = TOLERANCE[model.config.dtype]
    if not worst <= tolerance:  # also when it is NaN
        raise ExportError(
            f"the {to} file differs from the model by {worst:.1e} of the output's scale, more than "
            f"the {tolerance:.0e} allowed in {model.config.dtype}: do not use it; it is left as "
            f"{unchecked}"
        )
    unchecked.rename(out)
    out.with_name(out.name + ".json").write_text(json.dumps(facts, indent=1) + "\n")
    return worst


def _remove(path):
    """What an export that failed before has left."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _runner(model, signature):
    def run(images):
        outputs = program(model.params, images, model=model, signature=signature)
        return {name: np.asarray(value) for name, value in outputs.items()}

    return run


def _compare(
    run: Callable[[np.ndarray], dict[str, np.ndarray]], model: Model, signature: Signature
) -> float:
    """The largest difference, over all outputs and inputs, relative to the output's scale."""
    worst, reference = [], _runner(model, signature)
    for images in _random_images(model, signature):
        got, wanted = run(images), reference(images)
        if got.keys() != wanted.keys():
            raise ExportError(f"the file gives {sorted(got)}, wanted {sorted(wanted)}")
        for name, value in wanted.items():
            other = np.asarray(got[name])
            if other.shape != value.shape:
                raise ExportError(f"the file gives {name} {other.shape}, wanted {value.shape}")
            difference = float(np.abs(other - value).max() / np.abs(value).max())
            _log.info(
                "%d images of %d x %d, %s: largest difference %.1e of its scale",
                *images.shape[:3],
                name,
                difference,
            )
            worst.append(difference)
    return float(np.max(worst))  # unlike max(), keeps a NaN


def _random_images(model: Model, signature: Signature) -> Iterator[np.ndarray]:
    """Two batch sizes and two image sizes, where the signature leaves them open."""
    rng, stride = np.random.default_rng(0), model.stride
    sizes = [signature.size] if signature.size else [(4 * stride, 6 * stride), (8 * stride,) * 2]
    for batch in (1, 3) if signature.batch is None else (signature.batch,):
        for size in sizes:
            shape = (batch, *size, model.config.in_channels)
            if signature.pixels:
                yield rng.integers(0, 256, shape, dtype=np.uint8)
            else:
                yield rng.standard_normal(shape, dtype=np.float32)
