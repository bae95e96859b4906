import numpy as np

from dinov3_jax.evals.dense.pictures import class_colours, class_row, depth_row, extremes


def test_extremes():
    scores = {i: float(s) for i, s in enumerate((5, 3, 9, 3, 1, 7, 8))}
    assert extremes(scores, 2) == [4, 1, 6, 2]
    assert extremes({4: 1.0, 2: 0.5}, 3) == [2, 4]
    assert extremes({}, 3) == []


def test_classes_have_colours_of_their_own():
    palette = class_colours(np.arange(256))
    assert len(np.unique(palette, axis=0)) == 256
    assert (palette[255] == palette[255, 0]).all()  # no class: grey
    near = np.abs(palette[:20, None].astype(int) - palette[None, :20]).sum(-1)
    assert near[~np.eye(20, dtype=bool)].min() > 20


def test_rows_fit_the_page():
    image = np.zeros((600, 900, 3), np.uint8)
    labels = np.zeros((600, 900), np.uint8)
    row = class_row(image, labels, labels + 1)
    assert max(row.shape) <= 512
    third = row.shape[1] // 3
    assert (row[5, 5] == 0).all()
    assert (row[5, third + 20] != row[5, -5]).any()


def test_depth_has_one_scale_for_truth_and_prediction():
    image = np.zeros((20, 20, 3), np.uint8)
    depth = np.full((40, 40), 2.0, np.float32)
    depth[:20], depth[:4] = 4.0, 0.0
    row = depth_row(image, depth, np.full((40, 40), 4.0, np.float32))
    truth, predicted = row[:, 22:42], row[:, 44:64]
    assert row.shape == (20, 64, 3)
    np.testing.assert_array_equal(truth[0, 5], [96, 96, 96])  # unknown
    np.testing.assert_array_equal(truth[8, 5], predicted[8, 5])
    assert (truth[15, 5] > predicted[15, 5]).all()  # nearer is brighter
    assert depth_row(image, depth * 0, depth).shape == row.shape
