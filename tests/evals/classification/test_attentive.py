import dataclasses

import numpy as np
import pytest

from dinov3_jax.config import ConfigError
from dinov3_jax.data.benchmarks.clips import Clips
from dinov3_jax.evals.classification.attentive import AttentiveSettings, _parts, evaluate
from tests.data.benchmarks.clips import write_clips
from tests.data.benchmarks.folders import write_class_folders
from tests.evals.constructed import levels
from tests.features.models import mesh, vit


@pytest.fixture(scope="module")
def model():
    return vit()


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """Two classes of clips that differ in how much blue there is."""
    data = write_clips(tmp_path_factory.mktemp("clips"), train=5, test=3, count=5, side=8)
    return AttentiveSettings(
        data,
        frames=2,
        crop=8,
        width=12,
        blocks=1,
        heads=1,
        lrs=(1e-6, 1e-2),
        weight_decays=(1e-3, 1e-1),
        epochs=10,
        batch=4,
        augment=False,
        held_out=0.4,
    )


@pytest.fixture(scope="module")
def result(model, settings):
    return evaluate(model, settings, mesh(1))


def test_it_reads_the_classes_out_of_patch_tokens(result):
    assert result.metrics["top1"] == 100.0
    assert result.metrics["val_top1"] == 100.0
    assert result.metrics["lr"] == 1e-2
    assert "top5" not in result.metrics  # of two classes
    assert "on the 4 held out" in result.pictures[0].caption


@pytest.mark.parametrize(("channel", "top1"), [(2, 100.0), (0, 50.0)])
def test_a_perfect_feature_scores_100_and_a_useless_one_chance(settings, channel, top1):
    """Blue says the class; red says which frame it is, the same in both."""
    found = evaluate(levels(4, channels=(channel,)), settings, mesh(1))
    assert found.metrics["top1"] == top1


def test_the_same_on_eight_devices_and_cell_by_cell(model, settings):
    # Counts of clips; sums in another order do not turn a decision here.
    few = dataclasses.replace(settings, epochs=2)
    alone = dataclasses.replace(few, at_once=1)
    assert evaluate(model, alone, mesh(8)).metrics == evaluate(model, few, mesh(1)).metrics


def test_random_boxes_and_six_views(model, settings):
    changed = dataclasses.replace(settings, augment=True, tta=True, epochs=8)
    found = evaluate(model, changed, mesh(1))
    assert found.metrics["top1"] == 100.0


def test_images_are_clips_of_one_frame(model, settings, tmp_path):
    data = write_class_folders(tmp_path, ("a", "f"), train=4, val=1, test=2)
    changed = dataclasses.replace(settings, data=data, frames=1, epochs=2)
    with pytest.raises(ConfigError, match="are single images; set frames=1"):
        evaluate(model, dataclasses.replace(changed, frames=2), mesh(1))
    found = evaluate(model, changed, mesh(1))
    assert found.metrics["top1"] in (0.0, 25.0, 50.0, 75.0, 100.0)
    assert "on the 2 held out" in found.pictures[0].caption  # val/, one of each class


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"crop": 10}, "multiple of 4"),
        ({"heads": 5}, "wanted width a multiple of 10"),
        ({"epochs": 0}, "epochs is 0"),
        ({"lrs": ()}, "lrs or weight_decays is empty"),
        ({"lrs": (1e30, 1e30)}, "no probe of the grid ended finite"),
    ],
)
def test_settings_that_cannot_be_are_refused(model, settings, change, message):
    with pytest.raises(ConfigError, match=message):
        evaluate(model, dataclasses.replace(settings, **change), mesh(1))


def test_single_clips_cannot_be_held_out(model, settings, tmp_path):
    data = write_clips(tmp_path, train=1, test=1, count=2, side=8)
    with pytest.raises(ConfigError, match="no class of train has two clips"):
        evaluate(model, dataclasses.replace(settings, data=data), mesh(1))


def test_what_is_held_out_is_a_share_of_each_class():
    labels = np.repeat(np.arange(3), (20, 5, 1)).astype(np.int32)
    clips = Clips(tuple("x" * 26), labels)
    train, held = _parts(clips, None, AttentiveSettings("", held_out=0.1))
    assert np.bincount(held.labels, minlength=3).tolist() == [2, 1, 0]  # single clips train
    assert sorted([*train.indices, *held.indices]) == list(range(26))
