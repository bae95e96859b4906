import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from dinov3_jax.config import ConfigError
from dinov3_jax.data.sources import SourceError
from dinov3_jax.evals.classification import inputs, probe
from dinov3_jax.evals.classification.linear import LinearSettings, evaluate
from tests.data.benchmarks.folders import write_class_folders, write_split
from tests.features.models import mesh, vit

CLASSES = ("ant", "bee", "cat", "dog", "eel", "fox")


@pytest.fixture(scope="module")
def model():
    return vit()


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    data = write_class_folders(tmp_path_factory.mktemp("data"), CLASSES, train=6, test=4)
    return LinearSettings(
        data, lrs=(0.001, 1.0), steps=40, batch=20, augment=False, resize=8, crop=8
    )


@pytest.fixture(scope="module")
def result(model, settings):
    return evaluate(model, settings, mesh(1))


def test_it_reads_the_classes_out_of_features(result):
    # Images are grey levels that say the class, 40 apart, with noise of 20: chance is 16.7.
    assert result.metrics["top1"] > 60
    assert result.metrics["top5"] >= result.metrics["top1"]
    assert result.metrics["lr"] == 1.0
    assert result.metrics["layers"] == result.metrics["pooling"] == 1.0
    assert "val_top1" not in result.metrics
    assert "there is no val/" in result.pictures[0].caption
    assert all(np.isfinite(list(result.metrics.values())))
    assert 1 <= len(result.pictures) <= 5
    assert all(max(picture.pixels.shape) <= 512 for picture in result.pictures)


def test_the_same_on_eight_devices(model, settings, result):
    # Counts of images: the order of sums moves logits by 1e-4, and none is that close to another.
    assert evaluate(model, settings, mesh(8)).metrics == result.metrics


def test_val_chooses_and_further_sets_are_scored(model, settings, tmp_path):
    data = write_class_folders(tmp_path / "data", CLASSES, train=6, val=2, test=1)
    extra = write_split(tmp_path / "night", CLASSES[1:3], 2)
    changed = dataclasses.replace(
        settings, data=data, extra=(str(extra),), layers=(1, 2), pooling=(False, True)
    )
    found = evaluate(model, changed, mesh(1))
    assert {"val_top1", "night/top1"} <= found.metrics.keys()
    assert "on val" in found.pictures[0].caption


def test_random_crops_are_new_each_step(model, settings, tmp_path):
    changed = dataclasses.replace(settings, augment=True, steps=12, batch=12, lrs=(1.0,))
    found = evaluate(model, changed, mesh(1)).metrics
    assert found["top1"] > 30  # chance is 16.7
    assert evaluate(model, changed, mesh(4)).metrics == found


@pytest.mark.parametrize(("useful", "expected"), [(True, 100.0), (False, 25.0)])
def test_perfect_features_score_all_and_useless_ones_chance(useful, expected):
    labels = np.arange(40) % 4
    features = np.eye(4, dtype=np.float32)[labels] if useful else np.ones((40, 4), np.float32)
    batches = inputs.cached_batches(features, labels, mesh(2), batch=40, seed=0)
    cells = probe.grid([(0, 4)], [1.0], [0.0])
    trained = probe.train(cells, batches, classes=4, steps=20, mesh=mesh(2))
    ranks = probe.cell_ranks(trained, jnp.asarray(features), jnp.asarray(labels))
    assert 100 * np.mean(np.asarray(ranks) == 0) == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lrs": ()}, "lrs is empty"),
        ({"steps": 0}, "steps is 0"),
        ({"layers": (0, 1)}, "wanted numbers from 1"),
        ({"layers": (3,)}, "2 blocks"),
        ({"crop": 6}, "multiple of 4"),
        ({"resize": 4}, "below crop 8"),
        ({"lrs": (1e30,), "weight_decays": (1e30,)}, "no classifier of the grid ended finite"),
    ],
)
def test_settings_that_cannot_be_are_refused(model, settings, change, message):
    with pytest.raises(ConfigError, match=message):
        evaluate(model, dataclasses.replace(settings, **change), mesh(1))


def test_further_sets_that_cannot_be_are_refused(model, settings, tmp_path):
    strange = str(write_split(tmp_path / "strange", ("gnu",), 1))
    with pytest.raises(SourceError, match=r"1 class.* gnu"):
        evaluate(model, dataclasses.replace(settings, extra=(strange,)), mesh(1))
    twice = [str(write_split(tmp_path / place / "night", ("ant",), 1)) for place in "ab"]
    with pytest.raises(ConfigError, match="two sets named 'night'"):
        evaluate(model, dataclasses.replace(settings, extra=tuple(twice)), mesh(1))
