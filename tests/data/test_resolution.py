import dataclasses

import numpy as np
import pytest

from dinov3_jax.data import masking
from dinov3_jax.data.resolution import crops_at, resolution_at
from tests.data.batches import assert_equal, read

MIXTURE = ((16, 8, 24, 0.3), (24, 12, 36, 0.5), (24, 8, None, 0.2))
STEPS = 8


@pytest.fixture(scope="module")
def mixed(make_config):
    def make(changes=()):
        changes = {"crops.mixture": MIXTURE, "data.canvas": 40, **dict(changes)}
        return make_config({"gram.teacher": "checkpoint", **changes})

    return make


def test_shares(mixed):
    config = mixed({"crops.mixture": tuple((*sizes, 10 * share) for *sizes, share in MIXTURE)})
    drawn = [resolution_at(config, step) for step in range(1000)]
    for i, (*_, share) in enumerate(MIXTURE):
        assert abs(drawn.count(i) - 1000 * share) < 3 * (1000 * share * (1 - share)) ** 0.5
    assert drawn == [resolution_at(config, step) for step in range(1000)]
    other = dataclasses.replace(config, seed=1)
    assert drawn != [resolution_at(other, step) for step in range(1000)]


def test_a_share_of_zero_is_never_drawn(mixed):
    shares = (0.0, 1.0, 0.0, 2.0, 0.0)
    config = mixed({"crops.mixture": tuple((16, 8, None, share) for share in shares)})
    assert {resolution_at(config, step) for step in range(100)} == {1, 3}


def test_no_mixture(make_config):
    config = make_config()
    assert {resolution_at(config, step) for step in range(100)} == {0}
    assert crops_at(config.crops, 0) is config.crops


def test_sizes_of_an_entry(mixed):
    crops = mixed().crops
    want = dataclasses.replace(crops, global_size=24, local_size=12, gram_size=36, mixture=None)
    assert crops_at(crops, 1) == want
    assert crops_at(crops, 2).gram_size is None


@pytest.mark.parametrize("workers", [0, 2])
def test_every_step_has_its_own_sizes_and_masks(source, mixed, workers):
    config = mixed({"data.workers": workers})
    batches = read(source, config, stop=STEPS)
    drawn = [resolution_at(config, step) for step in range(STEPS)]
    assert set(drawn) == {0, 1, 2}
    for batch, entry in zip(batches, drawn):
        size, local, gram, _ = MIXTURE[entry]
        assert batch["global_crops"].shape == (8, 2, size, size, 3)
        assert batch["local_crops"].shape == (8, 3, local, local, 3)
        assert ("gram_crops" in batch) == (gram is not None)
        if gram is not None:
            assert batch["gram_crops"].shape == (8, 2, gram, gram, 3)
            assert batch["gram_crops"].dtype == np.uint8
        patches = (size // 4) ** 2
        total = masking.masked_total(crops=4, patches=patches, probability=0.5, ratio=(0.1, 0.5))
        assert batch["masks"].shape == (8, 2, patches)
        assert batch["masks"].reshape(4, -1).sum(axis=1).tolist() == [total] * 4
        assert batch["mask_indices"].shape == batch["mask_weights"].shape == (4, total)


@pytest.mark.parametrize("augment", ["host", "device"])
def test_resuming_continues(source, mixed, augment):
    config = mixed({"data.augment": augment})
    whole = read(source, config, stop=STEPS)
    assert_equal(read(source, config, start=3, stop=STEPS), whole[3:])


@pytest.mark.parametrize("augment", ["host", "device"])
def test_processes_draw_the_same_entries(source, mixed, augment):
    config = mixed({"data.augment": augment})
    parts = [read(source, config, stop=STEPS, groups=groups) for groups in ((0, 1), (2, 3))]
    joined = [
        {name: np.concatenate([part[name] for part in step]) for name in step[0]}
        for step in zip(*parts)
    ]
    assert_equal(joined, read(source, config, stop=STEPS))


def test_sizes_change_no_draw(source, make_config, mixed):
    """On the device only the masks differ: the boxes and colours are those of any size."""
    config = mixed({"data.augment": "device"})
    plain = make_config({"data.augment": "device", "data.canvas": 40})
    for got, want in zip(read(source, config), read(source, plain)):
        assert got.keys() == want.keys()
        for name in got.keys() - {"masks", "mask_indices", "mask_weights"}:
            assert np.array_equal(got[name], want[name]), name


def test_masks_of_a_convnext_are_of_its_stride(source, make_config):
    sizes = {"crops.global_size": 96, "crops.local_size": 32}
    batch = read(source, make_config({"student.arch": "convnext_tiny", **sizes}), stop=1)[0]
    assert batch["masks"].shape == (8, 2, 9)
