"""Whether a file's tensors are those of the model that was asked for."""

import dataclasses
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from dinov3_jax.config import CompleteVitConfig, ConvNextConfig
from dinov3_jax.convert.official import BUFFERS, WeightsError
from dinov3_jax.convert.released import (
    CATALOGUE,
    Description,
    Released,
    describe,
    official_shapes,
)
from dinov3_jax.models.vit import rope_periods

# Settings that no tensor's shape shows.
_INVISIBLE = ("num_heads", "norm", "norm_eps", "mask_k_bias", "rope_base", "rope_min_period",
              "rope_max_period", "rope_normalize")  # fmt: skip
# Official tensors that some formats do not store.
_OPTIONAL = r"mask_token|local_cls_norm\.\w+|norms\.3\.\w+|blocks\.\d+\.attn\.qkv\.bias"
_ROUNDING = 4e-3  # relative: bfloat16 keeps 8 bits of a period, half a unit of the last is 2e-3


def sizes(config: CompleteVitConfig | ConvNextConfig) -> dict[str, tuple[int, ...]]:
    """Shapes by official name, of what all formats store."""
    shapes = official_shapes(config)
    return {k: v for k, v in shapes.items() if not re.fullmatch(_OPTIONAL, k)}


def agree(
    place: pathlib.Path,
    state: Mapping[str, Any],
    form: str,
    row: Released | None,
    asked: Description | None,
    own: Description | None,
) -> Description:
    """The model in ``place``: what was asked for if it is that, else what the file says or shows.

    ``state`` has official names, ``form`` is where they come from. Raises
    ``WeightsError`` for a file of another model, naming both.
    """
    said = next((row.dataset for row in CATALOGUE.values() if row.dataset in str(place)), None)
    if asked is None and own is not None:
        return own
    candidates = _fitting(state, said, form)
    if asked is None:
        if len(candidates) == 1:
            return candidates[0]
        if not candidates:
            raise WeightsError(
                f"the tensors of {place} fit no released model, and it has no description; give "
                "load(WORKDIR or folder with config.json, weights=FILE)"
            )
        found = " and ".join(d.name for d in candidates)
        raise WeightsError(f"{place} fits {found}: say which with load(NAME, weights=PATH)")
    if not _fits(state, asked.config, form) or (
        row is not None and said not in (None, row.dataset)
    ):
        if candidates:
            other = candidates[0].name
            raise WeightsError(
                f"{place} holds {other}, not {asked.name}: load({other!r}, weights=...)"
            )
    elif own is not None:
        check_settings(place, own, asked)
    return asked


def check_settings(place: pathlib.Path, own: Description, asked: Description) -> None:
    """Raises ``WeightsError`` if what no shape shows differs: heads, epsilon, pixels ..."""
    pairs = [(k, getattr(own.config, k, None), getattr(asked.config, k, None)) for k in _INVISIBLE]
    pairs += [("mean", own.mean, asked.mean), ("std", own.std, asked.std)]
    wrong = [f"{key} {there!r}, not {here!r}" for key, there, here in pairs if there != here]
    if wrong:
        raise WeightsError(
            f"{place} says of itself that it has {'; '.join(wrong)}: it is no {asked.name}"
        )


def complete(
    state: dict[str, Any], config: CompleteVitConfig | ConvNextConfig, form: str
) -> tuple[dict[str, Any], CompleteVitConfig | ConvNextConfig, list[str]]:
    """(``state`` with what ``form`` never stores, the configuration, notes on what was absent)."""
    notes = []
    if isinstance(config, ConvNextConfig) or form == "official":
        return state, config, notes
    state, dim = dict(state), config.embed_dim
    if "mask_token" not in state:
        state["mask_token"] = np.zeros((1, dim), np.float32)
        notes.append("mask_token is absent: zeros (training only)")
    if config.untie_global_and_local_cls_norm and "local_cls_norm.weight" not in state:
        config = dataclasses.replace(config, untie_global_and_local_cls_norm=False)
        notes.append("local_cls_norm is absent: the model goes without (training only)")
    if form == "timm" and config.qkv_bias and "blocks.0.attn.qkv.bias" not in state:
        for i in range(config.depth):
            state[f"blocks.{i}.attn.qkv.bias"] = np.zeros(3 * dim, np.float32)
        notes.append("biases of q and v are absent: zeros, as timm's name without _qkvb says")
    return state, config, notes


def stored_periods(state: Mapping[str, Any], own: Description | None) -> np.ndarray | None:
    """The RoPE periods that a file brings, [C/4]; None without."""
    if "rope_embed.periods" in state:
        return np.asarray(state["rope_embed.periods"])
    periods = getattr(own.config, "rope_periods", None) if own else None
    return None if periods is None else np.asarray(periods, np.float32)


def check_periods(stored: np.ndarray, config: CompleteVitConfig) -> list[str]:
    """A note if they are the exact ones but for rounding; else ``WeightsError``."""
    exact = np.asarray(rope_periods(dataclasses.replace(config, rope_periods=None)))
    if stored.shape != exact.shape:
        raise WeightsError(
            f"the file has {stored.size} RoPE periods, {config.num_heads} heads of width "
            f"{4 * exact.size} have {exact.size}; it is of a model with other heads"
        )
    off = float(np.abs(stored / exact - 1.0).max())
    if not off <= _ROUNDING:
        raise WeightsError(
            f"the file's RoPE periods are up to {off:.1%} from those of the configuration; take "
            "rope_periods='stored' if that is meant"
        )
    return [f"stored RoPE periods replaced by exact ones, up to {off:.2%} apart"] if off else []


def check_bias_masks(state: Mapping[str, Any]) -> None:
    """Raises ``WeightsError`` unless every k bias, and nothing else, is masked."""
    for name in state:
        if name.endswith("attn.qkv.bias_mask"):
            q, k, v = np.split(np.asarray(state[name]), 3)
            if not ((q == 1).all() and (k == 0).all() and (v == 1).all()):
                raise WeightsError(f"{name} masks something else than the bias of k")


def _fitting(state, dataset, form):
    """Released models with the shapes of ``state``, of ``dataset`` unless that is None."""
    rows = [row for row in CATALOGUE.values() if dataset in (None, row.dataset)]
    return [d for d in map(describe, rows) if _fits(state, d.config, form)]


def _fits(state, config, form):
    wanted = official_shapes(config)
    got = {k: tuple(v.shape) for k, v in state.items() if not re.search(BUFFERS, k)}
    least = wanted if form == "official" else sizes(config)
    least = {k: v for k, v in least.items() if not k.startswith("norms.")}
    return least.items() <= got.items() and got.items() <= wanted.items()
