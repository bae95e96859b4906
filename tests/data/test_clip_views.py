import numpy as np

from dinov3_jax.data.clip_views import random_square, six_views, square


def ramp(frames=4, height=8, width=20):
    """Red says the frame, green the row, blue the column."""
    t, y, x = np.mgrid[:frames, :height, :width]
    return np.stack([t, y, x], axis=-1).astype(np.uint8)


def test_squares_lie_at_their_place_of_the_longer_side():
    wide, tall = ramp(), ramp(height=20, width=8)
    for place, start in ((0.0, 0), (0.5, 6), (1.0, 12)):
        np.testing.assert_array_equal(
            square(wide, place=place, crop=8), wide[:, :, start : start + 8]
        )
        np.testing.assert_array_equal(square(tall, place=place, crop=8), tall[:, start : start + 8])
    assert square(wide, place=0.5, crop=4).shape == (4, 4, 4, 3)


def test_six_views_are_three_squares_of_two_interleaved_clips():
    clip = ramp()
    views = six_views(clip, crop=8)
    assert [view[:, 0, 0, 0].tolist() for view in views] == [[0, 2]] * 3 + [[1, 3]] * 3
    assert [int(view[0, 0, 0, 2]) for view in views] == [0, 6, 12] * 2


def test_all_frames_have_one_random_box():
    clip, rng = ramp(height=40, width=60), np.random.default_rng(0)
    corners = set()
    for _ in range(20):
        view = random_square(clip, rng, crop=8, scale=(0.4, 0.6))
        assert view.shape == (4, 8, 8, 3)
        for frame in view:
            np.testing.assert_array_equal(frame[..., 1:], view[0, ..., 1:])
        np.testing.assert_array_equal(view[:, 0, 0, 0], range(4))
        corners.add(tuple(view[0, 0, 0, 1:]))
    assert len(corners) > 10
