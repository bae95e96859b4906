import numpy as np

from benchmarks import evaldata_mosaics as evaldata
from dinov3_jax.data.benchmarks.segmentation import open_segmentation
from dinov3_jax.data.benchmarks.voc07 import open_voc07


def test_the_labels_of_a_mosaic_are_what_its_mask_shows(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(evaldata, "TRAIN", 8)
    monkeypatch.setattr(evaldata, "VAL", 3)
    train, val = open_segmentation(evaldata.segmentation(photos, tmp_path / "pixels"))
    assert (len(train), len(val)) == (8, 3)
    labels = open_voc07(evaldata.voc07(photos, tmp_path / "labels"))
    assert labels.classes == evaldata.CLASSES
    assert [x.labels.shape for x in labels[:3]] == [(8, 6), (3, 6), (8, 6)]
    for i in range(8):  # both draw the same mosaics of the training split
        image, mask = train[i]
        np.testing.assert_array_equal(labels.train.image(i), image)
        there = np.flatnonzero(labels.train.labels[i])
        np.testing.assert_array_equal(np.unique(mask[mask != 255]), there)
        assert 1 <= len(there) <= 4
        assert (mask == 255).any()
