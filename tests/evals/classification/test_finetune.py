import dataclasses

import jax
import numpy as np
import pytest

from dinov3_jax.config import ConfigError
from dinov3_jax.data.benchmarks.classification import open_classification
from dinov3_jax.evals.classification.finetune import FinetuneSettings, evaluate, train
from dinov3_jax.models.model import Model
from tests.data.benchmarks.folders import write_class_folders
from tests.features.models import convnext_config, mesh, vit, write_images


@pytest.fixture(scope="module")
def model():
    return vit()


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    data = write_class_folders(tmp_path_factory.mktemp("data"), train=6, val=1, test=3)
    return FinetuneSettings(
        data,
        epochs=2,
        batch=16,
        group=2,
        lr=3e-3,
        head_lr=3e-2,
        drop_path=0.5,
        resize=8,
        crop=8,
    )


def tuned(model, settings, on):
    split = open_classification(settings.data).train
    return train(model, settings, split, 3, on)


@pytest.fixture(scope="module")
def one(model, settings):
    return tuned(model, settings, mesh(1))


def test_it_learns_and_leaves_the_model_as_it_was(model, settings):
    before = jax.tree.map(np.array, model.params)
    whole = dataclasses.replace(settings, epochs=40, drop_path=0.0)
    found = evaluate(model, whole, mesh(1)).metrics
    assert found["top1"] == 100  # grey levels 40 apart
    assert set(found) == {"top1", "val_top1"}
    jax.tree.map(np.testing.assert_array_equal, before, model.params)


def test_equal_images_of_all_classes_score_chance(model, settings, tmp_path):
    for split, each in (("train", 2), ("test", 1)):
        for name in "abc":
            write_images(tmp_path / split / name, each, 8, 8)
    changed = dataclasses.replace(settings, data=str(tmp_path), drop_path=0.0)
    assert evaluate(model, changed, mesh(1)).metrics["top1"] == pytest.approx(100 / 3)


def test_the_same_on_eight_devices(model, settings, one):
    eight = tuned(model, settings, mesh(8))
    moved = np.abs(np.asarray(one[1].kernel)).max()
    # Adam divides by the gradient's size: a sum in another order shows where that is near 0.
    np.testing.assert_allclose(one[1].kernel, eight[1].kernel, atol=1e-2 * moved)
    for a, b in zip(jax.tree.leaves(one[0].params), jax.tree.leaves(eight[0].params)):
        np.testing.assert_allclose(a, b, atol=2e-3)


def test_lower_layers_move_less(model, settings, one):
    frozen, _ = tuned(model, dataclasses.replace(settings, layer_decay=0.0), mesh(1))
    same = lambda name: jax.tree.map(  # noqa: E731
        lambda a, b: bool((np.asarray(a) == b).all()), model.params[name], frozen.params[name]
    )
    assert all(jax.tree.leaves([same("blocks"), same("patch_embed"), same("cls_token")]))
    assert not any(jax.tree.leaves(same("norm")))  # the one layer with a factor of 1
    moved = lambda name: np.abs(one[0].params[name] - model.params[name]).max()  # noqa: E731
    assert moved("cls_token") > 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch": 12}, "batch is 12, wanted a multiple of 8: group 2 x 4 devices; take 16"),
        ({"epochs": 0}, "epochs is 0"),
        ({"crop": 6}, "multiple of 4"),
    ],
)
def test_settings_that_cannot_be_are_refused(model, settings, change, message):
    with pytest.raises(ConfigError, match=message):
        evaluate(model, dataclasses.replace(settings, **change), mesh(4))


def test_a_convnext_has_no_stochastic_depth(settings):
    changed = dataclasses.replace(settings, resize=32, crop=32)
    with pytest.raises(ConfigError, match=r"drop_path is 0\.5.* ConvNeXt"):
        evaluate(Model("convnext", convnext_config(), {}), changed, mesh(1))
