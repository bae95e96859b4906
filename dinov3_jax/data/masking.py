"""Which patches the student does not see: block masks with a fixed total for every group.

For given numbers of crops and patches the number of masked tokens of a group never varies, so the
masked tokens of every group are gathered into the same static shape [M].
"""

import math

import numpy as np

_MIN_AREA = 4  # patches of the smallest block
_ASPECT = 0.3  # blocks have aspect ratios from this to its inverse
_TRIES = 10  # rejected blocks after which a mask is completed patch by patch


def mask_counts(
    *, crops: int, patches: int, probability: float, ratio: tuple[float, float]
) -> np.ndarray:
    """Masked patches of each masked crop, int64 [int(crops * probability)], ascending.

    The ratios divide [ratio[0], ratio[1]] evenly; each crop takes the upper end of its interval.
    """
    masked = int(crops * probability)
    ratios = np.linspace(ratio[0], ratio[1], masked + 1)[1:]
    return np.array([int(patches * r) for r in ratios], np.int64)


def masked_total(
    *, crops: int, patches: int, probability: float, ratio: tuple[float, float]
) -> int:
    """M, the number of masked tokens of a group of ``crops`` crops of ``patches`` patches."""
    counts = mask_counts(crops=crops, patches=patches, probability=probability, ratio=ratio)
    return int(counts.sum())


def group_masks(
    rng: np.random.Generator,
    *,
    crops: int,
    grid: tuple[int, int],
    probability: float,
    ratio: tuple[float, float],
    circular_shift: bool,
) -> np.ndarray:
    """Masks of one group, bool [crops, h*w], True where masked.

    Rows carry the counts of ``mask_counts`` (the others none), in random order. A mask is made of
    random rectangles, then completed patch by patch to its exact count; ``circular_shift`` rolls
    each mask by a random offset.
    """
    h, w = grid
    counts = mask_counts(crops=crops, patches=h * w, probability=probability, ratio=ratio)
    masks = np.zeros((crops, h, w), bool)
    uniform = _uniforms(rng)
    for mask, count in zip(masks, counts.tolist()):
        _fill_blocks(mask, count, uniform)
        _fill_patches(mask, count, rng)
        if circular_shift:
            shift = (int(next(uniform) * h), int(next(uniform) * w))
            mask[:] = np.roll(mask, shift, axis=(0, 1))
    return masks.reshape(crops, h * w)[rng.permutation(crops)]  # [2B/S, N]


def mask_indices_and_weights(masks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Masks bool [crops, N] -> (int32 [M], float32 [M]).

    The first is the positions of the masked patches in the flattened [crops*N], ascending; the
    second is 1 over the masked patches of the same crop, so that every masked crop weighs 1.
    """
    indices = np.flatnonzero(masks)
    counts = masks.sum(axis=1)
    weights = 1.0 / counts[indices // masks.shape[1]]
    return indices.astype(np.int32), weights.astype(np.float32)


def _fill_blocks(mask: np.ndarray, count: int, uniform):
    """Adds rectangles to ``mask`` [h, w] while they fit below ``count`` masked patches."""
    height, width = mask.shape
    largest = (height // 2) * width
    log_aspect = math.log(_ASPECT)
    done = 0
    while done < count:
        allowed = min(count - done, largest)
        for _ in range(_TRIES):
            # Near the end ``allowed`` may be below the smallest area; the interval is then
            # reversed, as in the reference, and mostly small blocks come out.
            area = _MIN_AREA + (allowed - _MIN_AREA) * next(uniform)
            aspect = math.exp(log_aspect * (1 - 2 * next(uniform)))
            h = round(math.sqrt(area * aspect))
            w = round(math.sqrt(area / aspect))
            if h >= height or w >= width:
                continue
            top = int(next(uniform) * (height - h + 1))
            left = int(next(uniform) * (width - w + 1))
            block = mask[top : top + h, left : left + w]
            new = h * w - np.count_nonzero(block)
            if 0 < new <= allowed:
                block[:] = True
                done += new
                break
        else:
            return


def _fill_patches(mask: np.ndarray, count: int, rng: np.random.Generator):
    """Masks random further patches until exactly ``count`` are masked."""
    flat = mask.reshape(-1)
    missing = count - np.count_nonzero(flat)
    if missing:
        free = np.flatnonzero(~flat)
        flat[rng.choice(free, missing, replace=False)] = True


def _uniforms(rng: np.random.Generator):
    """U[0, 1) for ever; drawn in blocks, because a call per number would dominate the cost."""
    while True:
        yield from rng.random(512).tolist()
