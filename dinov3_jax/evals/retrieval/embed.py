"""Images to global descriptors: CLS, at one scale or several, with GeM of the patches if asked."""

import collections
from collections.abc import Callable, Sequence

import numpy as np
from jax.sharding import Mesh

from dinov3_jax.config import ConfigError
from dinov3_jax.data.bicubic import resize
from dinov3_jax.data.in_order import in_order
from dinov3_jax.features.extract import extractor, whole_batch
from dinov3_jax.models.model import Model


def embedder(
    model: Model,
    mesh: Mesh,
    *,
    scales: Sequence[float] = (1.0,),
    gem: float | None = None,
    batch: int = 64,
) -> Callable[[Callable[[int], np.ndarray], int], np.ndarray]:
    """A function (read, count) -> descriptors float32 [count, D] of ``read(0)`` .. ``read(count -
    1)``; each shape of images is compiled once, for all its calls.

    The CLS token after the final norm; with ``gem`` followed by the generalised mean of the patch
    tokens with that power, [count, 2 D]. Over several ``scales`` the mean is taken. Lengths are as
    they come: cosine and whitening do not need them.

    ``read`` gives uint8 [H, W, 3] of any size on the patch grid and is called by threads; images of
    one shape share batches. A scale other than 1 brings each side to the nearest multiple of
    ``model.stride``. Raises ``ConfigError`` for scales that are not above 0.
    """
    if not scales or min(scales) <= 0:
        raise ConfigError(f"scales are {scales}, wanted at least one, each above 0")
    extract = extractor(model, mesh, tokens="cls" if gem is None else "cls+patch", batch=batch)
    size = whole_batch(batch, mesh)

    def descriptors(images):
        made = [_descriptors(extract(_scaled(images, s, model.stride)), gem) for s in scales]
        return np.mean(made, axis=0)

    def embed(read, count):
        rows, waiting = {}, collections.defaultdict(list)

        def compute(shape):
            numbers, images = zip(*waiting.pop(shape))
            rows.update(zip(numbers, descriptors(images)))

        for number, image in enumerate(in_order(read, range(count), ahead=2 * size)):
            waiting[image.shape].append((number, image))
            if len(waiting[image.shape]) == size:
                compute(image.shape)
        for shape in list(waiting):
            compute(shape)
        return np.stack([rows[number] for number in range(count)])

    return embed


def gem_pool(patch_tokens: np.ndarray, power: float) -> np.ndarray:
    """Generalised mean over the patches, (mean x^p)^(1/p) with x at least 1e-6: [n, h, w, D] ->
    float32 [n, D]. Source: Radenovic et al., arXiv 1711.02512."""
    x = np.maximum(np.asarray(patch_tokens, np.float64), 1e-6) ** power
    return (x.mean(axis=(1, 2)) ** (1 / power)).astype(np.float32)


def _scaled(images, scale, stride):
    if scale == 1.0:
        return np.stack(images)
    sides = [max(1, round(scale * side / stride)) * stride for side in images[0].shape[:2]]
    return np.stack([resize(image, *sides) for image in images])


def _descriptors(features, gem):
    if gem is None:
        return features["cls"]
    return np.concatenate([features["cls"], gem_pool(features["patch_tokens"], gem)], axis=1)
