import itertools

import numpy as np
import pytest

from dinov3_jax.augment.normalize import normalize
from dinov3_jax.config import ConfigError
from dinov3_jax.data.benchmarks.classification import open_classification
from dinov3_jax.evals.classification import inputs
from dinov3_jax.models.model import Model
from tests.data.benchmarks.folders import write_class_folders
from tests.features.models import convnext_config, images, mesh, vit

# rtol, atol: the same float32 sums, in an order that depends on the size of the batch.
NEAR = dict(rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def model():
    return vit()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return open_classification(write_class_folders(tmp_path_factory.mktemp("data"), train=3))


def test_columns_are_cls_of_the_last_blocks_then_the_mean_patch_token(model):
    pixels = images(4, 8, 8)
    found = np.asarray(inputs.see(model, mesh(2), 2)(pixels))
    first, last = model.intermediate_layers(normalize(pixels, mean=model.mean, std=model.std), 2)
    spans = inputs.spans(model, (1, 2), (False, True))
    assert found.shape == (4, 48)
    expected = {
        (1, False): [last.cls],
        (1, True): [last.cls, last.patch_tokens.mean(1)],
        (2, False): [first.cls, last.cls],
        (2, True): [first.cls, last.cls, last.patch_tokens.mean(1)],
    }
    assert spans.keys() == expected.keys()
    for key, parts in expected.items():
        np.testing.assert_allclose(
            found[:, slice(*spans[key])], np.concatenate(parts, axis=1), **NEAR
        )


def test_stages_of_a_convnext_have_widths_of_their_own():
    model = Model("convnext", convnext_config(), {})  # widths 8, 8, 8, 12
    spans = inputs.spans(model, (1, 3), (False, True))
    assert spans == {
        (1, False): (16, 28),
        (1, True): (16, 40),
        (3, False): (0, 28),
        (3, True): (0, 40),
    }
    with pytest.raises(ConfigError, match="4 stages"):
        inputs.spans(model, (1, 5), (True,))


def test_a_split_comes_in_its_order_whatever_the_batch(model, data):
    see = inputs.see(model, mesh(2), 1)
    found = inputs.split_inputs(see, data.train, mesh(2), resize=8, crop=8, batch=4)
    pixels = np.stack([data.train.image(i) for i in range(9)])  # 8 x 8, as they are
    np.testing.assert_allclose(found[:8], np.asarray(see(pixels[:8])), **NEAR)
    assert found.shape == (9, 32)


def test_features_that_are_not_finite_are_refused(data):
    bad = lambda pixels: np.full((len(pixels), 3), np.inf)  # noqa: E731
    with pytest.raises(ConfigError, match="features are not finite"):
        inputs.split_inputs(bad, data.train, mesh(1), resize=8, crop=8)


def test_every_row_comes_once_an_epoch_and_rows_that_fill_weigh_nothing():
    rows = np.arange(6, dtype=np.float32)[:, None]
    batches = inputs.cached_batches(rows, np.arange(6), mesh(4), batch=3, seed=0)
    seen = []
    for batch in itertools.islice(batches, 4):
        assert batch.features.shape == (4, 1)
        np.testing.assert_array_equal(batch.weights, [1, 1, 1, 0])
        np.testing.assert_array_equal(batch.features[:3, 0], batch.labels[:3])
        seen += batch.labels[:3].tolist()
    assert sorted(seen[:6]) == sorted(seen[6:]) == list(range(6))
    assert seen[:6] != seen[6:]  # shuffled anew; at this seed the two orders differ


def test_random_crops_follow_the_seed(data):
    def first(seed):
        images, labels = next(inputs.random_crops(data.train, crop=8, batch=9, seed=seed))
        assert images.shape == (9, 8, 8, 3)
        assert np.bincount(labels).tolist() == [3, 3, 3]
        return images

    np.testing.assert_array_equal(first(0), first(0))
    assert (first(0) != first(1)).any()
