"""Pictures of features whose answer is known."""

import numpy as np
import pytest

from dinov3_jax.evals.foreground import pca_pictures, split


def scene(h=12, w=16, box=(3, 8, 4, 11), D=8, noise=0.02, seed=0):
    """Tokens of an object of two halves before a background, and where the object is."""
    rng = np.random.default_rng(seed)
    background, left, right = np.eye(D)[:3]
    top, bottom, first, last = box
    tokens = np.tile(background * 3, (h, w, 1))
    middle = (first + last) // 2
    tokens[top:bottom, first:middle] = left + right
    tokens[top:bottom, middle:last] = left - right
    mask = np.zeros((h, w), bool)
    mask[top:bottom, first:last] = True
    return tokens + noise * rng.standard_normal(tokens.shape), mask


@pytest.mark.parametrize("sign", [1, -1])
def test_the_object_is_foreground_whatever_the_sign(sign):
    tokens, mask = scene()
    np.testing.assert_array_equal(split([sign * tokens])[0], mask)


def test_an_object_larger_than_its_background():
    """The sides are told apart by the border, not by their number of patches."""
    tokens, mask = scene(box=(1, 11, 1, 15))
    assert mask.mean() > 0.7
    np.testing.assert_array_equal(split([tokens])[0], mask)


def test_images_of_several_sizes_share_the_split_and_the_colours():
    scenes = [scene(), scene(h=8, w=9, box=(2, 6, 3, 7), seed=1)]
    grids = [tokens for tokens, _ in scenes]
    made = pca_pictures(grids, foreground="auto")
    assert [x.shape[:2] for x in made] == [(12, 16), (8, 9)]
    for picture, (_, mask) in zip(made, scenes):
        assert (picture[~mask] == 24).all()
    # The halves differ in the first component: red is at its ends, alike in both images.
    red = [(picture[4, 5, 0], picture[4, 9, 0]) for picture in made[:1]]
    red += [(made[1][4, 3, 0], made[1][4, 6, 0])]
    low_first = red[0][0] < red[0][1]
    for left, right in red:
        assert (left < right) == low_first
        assert abs(int(left) - int(right)) > 200


def test_flip_colours_the_other_side_and_none_all():
    tokens, mask = scene()
    auto, flip, none = (
        pca_pictures([tokens], foreground=foreground)[0] for foreground in ("auto", "flip", "none")
    )
    dark = lambda picture: (picture == 24).all(axis=-1)  # noqa: E731
    np.testing.assert_array_equal(dark(auto), ~mask)
    np.testing.assert_array_equal(dark(flip), mask)
    assert not dark(none).any()
    # Two regions, two colours: object and background lie at the two ends of the first component.
    assert abs(none[mask][:, 0].mean() - none[~mask][:, 0].mean()) > 200


def test_features_that_are_all_alike():
    same = np.ones((3, 4, 5))
    assert split([same])[0].all()
    assert (pca_pictures([same], foreground="auto")[0] == 128).all()


def test_equal_scores_stay_on_one_side():
    """Two values only, many ties."""
    tokens = np.zeros((6, 6, 3))
    tokens[2:4, 2:4, 0] = 1.0
    np.testing.assert_array_equal(split([tokens])[0], tokens[..., 0] == 1.0)


def test_an_unknown_choice():
    with pytest.raises(ValueError, match="foreground is 'yes', wanted one of auto, flip, none"):
        pca_pictures([scene()[0]], foreground="yes")
