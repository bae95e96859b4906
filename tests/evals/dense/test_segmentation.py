import dataclasses
import functools

import jax
import numpy as np
import pytest
from sklearn.metrics import log_loss

from dinov3_jax.config import ConfigError
from dinov3_jax.data.sources import SourceError
from dinov3_jax.evals.dense import miou, segmentation, sliding
from dinov3_jax.evals.dense.label_map import label_map
from dinov3_jax.evals.dense.probe import predict, train_probe
from dinov3_jax.evals.dense.segmentation import SegmentationSettings, cross_entropy, evaluate
from tests.data.benchmarks import dense_layouts as layouts
from tests.evals.dense.probes import block_labels, endless, one_hot, recipe
from tests.features.models import mesh, vit

CLASSES = 4
LOSS = functools.partial(cross_entropy, count_ignored=True)


def small(path, **changes):
    settings = SegmentationSettings(
        str(path), steps=6, warmup=1, batch=4, size=16, stride=11, lr=(1e-2,)
    )
    return dataclasses.replace(settings, **changes)


@pytest.fixture(scope="module")
def model():
    return vit()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("masks")
    layouts.own_masks(root)
    return root


def score(make_tokens):
    """mIoU on 4 images after training on others; 4 classes in blocks of 2 x 2 patches."""

    def batch(i):
        labels, patches = block_labels(i + 1)
        return make_tokens(patches, i + 1), labels

    probe = train_probe(endless(batch), LOSS, recipe(), outputs=CLASSES, mesh=mesh(1))
    labels, patches = block_labels(0)
    logits = np.asarray(predict(probe, make_tokens(patches, 0)))[0]
    whole = sliding.axis(32, 32, window=32, stride=32, cells=8)
    called = np.stack([label_map(one[None, None], whole, whole) for one in logits])
    return miou.scores(miou.confusion(labels, called, CLASSES))["miou"]


def test_tokens_that_hold_the_class_score_near_100():
    # What is missing are corners where blocks of four classes meet, a pixel or so each.
    assert score(lambda patches, seed: one_hot(patches, CLASSES)) > 97


def test_tokens_that_hold_nothing_score_chance():
    def noise(patches, seed):
        rng = np.random.default_rng(100 + seed)
        return rng.standard_normal((*patches.shape, 8)).astype(np.float32)

    # Four equal classes guessed evenly: 1/16 of the pixels are hits of a class, 7/16 in its union.
    assert score(noise) == pytest.approx(100 / 7, abs=5)


def test_cross_entropy_of_equal_logits():
    labels = np.array([[[0, 1], [2, 255]]], np.uint8)
    logits = np.full((1, 1, 1, 3), 5.0, np.float32)
    counted = cross_entropy(logits, labels, 0, count_ignored=True)
    labelled = cross_entropy(logits, labels, 0, count_ignored=False)
    np.testing.assert_allclose(counted, 3 / 4 * np.log(3), rtol=1e-6)  # float32
    np.testing.assert_allclose(labelled, np.log(3), rtol=1e-6)


def test_cross_entropy_agrees_with_scikit_learn():
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((2, 6, 6, 5)).astype(np.float32)
    labels = rng.integers(0, 5, (2, 6, 6)).astype(np.uint8)
    labels[0, :2] = 255
    known = labels != 255
    chances = np.asarray(jax.nn.softmax(logits))[known].astype(np.float64)
    wanted = log_loss(labels[known], chances / chances.sum(-1, keepdims=True), labels=range(5))
    got = cross_entropy(logits, labels, 0, count_ignored=False)
    np.testing.assert_allclose(got, wanted, rtol=1e-5)  # float32 sums of 60


def test_only_ignored_pixels_are_no_loss():
    labels = np.full((1, 4, 4), 255, np.uint8)
    for count_ignored in (True, False):
        loss = functools.partial(cross_entropy, count_ignored=count_ignored)
        value, grad = jax.value_and_grad(loss)(np.ones((1, 2, 2, 3), np.float32), labels, 0)
        assert value == 0
        assert (np.asarray(grad) == 0).all()


def test_the_same_scores_on_eight_devices(model, data):
    one, eight = (evaluate(model, small(data, batch=8), mesh(n)) for n in (1, 8))
    # Sums in another order: a pixel of 1536 on a near tie may change sides, 0.07 % of them.
    assert one.metrics == pytest.approx(eight.metrics, abs=0.2)
    assert list(one.metrics) == [
        "miou", "aacc", "macc", "mdice", "iou/sky", "iou/sea", "iou/sand",
    ]  # fmt: skip
    assert len(one.pictures) == 2
    assert all(p.pixels.dtype == np.uint8 and max(p.pixels.shape) <= 512 for p in one.pictures)


def test_one_image_kept_crops_and_a_sweep(model, tmp_path):
    layouts.own_masks(tmp_path, counts=(1, 1))
    for split in ("train", "val"):
        mask = layouts.numbers(0, 2)
        mask[:4] = 255
        layouts.save(tmp_path / f"masks/{split}/0.png", mask)
    settings = small(tmp_path, cached=2, lr=(1e-5, 1e-2), weight_decay=(1e-3, 1e-1))
    got = evaluate(model, settings, mesh(1))
    each = [value for name, value in got.metrics.items() if name.startswith("miou/lr=")]
    assert len(each) == 4
    assert got.metrics["miou"] == max(each)
    assert len(got.pictures) == 1
    assert all(np.isfinite(value) for value in got.metrics.values())


def test_a_bad_mask_ends_the_evaluation_with_its_name(model, tmp_path):
    layouts.own_masks(tmp_path)
    layouts.save(tmp_path / "masks/train/2.png", np.full((24, 32), 9, np.uint8))
    with pytest.raises(SourceError, match=r"train/2.png has the labels \[9\]"):
        evaluate(model, small(tmp_path), mesh(1))


def test_what_is_wrong_with_the_test_split_is_said_before_the_training(
    model, tmp_path, monkeypatch
):
    monkeypatch.setattr(segmentation, "train_probe", None)
    layouts.own_masks(tmp_path)
    layouts.save(tmp_path / "masks/val/1.png", np.full((24, 32), 9, np.uint8))
    with pytest.raises(SourceError, match=r"val/1.png has the labels \[9\]"):
        evaluate(model, small(tmp_path), mesh(1))
    for i in range(2):
        layouts.save(tmp_path / f"masks/val/{i}.png", np.full((24, 32), 255, np.uint8))
    with pytest.raises(SourceError, match="no pixel of the validation images has a class"):
        evaluate(model, small(tmp_path), mesh(1))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(size=18), "size is 18 pixels, wanted whole patches of 4: 16 or 20"),
        (dict(stride=17), "stride is 17, wanted 1 to 16"),
        (dict(warmup=6), "steps is 6, warmup 6; wanted 0 <= warmup < steps"),
        (dict(lr=()), "wanted at least one of each"),
        (dict(lr=(0.0,)), "lr positive"),
        (dict(batch=0), "batch is 0"),
        (dict(cached=0), "cached 0"),
        (dict(scale=(2.0, 0.5)), r"scale is \(2.0, 0.5\)"),
        (dict(dropout=1.0), "dropout is 1.0"),
    ],
)
def test_settings_that_cannot_be(model, data, changes, message):
    with pytest.raises(ConfigError, match=message):
        evaluate(model, small(data, **changes), mesh(1))


def test_features_that_are_not_finite(data, model):
    damaged = dataclasses.replace(
        model, params=jax.tree.map(lambda x: x * np.float32(np.nan), model.params)
    )
    with pytest.raises(ConfigError, match="the loss is not finite"):
        evaluate(damaged, small(data), mesh(1))
