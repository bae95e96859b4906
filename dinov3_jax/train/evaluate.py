"""What the loop asks of the teacher while it trains: k-NN where labels exist, and its health."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from dinov3_jax.augment.normalize import normalize
from dinov3_jax.config import ConfigError, TrainConfig
from dinov3_jax.data import order
from dinov3_jax.data.crops import resize
from dinov3_jax.data.pipeline import eval_images
from dinov3_jax.data.sources import Source, open_source
from dinov3_jax.distributed.mesh import global_batch
from dinov3_jax.evals import health
from dinov3_jax.evals.knn import knn_accuracy
from dinov3_jax.losses.sinkhorn import sinkhorn
from dinov3_jax.models.build import Networks
from dinov3_jax.types import Params

_BATCH = 128  # images a forward
_PATCHES = 2048  # patches, spread over all images, whose rank is taken


class Labelled(NamedTuple):
    images: np.ndarray  # uint8 [n, H, W, 3]
    labels: np.ndarray  # int [n]


@dataclasses.dataclass(frozen=True)
class EvalData:
    """Images that every evaluation of a run looks at; bank and queries None without labels."""

    health: np.ndarray  # uint8 [n, H, W, 3]
    bank: Labelled | None
    queries: Labelled | None
    classes: tuple[str, ...] | None


def load_eval_data(config: TrainConfig, source: Source) -> EvalData:
    """Reads the images once, centre crops at the global crop size."""
    settings, size = config.eval, config.crops.global_size
    chosen = _sample(len(source), settings.health_images, config.seed)
    images, _ = eval_images(source, chosen, size=size)
    if settings.source == "none":
        return EvalData(images, None, None, None)
    opened, picked = [], []
    for path, limit in (
        (settings.bank, settings.bank_size),
        (settings.queries, settings.query_size),
    ):
        data = dataclasses.replace(config.data, source=settings.source, path=path, labels="folders")
        opened.append(open_source(data))
        picked.append(_sample(len(opened[-1]), limit, config.seed))
    if settings.bank == settings.queries:  # one labelled set: every fifth image is a query
        both = _sample(len(opened[0]), settings.bank_size + settings.query_size, config.seed)
        picked = [
            np.delete(both, np.s_[::5])[: settings.bank_size],
            both[::5][: settings.query_size],
        ]
    if opened[0].classes is None or opened[0].classes != opened[1].classes:
        raise ConfigError(
            f"eval.bank {settings.bank!r} has the classes {opened[0].classes}, eval.queries "
            f"{settings.queries!r} {opened[1].classes}; k-NN wants the same class folders in both"
        )
    sets = []
    for labelled, indices in zip(opened, picked):
        pixels, kept = eval_images(labelled, indices, size=size)
        sets.append(Labelled(pixels, labelled.labels[kept]))
    return EvalData(images, *sets, opened[0].classes)


def _sample(size, limit, seed):
    """``limit`` record indices, spread by the stateless order, the same for the whole run."""
    return np.sort(order.record_index(np.arange(min(size, limit)), size=size, seed=seed))


class Forward(NamedTuple):
    """Host arrays, one row an image."""

    cls: np.ndarray  # [n, D]
    patch_tokens: np.ndarray | None  # [n, N, D]
    cls_logits: np.ndarray | None  # [n, K]


def make_forward(config: TrainConfig, networks: Networks, mesh: Mesh):
    """Returns forward(teacher, images uint8 [n, H, W, 3], *, dense) -> ``Forward``."""

    def features(teacher: Params, images: jax.Array, dense: bool):
        crops = normalize(images, mean=config.crops.mean, std=config.crops.std)
        out = nnx.merge(networks.backbone, teacher["backbone"])(crops)
        if not dense:
            return out.cls.astype(jnp.float32), None, None
        logits = nnx.merge(networks.dino_head, teacher["dino_head"])(out.cls)
        return jax.tree.map(lambda x: x.astype(jnp.float32), (out.cls, out.patch_tokens, logits))

    compiled = jax.jit(features, static_argnums=2)

    def forward(teacher: Params, images: np.ndarray, *, dense: bool = False) -> Forward:
        parts = []
        for start in range(0, max(len(images), 1), _BATCH):  # once even for no image: for shapes
            chunk = images[start : start + _BATCH]
            padded = np.zeros((_BATCH, *images.shape[1:]), images.dtype)
            padded[: len(chunk)] = chunk
            out = compiled(teacher, global_batch({"images": padded}, mesh)["images"], dense)
            parts.append(tuple(None if x is None else np.asarray(x)[: len(chunk)] for x in out))
        columns = zip(*parts)
        return Forward(*(None if c[0] is None else np.concatenate(c) for c in columns))

    return forward


def evaluate_teacher(
    forward, teacher: Params, data: EvalData, config: TrainConfig, temperature: float
) -> dict[str, float]:
    """One evaluation row: ``health/*`` always, ``eval/knn`` where there are labels."""
    seen = forward(teacher, data.health, dense=True)
    targets = sinkhorn(jnp.asarray(seen.cls_logits), temperature=temperature)
    patches = seen.patch_tokens.reshape(-1, seen.patch_tokens.shape[-1])
    row = {
        "health/rankme_cls": health.rankme(seen.cls),
        "health/rankme_patch": health.rankme(patches[:: max(1, len(patches) // _PATCHES)]),
        "health/teacher_entropy": health.assignment_entropy(targets),
        "health/prototypes_used": health.prototypes_used(targets)[0],
        "health/patch_cosine": health.mean_patch_cosine(seen.patch_tokens),
        "health/cls_patch_cosine": health.mean_cls_patch_cosine(seen.cls, seen.patch_tokens),
    }
    if data.bank is not None:
        row["eval/knn"] = knn_accuracy(
            forward(teacher, data.bank.images).cls,
            data.bank.labels,
            forward(teacher, data.queries.images).cls,
            data.queries.labels,
            classes=len(data.classes),
            k=config.eval.neighbours,
        )
    return {name: float(value) for name, value in row.items()}


def pixel_floor(data: EvalData, *, neighbours: int) -> float | None:
    """k-NN on the pixels themselves, pictures above 32 px shrunk to 24 x 24; percent."""
    if data.bank is None:
        return None

    def flat(images):
        if images.shape[1] > 32:
            images = np.stack([resize(image, 24, 24) for image in images])
        return images.reshape(len(images), -1).astype(np.float32)

    return knn_accuracy(
        flat(data.bank.images),
        data.bank.labels,
        flat(data.queries.images),
        data.queries.labels,
        classes=len(data.classes),
        k=neighbours,
    )
