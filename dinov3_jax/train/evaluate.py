"""What the loop asks of the teacher while it trains: k-NN where labels exist, and its health."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from dinov3_jax.augment.normalize import normalize
from dinov3_jax.config import ConfigError, MeshConfig, TrainConfig
from dinov3_jax.data import order
from dinov3_jax.data.crops import resize
from dinov3_jax.data.pipeline import eval_images
from dinov3_jax.data.sources import Source, SourceError, open_kind
from dinov3_jax.distributed.mesh import alone, make_mesh
from dinov3_jax.evals import health
from dinov3_jax.evals.classification import knn
from dinov3_jax.features.batches import in_batches
from dinov3_jax.features.extract import whole_batch
from dinov3_jax.losses.sinkhorn import sinkhorn
from dinov3_jax.models.build import Networks
from dinov3_jax.types import Params

_BATCH = 128  # images a forward, at least
_PATCHES = 2048  # patches, spread over all images, whose rank is taken


class Labelled(NamedTuple):
    images: np.ndarray  # uint8 [n, H, W, 3]
    labels: np.ndarray  # int [n]


class KnnData(NamedTuple):
    bank: Labelled
    queries: Labelled
    classes: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class EvalData:
    """Images that every evaluation of a run looks at."""

    health: np.ndarray  # uint8 [n, H, W, 3]
    knn: KnnData | None  # None without labels


def load_eval_data(config: TrainConfig, source: Source) -> EvalData:
    """Reads the images once, centre crops at the global crop size."""
    settings, size = config.eval, config.crops.global_size
    chosen = _sample(len(source), settings.health_images, config.seed)
    name = config.data.path if config.data.mixture is None else "data.mixture"
    images = _readable(source, chosen, size, name)[0]
    if settings.source == "none":
        return EvalData(images, None)
    opened, picked = [], []
    for path, limit in (
        (settings.bank, settings.bank_size),
        (settings.queries, settings.query_size),
    ):
        opened.append(open_kind(settings.source, path, labels="folders"))
        picked.append(_sample(len(opened[-1]), limit, config.seed))
    if settings.bank == settings.queries:  # one labelled set: every fifth image is a query
        both = _sample(len(opened[0]), settings.bank_size + settings.query_size, config.seed)
        picked = [
            np.delete(both, np.s_[::5])[: settings.bank_size],
            both[::5][: settings.query_size],
        ]
    classes = opened[0].classes
    if classes is None or classes != opened[1].classes:
        raise ConfigError(
            f"eval.bank {settings.bank!r} has the classes {classes}, eval.queries "
            f"{settings.queries!r} {opened[1].classes}; k-NN wants the same class folders in both"
        )
    sets = []
    for labelled, indices in zip(opened, picked):
        pixels, kept = _readable(labelled, indices, size, settings.bank)
        sets.append(Labelled(pixels, labelled.labels[kept]))
    return EvalData(images, KnnData(sets[0], sets[1], classes))


def _readable(source, indices, size, path):
    images, kept = eval_images(source, indices, size=size)
    if not len(images):
        raise SourceError(
            f"none of {len(indices)} images of {path!r} can be read; the log says why for each"
        )
    return images, kept


def _sample(size, limit, seed):
    """``limit`` record indices, spread by the stateless order, the same for the whole run."""
    return np.sort(order.record_index(np.arange(min(size, limit)), size=size, seed=seed))


class Dense(NamedTuple):
    """Host arrays, one row an image, float32."""

    cls: np.ndarray  # [n, D]
    patch_tokens: np.ndarray  # [n, N, D]
    cls_logits: np.ndarray  # [n, K]


class Forward(NamedTuple):
    """The teacher's inference functions of (teacher, images uint8 [n, H, W, 3])."""

    cls: Callable[[Params, np.ndarray], np.ndarray]  # -> [n, D]
    dense: Callable[[Params, np.ndarray], Dense]


def make_forward(config: TrainConfig, networks: Networks, mesh: Mesh) -> Forward:
    """Inference in batches of one size, sharded over ``mesh``.

    All processes call with the same images, and all get all features.
    """

    @jax.jit
    def dense(teacher, images):
        crops = normalize(images, mean=config.crops.mean, std=config.crops.std)
        out = nnx.merge(networks.backbone, teacher["backbone"])(crops)
        logits = nnx.merge(networks.dino_head, teacher["dino_head"])(out.cls)
        return jax.tree.map(lambda x: x.astype(jnp.float32), (out.cls, out.patch_tokens, logits))

    @jax.jit
    def cls(teacher, images):
        return dense(teacher, images)[0]  # the compiler drops the rest

    size = whole_batch(_BATCH, mesh)

    def run(compiled, teacher, images):
        return in_batches(functools.partial(compiled, teacher), images, size=size, mesh=mesh)

    return Forward(
        cls=lambda teacher, images: run(cls, teacher, images),
        dense=lambda teacher, images: Dense(*run(dense, teacher, images)),
    )


def evaluate_teacher(
    forward: Forward,
    teacher: Params,
    data: EvalData,
    config: TrainConfig,
    temperature: float,
    *,
    seen: Dense,
) -> dict[str, float]:
    """One evaluation row: ``health/*`` always, ``eval/knn`` where there are labels.

    ``seen``: what ``forward.dense`` returns for ``data.health``.
    """
    with alone():
        targets = sinkhorn(jnp.asarray(seen.cls_logits), temperature=temperature)
        patches = jnp.asarray(seen.patch_tokens.reshape(-1, seen.patch_tokens.shape[-1]))
        cls, patch_tokens = jnp.asarray(seen.cls), jnp.asarray(seen.patch_tokens)
        row: dict[str, Any] = {
            "health/rankme_cls": health.rankme(cls),
            "health/rankme_patch": health.rankme(patches[:: max(1, len(patches) // _PATCHES)]),
            "health/teacher_entropy": health.assignment_entropy(targets),
            "health/prototypes_used": health.prototypes_used(targets)[0],
            "health/patch_cosine": health.mean_patch_cosine(patch_tokens),
            "health/cls_patch_cosine": health.mean_cls_patch_cosine(cls, patch_tokens),
        }
    if data.knn is not None:
        row["eval/knn"] = _knn(
            data.knn, lambda images: forward.cls(teacher, images), config.eval.neighbours
        )
    return {name: float(value) for name, value in row.items()}


def pixel_floor(data: KnnData, *, neighbours: int) -> float:
    """k-NN on the pixels themselves, pictures above 32 px shrunk to 24 x 24; percent."""

    def flat(images):
        if images.shape[1] > 32:
            images = np.stack([resize(image, 24, 24) for image in images])
        return images.reshape(len(images), -1).astype(np.float32)

    return _knn(data, flat, neighbours)


def _knn(data: KnnData, features, neighbours: int) -> float:
    bank, queries = features(data.bank.images), features(data.queries.images)
    mesh = make_mesh(MeshConfig(-1, 1, 1, 1), jax.local_devices())
    with jax.set_mesh(mesh):
        return knn.accuracy(
            bank,
            data.bank.labels,
            queries,
            data.queries.labels,
            classes=len(data.classes),
            k=neighbours,
            mesh=mesh,
        )
