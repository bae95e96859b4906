"""Published heads from their files: ``load_classifier``, ``load_depth_head``."""

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from dinov3_jax.convert import files, heads
from dinov3_jax.models.depth import DepthHead, head_shapes
from dinov3_jax.models.dpt import CHMV2, SYNTHMIX, DptConfig
from dinov3_jax.types import Params

DEPTH_HEADS = {"dinov3_vit7b16_dd": SYNTHMIX, "dinov3_vitl16_chmv2": CHMV2}


def load_classifier(path: epath.PathLike) -> Params:
    """The linear head of ``dinov3_vit7b16_lc``, or one of any other width, for ``classify``.

    Raises ``ValueError`` naming the tensors of a file that holds anything else.
    """
    return _float32(heads.classifier_from_official(_read(path)))


def load_depth_head(name: str | DptConfig, path: epath.PathLike) -> DepthHead:
    """A head of ``DEPTH_HEADS``, or of a configuration, for ``depth``.

    The file is the official one, or one of transformers with the tensors ``head.*``. Raises
    ``ValueError`` for an unknown name, and naming the tensors of a file that does not fit.
    """
    if isinstance(name, str) and name not in DEPTH_HEADS:
        raise ValueError(f"no depth head {name!r}; wanted one of {', '.join(DEPTH_HEADS)}")
    config = DEPTH_HEADS[name] if isinstance(name, str) else name
    state = heads.dpt_from_transformers(_read(path))
    return DepthHead(config, _float32(heads.dpt_from_official(state, head_shapes(config))))


def _float32(params: Params) -> Params:
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params)


def _read(path: epath.PathLike) -> dict[str, np.ndarray]:
    return {name: np.asarray(tensor) for name, tensor in files.read(path).tensors.items()}
