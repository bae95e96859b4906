"""``dinov3_jax.load``: a backbone from a name, a file, a folder or a run."""

import dataclasses
import json
import logging
import os
import pathlib

import jax
import numpy as np

from dinov3_jax import checkpoint
from dinov3_jax.config import CompleteVitConfig, VitConfig
from dinov3_jax.convert import files, fit, huggingface, names, released
from dinov3_jax.convert.hub import download
from dinov3_jax.convert.official import WeightsError, from_official
from dinov3_jax.convert.released import Description
from dinov3_jax.models import presets
from dinov3_jax.models.model import WEB, Model, abstract_params, frozen
from dinov3_jax.recipe import from_config_dict

_log = logging.getLogger(__name__)


def load(
    name: str | os.PathLike,
    weights: str | os.PathLike | None = None,
    *,
    rope_periods: str = "exact",
    dtype: str = "float32",
    item: str = "teacher",
) -> Model:
    """A backbone with its weights; nothing is guessed, every tensor is used or named in the log.

    ``name``: one of ``list_models()``, a Hugging Face repository, or a path that says itself what
    it holds: a run (WORKDIR or WORKDIR/checkpoints/STEP), a folder with transformers' config.json,
    a file that we wrote, or one whose tensors fit one released model only.
    ``weights``: the file, folder or run, where ``name`` is no path; without it they are downloaded
    from Hugging Face. With ``name`` a path, its description is taken and these tensors.
    ``rope_periods``: "exact" float32 ones | "stored": those in the file, which training may have
    rounded to bfloat16 | "kept": the stored ones where there are any, else exact.
    ``dtype``: "float32" | "bfloat16", in which it computes; parameters are float32.
    ``item``: of a run, "teacher" | "student" | "gram_teacher".
    Raises ``WeightsError`` in sentences: an unknown name, a file of another model, tensors that are
    missing or left over, a file cut off, weights that cannot be downloaded.
    """
    for option, value, allowed in (
        ("rope_periods", rope_periods, ("exact", "stored", "kept")),
        ("dtype", dtype, ("float32", "bfloat16")),
        ("item", item, ("teacher", "student", "gram_teacher")),
    ):
        if value not in allowed:
            raise WeightsError(f"{option} is {value!r}, wanted one of {', '.join(allowed)}")
    row, place = _find(str(name), weights)
    if row is not None:
        asked = released.describe(row)
    else:
        asked = None if weights is None else _own_description(pathlib.Path(name))
    if _is_run(place):
        model = _of_run(place, item, asked)
    else:
        model = _of_files(place, row, asked, rope_periods)
    return dataclasses.replace(model, config=frozen(model.config, dtype=dtype))


def _find(name, weights):
    """(row of the catalogue or None, path of the weights)."""
    path = pathlib.Path(name)
    row = None if path.exists() else released.find(name)
    if weights is not None:
        weights = pathlib.Path(weights)
        if not weights.exists():
            raise WeightsError(f"there is no file or folder {weights}")
    if row is None and not path.exists() and name.count("/") != 1:
        raise WeightsError(
            f"{name!r} is no model and no path; did you mean {released.nearest(name)!r}? "
            f"The models are {', '.join(released.list_models())}"
        )
    if weights is not None:
        return row, weights
    return (row, path) if path.exists() else (row, download(name, row))


def _of_files(place, row, asked, rope_periods):
    head = released.HEADS.get(files.digest_in_name(place.name) or "")
    if head is not None:
        raise WeightsError(f"{place.name} is {head}, no backbone")
    contents = files.read(place)
    form, (state, dropped) = names.from_foreign(contents.tensors)
    own = _own_description(place, contents.metadata)
    described = fit.agree(place, state, form, row, asked, own)
    state, config, notes = fit.complete(state, described.config, form)
    if isinstance(config, CompleteVitConfig):
        stored = fit.stored_periods(state, own)
        periods = None
        if rope_periods != "exact" and stored is not None:
            periods = tuple(float(x) for x in stored)
        elif rope_periods == "stored":
            raise WeightsError(
                f"{place} stores no RoPE periods; take rope_periods='exact', or the official file"
            )
        elif stored is not None:
            notes += fit.check_periods(stored, config)
        config = dataclasses.replace(config, rope_periods=periods)
        fit.check_bias_masks(state)
    params = jax.tree.map(jax.device_put, from_official(state, abstract_params(config)))
    total, why = len(contents.tensors), sorted(set(dropped.values()))
    _log.info(
        "%s: %d of %d tensors used (%s names)%s%s",
        described.name,
        total - len(dropped),
        total,
        form,
        f"; {len(dropped)} left out: {', '.join(why)}" if dropped else "",
        "".join(f"; {note}" for note in notes),
    )
    return Model(described.name, config, params, described.mean, described.std)


def _own_description(path: pathlib.Path, metadata: dict[str, str] | None = None):
    """What a file or folder says of itself; None if it says nothing."""
    if metadata is None and path.is_file() and path.suffix == ".safetensors":
        metadata = files.read(path).metadata
    if metadata and "dinov3_jax" in metadata:
        return released.from_json(metadata["dinov3_jax"])
    if _is_run(path):
        return _description_of_run(_workdir(path)[0])
    folder = path if path.is_dir() else path.parent
    saved = folder / "config.json"
    theirs = json.loads(saved.read_text()) if saved.exists() else {}
    if "model_type" not in theirs:
        return None
    statistics, processor = WEB, folder / "preprocessor_config.json"
    if processor.exists():
        saved = json.loads(processor.read_text())
        statistics = (tuple(saved["image_mean"]), tuple(saved["image_std"]))
    config = huggingface.from_config(theirs)
    return Description(folder.absolute().name, config, *statistics)


def _is_run(path):
    return (_workdir(path)[0] / "checkpoints").is_dir()


def _workdir(path):
    """(workdir, step or None) of WORKDIR or WORKDIR/checkpoints/STEP."""
    if path.name.isdigit() and path.absolute().parent.name == "checkpoints":
        return path.absolute().parents[1], int(path.name)
    return path, None


def _description_of_run(workdir):
    path = workdir / "config.json"
    if not path.exists():
        raise WeightsError(f"{workdir} has checkpoints but no config.json; it is no whole workdir")
    saved = json.loads(path.read_text())
    if "model" in saved:  # weights that were converted
        return released.from_json(json.dumps(saved["model"]))
    recipe = saved["config"]
    config = presets.complete(from_config_dict(recipe["student"], VitConfig))
    crops = recipe["crops"]
    return Description(recipe["name"], config, tuple(crops["mean"]), tuple(crops["std"]))


def _of_run(path, item, asked):
    workdir, step = _workdir(path)
    steps = checkpoint.complete_steps(workdir)
    if not steps or (step is not None and step not in steps):
        raise WeightsError(f"{workdir} has the checkpoints {steps}, wanted {step or 'one'}")
    step = steps[-1] if step is None else step
    described = _description_of_run(workdir)
    if asked is not None:
        fit.check_settings(path, described, asked)
        if fit.sizes(described.config) != fit.sizes(asked.config):
            raise WeightsError(f"{path} holds {described.name}, whose sizes are not {asked.name}'s")
    home = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    like = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, np.float32, sharding=home),
        abstract_params(described.config),
    )
    # Of the Gram teacher there is the backbone alone.
    if item == "gram_teacher":
        params = checkpoint.load(workdir, step, item, like)
    else:
        params = checkpoint.load(workdir, step, item, {"backbone": like})["backbone"]
    _log.info("%s: backbone of the %s at step %d", described.name, item, step)
    return Model(described.name, described.config, params, described.mean, described.std)
