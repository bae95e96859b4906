import numpy as np
import pytest

from dinov3_jax.data.benchmarks.depth import KITTI, NYU, OWN, open_depth
from dinov3_jax.data.sources import SourceError
from tests.data.benchmarks import dense_layouts as layouts

# Half a stored step, and float32.
MILLIMETRES, KITTI_STEPS = 1e-6, 0.5 / 256 + 1e-6


def test_nyu(tmp_path):
    layouts.nyu(tmp_path)
    train, test = open_depth(str(tmp_path), per_metre=7)  # a setting for one's own data only
    assert (len(train), len(test), train.protocol) == (2, 2, NYU)
    image, depth = train[1]
    assert image.shape == (48, 64, 3)
    assert depth.dtype == np.float32
    np.testing.assert_allclose(depth, layouts.metres(1, 48, 64), atol=MILLIMETRES)


def test_kitti_is_cut_to_one_size_and_lines_without_depth_are_left_out(tmp_path):
    layouts.kitti(tmp_path)
    train, test = open_depth(str(tmp_path))
    assert (len(train), len(test), test.protocol) == (1, 1, KITTI)
    image, depth = test[0]
    np.testing.assert_array_equal(image, layouts.pixels(0, 375, 1242)[23:, 13:1229])
    wanted = layouts.metres(0, 375, 1242)[23:, 13:1229]
    np.testing.assert_allclose(depth, wanted, atol=KITTI_STEPS)


def test_kitti_of_another_size(tmp_path):
    layouts.kitti(tmp_path, 340, 1242)
    with pytest.raises(SourceError, match="340 x 1242 pixels, wanted at least 352 x 1216"):
        open_depth(str(tmp_path))[0][0]


@pytest.mark.parametrize(("suffix", "per_metre"), [(".png", 1000), (".png", 5000), (".npy", 1)])
def test_ones_own(tmp_path, suffix, per_metre):
    layouts.own_depth(tmp_path, suffix=suffix, per_metre=per_metre)
    train, test = open_depth(str(tmp_path), per_metre=per_metre)
    assert (len(train), len(test), train.protocol) == (2, 2, OWN)
    np.testing.assert_allclose(test[1][1], layouts.metres(1), atol=MILLIMETRES)


def test_unknown_depths_become_zero(tmp_path):
    layouts.own_depth(tmp_path, suffix=".npy")
    depth = layouts.metres(0)
    depth[0, :3] = (np.nan, np.inf, 0)
    layouts.save(tmp_path / "depth/train/0.npy", depth)
    got = open_depth(str(tmp_path))[0][0][1]
    np.testing.assert_array_equal(got[0, :3], 0)
    np.testing.assert_array_equal(got[1:], depth[1:])


def test_another_layout_is_told_the_ones_there_are(tmp_path):
    with pytest.raises(
        SourceError, match=r"(?s)no depth data in .*NYU .*KITTI .*depth/\{train,test\}"
    ):
        open_depth(str(tmp_path))


def test_what_is_missing_is_named(tmp_path):
    layouts.own_depth(tmp_path)
    (tmp_path / "depth/test/1.png").unlink()
    with pytest.raises(SourceError, match=r"1 files are missing, the first is .*depth/test/1.png"):
        open_depth(str(tmp_path))


def test_a_list_with_other_lines(tmp_path):
    layouts.nyu(tmp_path)
    (tmp_path / "nyu_test.txt").write_text("alone.jpg\n")
    with pytest.raises(SourceError, match=r"nyu_test.txt, line 1, is 'alone.jpg'; wanted RGB DE"):
        open_depth(str(tmp_path))
    (tmp_path / "nyu_test.txt").write_text("\n")
    with pytest.raises(SourceError, match=r"a split of .* has no images"):
        open_depth(str(tmp_path))


@pytest.mark.parametrize(
    ("depth", "suffix", "message"),
    [
        (np.ones((24, 31), np.uint16), ".png", "24 x 32 and 24 x 31 pixels, wanted the same"),
        (np.ones((24, 32), np.uint8), ".png", "uint8 .*wanted .* a PNG of 16 bits"),
        (np.ones((24, 32, 3), np.uint8), ".png", r"\[24, 32, 3\]; wanted \[H, W\]"),
        (-np.ones((24, 32), np.float32), ".npy", "depths down to -1.0 m, wanted 0 or more"),
        (np.array(["far"]), ".npy", r"wanted \[H, W\]"),
    ],
)
def test_a_depth_that_does_not_fit(tmp_path, depth, suffix, message):
    layouts.own_depth(tmp_path, suffix=suffix)
    layouts.save(tmp_path / f"depth/train/0{suffix}", depth)
    train, _ = open_depth(str(tmp_path))
    train[1]
    with pytest.raises(SourceError, match=message):
        train[0]


def test_per_metre_is_positive(tmp_path):
    layouts.own_depth(tmp_path)
    with pytest.raises(SourceError, match="per_metre is 0, wanted a positive number"):
        open_depth(str(tmp_path), per_metre=0)
