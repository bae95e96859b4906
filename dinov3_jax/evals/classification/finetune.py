"""Fine-tuning: all weights of a backbone and a linear layer on CLS, trained to classify.

What a backbone is worth as a start, where the other evaluations ask what it knows. There is no
published protocol for DINOv3; the recipe is the usual one of vision transformers: AdamW, lower
rates for lower blocks (layer decay), stochastic depth, smoothed labels, random crops.
"""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P

from dinov3_jax import schedules
from dinov3_jax.augment.normalize import normalize
from dinov3_jax.config import ConfigError, ConvNextConfig, OptimConfig, ScheduleConfig
from dinov3_jax.data.benchmarks.classification import open_classification
from dinov3_jax.distributed import sharding
from dinov3_jax.distributed.mesh import batch_shards
from dinov3_jax.evals.classification import inputs, metrics, probe
from dinov3_jax.evals.classification.features import check_crop
from dinov3_jax.evals.classification.pictures import mistakes
from dinov3_jax.evals.evaluation import Result
from dinov3_jax.models.model import Model, train_features
from dinov3_jax.train import optimizer


@dataclasses.dataclass(frozen=True)
class FinetuneSettings:
    data: str  # see data/benchmarks/classification.py
    epochs: int = 20
    batch: int = 256  # images a step, a multiple of group x devices
    lr: float = 5e-5  # of the last norm; block i of Z has layer_decay ** (Z - i) of it
    head_lr: float = 1e-3
    layer_decay: float = 0.75
    weight_decay: float = 0.05  # of matrices and tokens
    warmup: float = 0.1  # share of the steps in which the rates rise, from 0; then a cosine to 0
    drop_path: float = 0.1  # share of the images that a branch leaves out; 0 for a ConvNeXt
    group: int = 8  # neighbouring images among which that share is exact
    label_smoothing: float = 0.1
    resize: int = 256  # pixels of the short side, in tests
    crop: int = 224  # pixels, a multiple of the model's stride
    seed: int = 0


def evaluate(model: Model, settings: FinetuneSettings, mesh: Mesh) -> Result:
    """Metrics: ``top1`` and, of more than 5 classes, ``top5`` of the test split after the last
    step; ``val_top1`` if there is a validation split. ``model`` itself stays as it is."""
    _check(model, settings, mesh)
    data = open_classification(settings.data)
    tuned, head = train(model, settings, data.train, len(data.classes), mesh)
    see = inputs.see(tuned, mesh, 1)
    (span,) = inputs.spans(tuned, (1,), (False,)).values()

    def scores(split):
        how = {"resize": settings.resize, "crop": settings.crop}
        rows = inputs.split_inputs(see, split, mesh, **how)
        return np.asarray(probe.logits(jnp.asarray(rows), span, head))

    found = scores(data.test)
    row = {"top1": metrics.accuracy(found, data.test.labels)}
    if len(data.classes) > 5:
        row["top5"] = metrics.accuracy(found, data.test.labels, k=5)
    if data.val is not None:
        row["val_top1"] = metrics.accuracy(scores(data.val), data.val.labels)
    return Result(row, mistakes(found, data.test.labels, data.classes, data.test.image))


def train(
    model: Model, settings: FinetuneSettings, split, classes: int, mesh: Mesh
) -> tuple[Model, probe.Linear]:
    """The model with its new weights, and the classifier [D, K] of its CLS."""
    config = model.config
    if not isinstance(config, ConvNextConfig):
        config = dataclasses.replace(
            config,
            drop_path=settings.drop_path,
            rope_shift=None,  # augmentations of pretraining
            rope_jitter=None,
            rope_rescale=None,
        )
    steps = settings.epochs * -(-len(split) // settings.batch)
    rates = _rates(settings, steps)
    kernel = 0.01 * jax.random.normal(
        jax.random.key(settings.seed), (model.config.embed_dim, classes)
    )
    head = {"kernel": kernel, "bias": jnp.zeros((classes,))}
    specs = {
        "backbone": sharding.param_specs(model.params, mesh),
        "head": {"kernel": P(), "bias": P()},
    }
    # A copy: the step gives its arguments away, and the model is the caller's.
    params = {"backbone": jax.tree.map(jnp.copy, model.params), "head": head}
    places = sharding.named(specs, mesh)
    params = jax.device_put(params, places)
    batches = inputs.random_crops(
        split, crop=settings.crop, batch=settings.batch, seed=settings.seed
    )
    step = _make_step(model, config, settings, rates, steps, places)
    with jax.set_mesh(mesh):
        state = params, optimizer.init(params, rates)
        key = jax.device_put(jax.random.key(settings.seed), NamedSharding(mesh, P()))
        for i, (images, labels) in enumerate(itertools.islice(batches, steps)):
            placed = jax.device_put((images, labels), sharding.batch_sharding(mesh))
            state = step(state, *placed, key, np.int32(i))
    params = state[0]
    tuned = dataclasses.replace(model, params=params["backbone"])
    return tuned, probe.Linear(params["head"]["kernel"], params["head"]["bias"])


def _make_step(model, config, settings, rates, steps, places):
    @functools.partial(jax.jit, donate_argnums=0, out_shardings=(places, None))
    def step(state, images, labels, key, i):
        params, moments = state
        keys = jax.random.split(jax.random.fold_in(key, i), len(images) // settings.group)

        def loss(params):
            crops = normalize(images, mean=model.mean, std=model.std)
            cls = train_features(config, params["backbone"], crops, keys).cls
            scores = cls.astype(jnp.float32) @ params["head"]["kernel"] + params["head"]["bias"]
            targets = jax.nn.one_hot(labels, scores.shape[-1])
            targets = optax.smooth_labels(targets, settings.label_smoothing)
            return optax.softmax_cross_entropy(scores, targets).mean()

        share = schedules.value(rates.lr, i, steps=steps)  # 0 to 1
        return optimizer.update(
            jax.grad(loss)(params),
            moments,
            params,
            config=rates,
            lr=share * settings.head_lr,
            backbone_lr=share * settings.lr,
            last_layer_lr=jnp.float32(0),  # no prototypes here
            weight_decay=jnp.float32(settings.weight_decay),
        )

    return step


def _rates(settings, steps):
    """The optimizer of pretraining: warm-up and cosine from 0 to 1 to 0, times a rate."""
    warmup = min(round(settings.warmup * steps), steps - 1)
    schedule = functools.partial(ScheduleConfig, family="v2", cosine=None, truncation=0.0)
    return OptimConfig(
        lr=schedule(start=0.0, peak=1.0, end=0.0, warmup=warmup),
        lr_scaling="none",
        weight_decay=schedule(start=0.0, peak=1.0, end=1.0, warmup=0),
        beta1=0.9,
        beta2=0.999,
        clip=None,
        layer_decay=settings.layer_decay,
        patch_embed_lr=1.0,
        freeze_last_layer=0,
        freeze_backbone=0,
        reduce_dtype="float32",
    )


def _check(model, settings, mesh):
    check_crop(model, resize=settings.resize, crop=settings.crop)
    if settings.epochs < 1 or settings.group < 1:
        raise ConfigError(
            f"epochs is {settings.epochs}, group {settings.group}; wanted at least 1 of both"
        )
    unit = settings.group * batch_shards(mesh)
    if settings.batch < 1 or settings.batch % unit:
        above = max(-(-settings.batch // unit), 1) * unit
        raise ConfigError(
            f"batch is {settings.batch}, wanted a multiple of {unit}: group {settings.group} x "
            f"{batch_shards(mesh)} devices; take {above}, or another group"
        )
    if isinstance(model.config, ConvNextConfig) and settings.drop_path:
        raise ConfigError(
            f"drop_path is {settings.drop_path}, but {model.name} is a ConvNeXt, which has no "
            "stochastic depth; set it to 0.0"
        )
