import logging
import time

import numpy as np
import pytest
from PIL import Image

from dinov3_jax.config import ConfigError
from dinov3_jax.data import crops, masking, order
from dinov3_jax.data.folder import open_folders
from dinov3_jax.data.pipeline import eval_images, train_batches
from dinov3_jax.data.record import Record, SourceError
from tests.data.batches import assert_equal, read


@pytest.mark.parametrize("augment", ["host", "device"])
def test_shapes_and_types(source, make_config, augment):
    batch = read(source, make_config({"data.augment": augment}), stop=1)[0]
    got = {name: (value.shape, value.dtype.name) for name, value in batch.items()}
    m = masking.masked_total(crops=4, patches=16, probability=0.5, ratio=(0.1, 0.5))
    always = {
        "masks": ((8, 2, 16), "bool"),
        "mask_indices": ((4, m), "int32"),
        "mask_weights": ((4, m), "float32"),
        "record": ((8,), "int64"),
        "skipped": ((8,), "int32"),
    }
    images = {
        "host": {
            "global_crops": ((8, 2, 16, 16, 3), "uint8"),
            "local_crops": ((8, 3, 8, 8, 3), "uint8"),
        },
        "device": {
            "canvas": ((8, 24, 24, 3), "uint8"),
            "box": ((8, 5, 4), "float32"),
            "flip": ((8, 5), "bool"),
            "jitter": ((8, 5), "bool"),
            "order": ((8, 5, 4), "int32"),
            "factors": ((8, 5, 4), "float32"),
            "gray": ((8, 5), "bool"),
            "blur": ((8, 5), "float32"),
            "solarize": ((8, 5), "bool"),
        },
    }
    assert got == always | images[augment]


@pytest.mark.parametrize("augment", ["host", "device"])
@pytest.mark.parametrize("parts", [[(0, 1), (2, 3)], [(2,), (0,), (1, 3)]])
def test_processes_divide_the_same_batches(source, make_config, augment, parts):
    """Not only into neighbours: on a torus a host's devices need not follow each other."""
    config = make_config({"data.augment": augment})
    got = [read(source, config, groups=groups) for groups in parts]
    order = np.argsort([group for groups in parts for group in groups])

    def join(arrays):
        joined = np.concatenate(arrays)
        return np.concatenate([np.split(joined, len(order))[i] for i in order])

    joined = [{name: join([part[name] for part in step]) for name in step[0]} for step in zip(*got)]
    assert_equal(joined, read(source, config))


@pytest.mark.parametrize(("threads", "buffer"), [(1, 1), (7, 5)])
def test_threads_do_not_matter(source, make_config, threads, buffer):
    changes = {"data.threads": threads, "data.buffer": buffer}
    assert_equal(read(source, make_config(changes)), read(source, make_config()))


def test_workers_do_not_matter(source, make_config):
    got = read(source, make_config({"data.workers": 2}))
    assert all(type(value) is np.ndarray for batch in got for value in batch.values())
    assert_equal(got, read(source, make_config()))


def test_resuming_continues(source, make_config):
    whole = read(source, make_config(), stop=7)
    assert_equal(read(source, make_config(), start=3, stop=7), whole[3:])
    assert read(source, make_config(), start=3, stop=3) == []


def test_groups_do_not_matter_to_images(source, make_config):
    small, large = read(source, make_config()), read(source, make_config({"batch.group": 8}))
    for a, b in zip(small, large):
        assert np.array_equal(a["global_crops"], b["global_crops"])
        assert b["mask_indices"].shape[0] == 1


def test_every_record_once_an_epoch(make_config, tmp_path):
    for i in range(8):
        Image.fromarray(np.full((9, 9, 3), i, np.uint8)).save(tmp_path / f"{i}.png")
    source = open_folders(str(tmp_path), labelled=False)
    batches = read(source, make_config())
    for batch in batches:
        assert sorted(batch["record"].tolist()) == list(range(8))
        assert not batch["skipped"].any()
    assert len({tuple(batch["record"].tolist()) for batch in batches}) == 5


def test_seed_changes_everything(source, make_config):
    first, second = (read(source, make_config({"seed": seed}), stop=1)[0] for seed in (0, 1))
    for name in ("global_crops", "masks", "record"):
        assert not np.array_equal(first[name], second[name]), name


def test_masks_agree_with_their_indices(source, make_config):
    for batch in read(source, make_config(), stop=3):
        groups = batch["masks"].reshape(4, 2 * 2, 16)  # image-major: [S, B/S * 2, N]
        for masks, indices, weights in zip(groups, batch["mask_indices"], batch["mask_weights"]):
            want = masking.mask_indices_and_weights(masks)
            assert np.array_equal(indices, want[0])
            assert np.array_equal(weights, want[1])
        assert len({masks.tobytes() for masks in groups}) > 1


def test_unreadable_images_are_replaced_and_logged(source, make_config, caplog):
    with caplog.at_level(logging.WARNING):
        batches = read(source, make_config())
    planned = order.record_index(np.arange(40), size=11, seed=0)
    record = np.concatenate([batch["record"] for batch in batches])
    skipped = np.concatenate([batch["skipped"] for batch in batches])
    assert (record != 4).all()
    assert (planned == 4).sum() >= 3
    assert np.array_equal(skipped > 0, planned == 4)
    assert np.array_equal(record[planned != 4], planned[planned != 4])
    assert len(caplog.records) == skipped.sum()
    message = caplog.messages[0]
    assert message.startswith("unreadable image 04.jpg (record 4): unreadable image of 300 bytes")


class Broken:
    """A source of records that fail in a chosen way."""

    labels = classes = None
    fingerprint = ""

    def __init__(self, error):
        self.error = error

    def __len__(self):
        return 5

    def __getitem__(self, index):
        if self.error is None:
            return Record(b"not an image", str(index), None)
        raise self.error


def test_a_hundred_failures_stop_the_run(make_config, caplog):
    with pytest.raises(SourceError, match="100 records in a row could not be read"):
        read(Broken(None), make_config({"batch.images": 2}), stop=1)
    assert len(caplog.records) == 100


def test_a_vanished_file_counts_as_unreadable(make_config, caplog):
    with pytest.raises(SourceError, match="100 records in a row"):
        read(Broken(FileNotFoundError("gone")), make_config({"batch.images": 2}), stop=1)
    assert "gone" in caplog.messages[0]


@pytest.mark.parametrize("error", [SourceError("shard is missing"), KeyError("bug")])
def test_other_errors_are_not_swallowed(make_config, error):
    with pytest.raises(type(error), match=str(error.args[0])):
        read(Broken(error), make_config(), stop=1)


def test_device_boxes_lie_on_the_canvas(source, make_config):
    """A shrunk image's boxes shrink with it: the device sees what the host cuts."""
    config = make_config({"data.augment": "device"})
    for batch in read(source, config):
        end = batch["box"][..., :2] + batch["box"][..., 2:]
        content = batch["canvas"].any(axis=-1)
        height, width = content.any(axis=2).sum(axis=1), content.any(axis=1).sum(axis=1)
        # Float32 products of a few tens of pixels are exact to 1e-5.
        assert (end[..., 0] <= height[:, None] + 1e-3).all()
        assert (end[..., 1] <= width[:, None] + 1e-3).all()


def test_host_and_device_draw_the_same(source, make_config):
    host = read(source, make_config(), stop=1)[0]
    device = read(source, make_config({"data.augment": "device"}), stop=1)[0]
    assert np.array_equal(host["record"], device["record"])
    config = make_config()
    for i, record in enumerate(host["record"]):
        height, width = 18 + 2 * record, 40 - 2 * record
        draws = crops.draw(
            order.rng(0, "augment", i), height=height, width=width, crops=config.crops
        )
        scale = min(1, 24 / max(height, width))
        # The shrunk sides are whole pixels, up to half a pixel in 18 off the scale.
        assert device["box"][i] == pytest.approx(draws["box"] * scale, rel=0.03)
        assert np.array_equal(device["factors"][i], draws["factors"])


def test_errors(source, make_config):
    with pytest.raises(ConfigError, match=r"batch\.images is 9"):
        read(source, make_config({"batch.images": 9}))
    with pytest.raises(ValueError, match=r"groups are \(1, 4\), wanted at least one of 0\.\.3"):
        read(source, make_config(), groups=[1, 4])
    with pytest.raises(ValueError, match=r"steps 5\.\.2"):
        read(source, make_config(), start=5, stop=2)


def test_stopping_early_is_quick(source, make_config):
    batches = train_batches(source, make_config(), start_step=0, stop_step=10**9)
    next(batches)
    start = time.monotonic()
    batches.close()
    assert time.monotonic() - start < 5


def test_eval_images(source, caplog):
    images, kept = eval_images(source, [3, 4, 0], size=16)
    assert images.shape == (2, 16, 16, 3)
    assert images.dtype == np.uint8
    assert kept.tolist() == [3, 0]
    assert "04.jpg" in caplog.messages[0]
    assert eval_images(source, [4], size=16)[0].shape == (0, 16, 16, 3)
    assert eval_images(source, [], size=16)[1].shape == (0,)


class Arrays:
    labels = classes = None
    fingerprint = ""

    def __init__(self, *images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return Record(self.images[index], str(index), None)


def test_eval_images_keep_the_margin_of_small_pictures():
    level = np.random.default_rng(0).integers(0, 256, (28, 28)).astype(np.uint8)
    image = np.repeat(level[..., None], 3, axis=2)
    images, _ = eval_images(Arrays(image), [0], size=32)
    assert np.array_equal(images[0], crops.resize(image, 32, 32))
    assert np.array_equal(eval_images(Arrays(level), [0], size=28)[0][0], image)


@pytest.mark.parametrize("shape", [(256, 320), (320, 256), (512, 512)])
def test_eval_images_take_the_centre(shape):
    """Rings around the centre stay around it, 224 of 256 pixels wide."""
    y, x = (np.abs(np.arange(n) - (n - 1) / 2) for n in shape)
    ring = np.maximum(y[:, None], x[None]) / min(shape)  # 0 in the middle, 0.5 at the short edge
    image = np.repeat((ring * 400).clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)
    got = eval_images(Arrays(image), [0], size=224)[0][0, ..., 0].astype(float)
    # Half of a ring of 224/256 of the short side is 0.4375, or level 175; 2 levels are a pixel.
    for edge in (got[0, 112], got[-1, 112], got[112, 0], got[112, -1]):
        assert edge == pytest.approx(175, abs=3)
