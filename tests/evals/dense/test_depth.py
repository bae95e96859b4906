import dataclasses
import functools

import numpy as np
import pytest

from dinov3_jax.config import ConfigError
from dinov3_jax.data.sources import SourceError
from dinov3_jax.evals.dense import depth as depth_evaluation, depth_loss
from dinov3_jax.evals.dense.depth import DepthSettings, errors, evaluate
from dinov3_jax.evals.dense.probe import predict, train_probe
from tests.data.benchmarks import dense_layouts as layouts
from tests.evals.dense.probes import endless, recipe
from tests.features.models import mesh, vit

RANGE = dict(least=0.001, most=10.0)


def small(path, **changes):
    settings = DepthSettings(
        str(path), steps=6, warmup=1, batch=8, bins=16, train_crop=(14, 22), lr=(1e-2,)
    )
    return dataclasses.replace(settings, **changes)


@pytest.fixture(scope="module")
def model():
    return vit()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("depth")
    layouts.own_depth(root)
    return root


def rmse(make_tokens):
    """Metres, of 4 maps from 1 to 9 m that are linear between patches, after training on others."""
    rows, columns = depth_loss.whole_patches((32, 32), (8, 8), 4)

    def batch(i):
        patches = np.random.default_rng(i).uniform(1, 9, (4, 8, 8)).astype(np.float32)
        return make_tokens(patches, i), rows @ patches @ columns.T

    loss = functools.partial(depth_loss.loss, size=(32, 32), stride=4, **RANGE)
    # 32 bins; steps large enough to move their weights beside the constant 0.1.
    made = recipe(steps=300, lr=(0.03,), beta2=0.99, clip=35.0, weight_decay=(0.0,))
    probe = train_probe(endless(batch), loss, made, outputs=32, mesh=mesh(1))
    tokens, depth = batch(10_000)
    patches = np.asarray(depth_loss.metres(predict(probe, tokens), **RANGE))[0]
    found = [
        errors(rows @ p @ columns.T, d, crop="none", align=False, **RANGE)
        for p, d in zip(patches, depth, strict=True)
    ]
    return np.mean([each["rmse"] for each in found])


def test_tokens_that_hold_the_depth_are_off_by_less_than_a_bin():
    def bumps(depth, seed):
        return np.exp(-((depth[..., None] - np.arange(0, 11)) ** 2)).astype(np.float32)

    assert rmse(bumps) < 10 / 32


def test_tokens_that_hold_nothing_are_off_by_the_spread_of_depths():
    def noise(depth, seed):
        return np.random.default_rng(seed).standard_normal((*depth.shape, 11)).astype(np.float32)

    # Patches from 1 to 9 m have a standard deviation of 2.3 m, pixels interpolated between them
    # one of 1.5.
    assert rmse(noise) > 1.3


def test_the_same_errors_on_eight_devices(model, data):
    one, eight = (evaluate(model, small(data), mesh(n)).metrics for n in (1, 8))
    # Sums in another order, 6 steps along the sign of a gradient: metres to 3 digits, and of the
    # percentages a pixel of 1536 on a threshold.
    assert one == pytest.approx(eight, rel=5e-3, abs=0.2)
    assert list(one) == [
        "rmse", "abs_rel", "sq_rel", "mae", "rmse_log", "log10", "silog", "a1", "a2", "a3",
        "images",
    ]  # fmt: skip
    assert one["images"] == 2


def test_a_sweep_of_other_settings_on_one_image(model, tmp_path):
    layouts.own_depth(tmp_path, counts=(1, 1), suffix=".npy")
    settings = small(
        tmp_path, lr=(1e-4, 1e-2), cached=1, size=20, cycle_beta1=True, align=True, flip=False,
        crop="eigen",
    )  # fmt: skip
    result = evaluate(model, settings, mesh(1))
    each = [value for name, value in result.metrics.items() if name.startswith("rmse/lr=")]
    assert len(each) == 2
    assert result.metrics["rmse"] == min(each)
    # Depths are noise from 1 to 8 m: what is fitted to each image is never worse than its mean.
    assert result.metrics["rmse"] <= layouts.metres(0).std() * 1.1
    assert "RMSE" in result.pictures[0].caption
    assert max(result.pictures[0].pixels.shape) <= 512


def test_errors_of_one_image():
    d = np.full((480, 640), 2.0, np.float32)
    d[0, 0], d[100, 100], d[101, 100] = 5.0, 0.0, 20.0  # outside the crop, unknown, too far
    p = np.where(d == 2, 3.0, 100.0)
    got = errors(p, d, crop="eigen", align=False, **RANGE)
    assert got["rmse"] == pytest.approx(1.0)
    far = errors(np.full_like(d, 50.0), d, crop="eigen", align=False, **RANGE)
    assert far["rmse"] == pytest.approx(8.0)  # clipped to 10
    ramp = np.linspace(1, 9, d.size).reshape(d.shape)
    fitted = errors(0.1 * ramp + 7, ramp, crop="none", align=True, **RANGE)
    assert fitted["rmse"] == pytest.approx(0, abs=1e-6)
    assert errors(p, np.zeros_like(d), crop="eigen", align=False, **RANGE) == {}


def test_what_is_wrong_with_the_test_split_is_said_before_the_training(
    model, tmp_path, monkeypatch
):
    monkeypatch.setattr(depth_evaluation, "train_probe", None)
    layouts.own_depth(tmp_path)
    layouts.save(tmp_path / "depth/test/1.png", np.zeros((8, 32), np.uint16))
    with pytest.raises(SourceError, match="and its depth have 24 x 32 and 8 x 32 pixels"):
        evaluate(model, small(tmp_path), mesh(1))
    for i in range(2):
        layouts.save(tmp_path / f"depth/test/{i}.png", np.zeros((24, 32), np.uint16))
    with pytest.raises(SourceError, match="no pixel of the test images has a depth"):
        evaluate(model, small(tmp_path), mesh(1))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(crop="kitti"), "crop is 'kitti', wanted one of 'none', 'eigen', 'garg'"),
        (dict(most=0.0005), "least is 0.001 m, most 0.0005 m; wanted 0 < least < most"),
        (dict(least=0.0), "least is 0.0 m"),
        (dict(bins=0), "bins is 0, wanted at least 1"),
        (dict(batch=0), "batch is 0"),
        (dict(cached=0), "cached is 0"),
        (dict(size=0), "size is 0"),
        (dict(train_crop=(0, 4)), r"train_crop is \(0, 4\), wanted"),
        (dict(warmup=6), "steps is 6, warmup 6"),
    ],
)
def test_settings_that_cannot_be(model, data, changes, message):
    with pytest.raises(ConfigError, match=message):
        evaluate(model, small(data, **changes), mesh(1))
