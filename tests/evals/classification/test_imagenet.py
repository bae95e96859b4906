import dataclasses
import shutil

import numpy as np
import pytest

from dinov3_jax.data.sources import SourceError
from dinov3_jax.evals.classification import linear
from dinov3_jax.evals.classification.imagenet import ImagenetSettings, evaluate
from dinov3_jax.evals.classification.metrics import ALEXNET
from tests.data.benchmarks.imagenet import write_imagenet
from tests.features.models import mesh, vit


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    data = write_imagenet(tmp_path_factory.mktemp("imagenet"))
    return ImagenetSettings(
        data,
        lrs=(1.0,),
        weight_decays=(0.0,),
        steps=2,
        batch=16,
        augment=False,
        resize=8,
        crop=8,
    )


@pytest.fixture
def says(monkeypatch):
    """Replaces the trained classifier by scores that a test chooses."""

    def replace(scores):
        monkeypatch.setattr(linear, "scores", lambda head, split, settings, mesh: scores(split))

    return replace


def true_class(split):
    return np.eye(4)[split.labels]


ALL = {"top1", "real/any_match", "v2/top1", "r/top1", "a/top1", "sketch/top1", "objectnet/top1",
       "c/mce"}  # fmt: skip


def test_a_perfect_classifier_scores_100_everywhere(settings, says):
    says(true_class)
    found = evaluate(vit(), settings, mesh(1)).metrics
    assert {name: found[name] for name in ALL - {"c/mce"}} == dict.fromkeys(ALL - {"c/mce"}, 100.0)
    assert found["c/mce"] == 0.0
    assert [found[f"c/error/{name}"] for name in ALEXNET] == [0.0] * 15


def test_one_that_always_says_class_1(settings, says):
    """Of four classes; but where 0 and 2 cannot be said, or 1 is right too, it fares better."""
    says(lambda split: np.tile([0.0, 2.0, 0.0, 1.0], (len(split), 1)))
    found = evaluate(vit(), settings, mesh(1)).metrics
    assert found["top1"] == found["v2/top1"] == found["sketch/top1"] == 25.0
    assert found["real/any_match"] == pytest.approx(100 * 2 / 7)  # one image has no label
    assert found["r/top1"] == found["a/top1"] == 50.0  # classes 1 and 3 alone
    assert found["objectnet/top1"] == 50.0  # right for the book, by its second wnid
    assert found["c/error/fog"] == 100.0
    assert found["c/mce"] == pytest.approx(np.mean([100 / error for error in ALEXNET.values()]))


def test_classes_that_a_set_lacks_cannot_be_said(settings, says):
    # It prefers class 0, which R, A lack, and then is right.
    says(lambda split: true_class(split) + np.array([2.0, 0.0, 0.0, 0.0]))
    found = evaluate(vit(), settings, mesh(1)).metrics
    assert found["r/top1"] == found["a/top1"] == 100.0
    assert found["v2/top1"] == 25.0


def test_the_trained_classifier_is_the_same_on_eight_devices(settings):
    one, eight = (evaluate(vit(), settings, mesh(n)).metrics for n in (1, 8))
    assert one == eight  # counts; no two logits are so near that the order of sums decides
    assert one.keys() >= ALL


def test_sets_that_are_not_there_are_left_out(settings, says, tmp_path):
    says(true_class)
    for name in ("train", "val", "sketch"):
        shutil.copytree(f"{settings.data}/{name}", tmp_path / name)
    changed = dataclasses.replace(settings, data=str(tmp_path))
    found = evaluate(vit(), changed, mesh(1)).metrics
    assert ALL & found.keys() == {"top1", "sketch/top1"}
    with pytest.raises(SourceError, match="none of the other test sets"):
        evaluate(vit(), dataclasses.replace(changed, sketch=""), mesh(1))


def test_corruptions_are_all_wanted_before_anything_is_trained(settings, tmp_path):
    for name in ("train", "val"):
        shutil.copytree(f"{settings.data}/{name}", tmp_path / name)
    shutil.copytree(f"{settings.data}/imagenet-c/fog", tmp_path / "imagenet-c" / "fog")
    with pytest.raises(SourceError, match="lacks 70 of 75 folders"):
        evaluate(None, dataclasses.replace(settings, data=str(tmp_path)), mesh(1))  # type: ignore
