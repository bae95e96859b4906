import numpy as np
import pytest

from dinov3_jax.config import ConfigError
from dinov3_jax.data.sources import SourceError
from dinov3_jax.evals.tracking.propagation import Propagation
from dinov3_jax.evals.tracking.track import decide, patch_labels, scaled_size, track
from tests.data.benchmarks.masked_clips import moving_squares


def colours(images):
    """A feature by hand: the mean colour of each 8 x 8 patch, centred."""
    n, height, width, _ = images.shape
    blocks = images.reshape(n, height // 8, 8, width // 8, 8, 3).mean((2, 4))
    return {"patch_tokens": (blocks - 125).astype(np.float32)}


HOW = {
    "short_side": 32, "stride": 8, "batch": 3, "upsample": "nearest",
    "how": Propagation(context=2, radius=None, top_k=1),
}  # fmt: skip


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_squares_are_followed_exactly(batch):
    """On the patch grid, and what is found does not depend on the frames that go together."""
    frames, masks = moving_squares()
    found = list(track(frames, masks[0], colours, **(HOW | {"batch": batch})))
    np.testing.assert_array_equal(found, masks[1:])


def test_an_object_keeps_its_number():
    frames, masks = moving_squares()
    numbers = np.array([0, 9, 4])[masks[0]]
    found = list(track(frames, numbers, colours, **HOW))
    np.testing.assert_array_equal(found, np.array([0, 9, 4])[masks[1:]])


@pytest.mark.parametrize(
    ("size", "short_side", "stride", "wanted"),
    [
        ((480, 854), 960, 16, (960, 1712)),  # 1708 up
        ((480, 854), 480, 16, (480, 864)),
        ((1080, 1920), 1440, 16, (1440, 2560)),
        ((100, 50), 28, 14, (56, 28)),
        ((50, 100), 29, 14, (42, 70)),  # 29 and 58 up
    ],
)
def test_scaled_size(size, short_side, stride, wanted):
    assert scaled_size(*size, short_side=short_side, stride=stride) == wanted


def test_labels_are_shares_of_patches():
    mask = np.zeros((4, 6), np.int16)
    mask[0, :3], mask[2:, 4:] = 5, 7
    got = patch_labels(mask, np.array([5, 7]), 2, 3)
    wanted = [[[0.5, 0.5, 0], [0.75, 0.25, 0], [1, 0, 0]], [[1, 0, 0], [1, 0, 0], [0, 0, 1]]]
    np.testing.assert_allclose(got, wanted, atol=1e-6)  # float32


def test_labels_are_stretched_before_they_compete():
    """A faint object is seen where it is most likely; one that is nowhere, not at all."""
    labels = np.zeros((2, 2, 3), np.float32)
    labels[0, 0] = [0.9, 0.1, 0]
    labels[0, 1] = labels[1] = [1.0, 0.0, 0]
    got = decide(labels, np.array([3, 4]), 4, 4, upsample="nearest")
    np.testing.assert_array_equal(got, [[3, 3, 0, 0]] * 2 + [[0] * 4] * 2)
    assert decide(labels, np.array([3, 4]), 4, 4, upsample="bilinear").tolist()[0] == [3, 3, 0, 0]


def test_mistakes():
    frames, masks = moving_squares()
    with pytest.raises(SourceError, match=r"frame 0 has 32 x 48 pixels, the mask .* 31 x 48"):
        next(track(frames, masks[0, 1:], colours, **HOW))
    with pytest.raises(ConfigError, match="upsample is 'cubic', wanted bilinear or nearest"):
        next(track(frames, masks[0], colours, **(HOW | {"upsample": "cubic"})))
    with pytest.raises(ConfigError, match="short_side is 0 pixels"):
        next(track(frames, masks[0], colours, **(HOW | {"short_side": 0})))
