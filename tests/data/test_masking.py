import time

import numpy as np
import pytest

from dinov3_jax.data import masking, order

RECIPE = {"probability": 0.5, "ratio": (0.1, 0.5)}


@pytest.mark.parametrize(
    ("crops", "patches", "rows", "total"),
    [(128, 196, 64, 3771), (32, 256, 16, 1274), (16, 1024, 8, 2659), (16, 2304, 8, 5987)],
)
def test_totals_of_the_reference(crops, patches, rows, total):
    counts = masking.mask_counts(crops=crops, patches=patches, **RECIPE)
    assert len(counts) == rows
    assert masking.masked_total(crops=crops, patches=patches, **RECIPE) == counts.sum() == total


@pytest.mark.parametrize("circular_shift", [False, True])
@pytest.mark.parametrize(
    ("crops", "grid"), [(128, (14, 14)), (32, (16, 16)), (64, (7, 7)), (20, (3, 5)), (6, (2, 2))]
)
def test_rows_have_exactly_the_requested_counts(crops, grid, circular_shift):
    patches = grid[0] * grid[1]
    want = masking.mask_counts(crops=crops, patches=patches, **RECIPE)
    for seed in range(5):
        masks = masking.group_masks(
            order.rng(seed, "masks"),
            crops=crops,
            grid=grid,
            circular_shift=circular_shift,
            **RECIPE,
        )
        assert masks.shape == (crops, patches)
        counts = np.sort(masks.sum(axis=1))
        assert np.array_equal(counts[-len(want) :], np.sort(want))
        assert not counts[: -len(want)].any()


def _masks(count, *, grid=(14, 14), circular_shift=False):
    return np.concatenate(
        [
            masking.group_masks(
                order.rng(seed, "masks"),
                crops=64,
                grid=grid,
                circular_shift=circular_shift,
                **RECIPE,
            )
            for seed in range(count)
        ]
    )


def test_rows_are_shuffled():
    masked = _masks(200).reshape(200, 64, -1).any(axis=2).mean(axis=0)
    # Each row is masked with probability 0.5; standard deviation sqrt(0.25 / 200) = 0.035.
    assert np.abs(masked - 0.5).max() < 5 * 0.035


def test_masks_are_blocks():
    """Neighbours of masked patches are masked far more often than at random."""
    masks = _masks(20).reshape(-1, 14, 14)
    masks = masks[masks.any(axis=(1, 2))]
    share = masks.mean()
    both = (masks[:, :, 1:] & masks[:, :, :-1]).mean()
    assert both > 2 * share**2


def test_circular_shift_masks_the_border_as_often_as_the_middle():
    plain = _masks(100).reshape(-1, 14, 14).mean(axis=0)
    rolled = _masks(100, circular_shift=True).reshape(-1, 14, 14).mean(axis=0)
    assert plain[0, 0] < 0.7 * plain[7, 7]  # blocks must lie inside, so corners are rare
    assert rolled[0, 0] > 0.8 * rolled[7, 7]


def test_indices_and_weights():
    masks = np.zeros((3, 5), bool)
    masks[0, [1, 4]] = True
    masks[2, [0, 2, 3]] = True
    indices, weights = masking.mask_indices_and_weights(masks)
    assert indices.dtype == np.int32
    assert weights.dtype == np.float32
    assert indices.tolist() == [1, 4, 10, 12, 13]
    assert weights.tolist() == [np.float32(x) for x in (1 / 2, 1 / 2, 1 / 3, 1 / 3, 1 / 3)]


def test_weights_sum_to_the_masked_crops():
    masks = _masks(1)
    indices, weights = masking.mask_indices_and_weights(masks)
    assert masks.reshape(-1)[indices].all()
    assert len(indices) == masks.sum()
    assert weights.sum() == pytest.approx(32, abs=1e-4)  # float32 sum of some 2,000 terms


def test_no_masks_when_nothing_is_asked():
    masks = masking.group_masks(
        order.rng(0, "masks"),
        crops=4,
        grid=(4, 4),
        probability=0.0,
        ratio=(0.1, 0.5),
        circular_shift=True,
    )
    indices, weights = masking.mask_indices_and_weights(masks)
    assert not masks.any()
    assert indices.shape == weights.shape == (0,)


def test_masks_are_quick():
    start = time.process_time()
    _masks(10, grid=(16, 16))
    per_crop = (time.process_time() - start) / 640
    assert per_crop < 3e-4  # seconds; about 3e-5 measured, ten times that for a loaded machine
