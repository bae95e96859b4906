"""A wall that both cameras see, in place of the motorcycle."""

import numpy as np
import pytest

from benchmarks import evaldata_stereo as evaldata
from dinov3_jax.data.benchmarks.depth import open_depth
from dinov3_jax.data.benchmarks.matches import open_matches
from dinov3_jax.data.benchmarks.navi import open_navi
from dinov3_jax.data.benchmarks.spair import open_spair
from dinov3_jax.evals.correspondence.geometry import move, unproject


def test_what_the_board_covers_and_what_is_out_of_sight_is_hidden(pair):
    seen = evaldata.visible(pair[2])
    assert not seen[:50, :50].any()
    assert not seen[100, :20].any()  # beyond the right camera's left edge
    assert seen[100, 20:].all() and seen[250, 300:400].all()  # noqa: PT018
    # The board is at 260 .. 360 of the right image, where wall of 280 .. 380 would be.
    assert not seen[250, 281:299].any()
    assert seen[250, 402:].all()


def test_points_and_keypoints(pair, tmp_path):
    evaldata.matches(tmp_path, tmp_path / "matches", points=50)
    (found,) = open_matches(str(tmp_path / "matches/points.csv"))
    shift = found.points_a - found.points_b
    assert set(np.unique(shift[:, 0])) <= {20.0, 40.0}
    assert not shift[:, 1].any()
    evaldata.spair(tmp_path, tmp_path / "spair", points=7)
    (keypoints,) = open_spair(str(tmp_path / "spair"), split="test").pairs
    assert keypoints.points_a.shape == (7, 2)


def test_the_known_pose_takes_points_to_their_partners(pair, tmp_path):
    evaldata.navi(tmp_path, tmp_path)
    a, b = open_navi(str(tmp_path), scenes="wild_set")["motorbike/wild_set"]
    x, y = 250, 100  # of the wall, in the left image cut to 622 columns, from row 10 on
    here = unproject(a.depth(), np.array([y]), np.array([x]), focal=a.focal)[0]
    # Both are cut to the left edge: the right image's column is 20 less.
    there = unproject(b.depth(), np.array([y]), np.array([x - 20]), focal=b.focal)[0]
    # Half a millimetre: principal points are rounded to pixels when cutting, depth to 16 bits.
    np.testing.assert_allclose(move(here, a, b), there, atol=5e-4)
    assert here[0, 2] == pytest.approx(0.25 * 994.978 * 0.193001 / (20 + 31.086), rel=2e-3)


def test_the_depth_of_the_wall_and_of_the_board(pair, tmp_path):
    train, test = open_depth(evaldata.depth(tmp_path, tmp_path))
    (image, left), (_, right) = train[0], test[0]
    np.testing.assert_array_equal(image, pair[0][:, :370])
    metres = np.concatenate((left, right), axis=1)
    far = 994.978 * 0.193001 / (np.array([20, 40]) + 31.086)
    # Stored in millimetres.
    np.testing.assert_allclose((metres[100, 500], metres[250, 350]), far, atol=6e-4)
    np.testing.assert_array_equal(metres == 0, np.isinf(pair[2]))
