import numpy as np
import pytest

from dinov3_jax.config import ConfigError
from dinov3_jax.data.benchmarks.classification import open_classification
from dinov3_jax.data.centre_crop import centre_crop
from dinov3_jax.evals.classification.features import check_crop, split_features
from dinov3_jax.features.extract import extractor
from tests.data.benchmarks.folders import write_class_folders
from tests.features.models import mesh, vit


def test_features_of_every_image_in_order(tmp_path):
    model = vit()
    split = open_classification(write_class_folders(tmp_path, train=3, side=11)).train
    images = np.stack([centre_crop(split.image(i), resize=10, crop=8) for i in range(9)])
    extract = extractor(model, mesh(), tokens="cls+patch", layers=(1,), batch=4)
    wanted = extract(images)["patch_tokens_1"].mean(axis=(1, 2))
    got = split_features(
        model, mesh(), split, resize=10, crop=8, batch=4, tokens="cls+patch", layers=(1,),
        reduce=lambda found: found["patch_tokens_1"].mean(axis=(1, 2)),
    )  # fmt: skip
    np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize(
    ("resize", "crop", "message"),
    [
        (256, 30, "crop is 30 pixels, wanted a multiple of 4, .*; take 28 or 32"),
        (8, 3, "take 4$"),
        (8, 12, "resize is 8 pixels, below crop 12"),
    ],
)
def test_crops_that_do_not_fit(resize, crop, message):
    with pytest.raises(ConfigError, match=message):
        check_crop(vit(), resize=resize, crop=crop)
