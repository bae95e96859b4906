"""Constructed features: every patch its own direction, or groups of patches."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from dinov3_jax.config import ConfigError
from dinov3_jax.evals.tracking.propagation import Propagation, neighbours, propagate, transfer

H, W = 5, 6
NEAREST = Propagation(context=2, radius=None, top_k=1)


def distinct(seed=0):
    """[H, W, H W]: orthogonal tokens of various lengths."""
    lengths = np.random.default_rng(seed).uniform(0.5, 2.0, (H, W, 1))
    return (lengths * np.eye(H * W).reshape(H, W, -1)).astype(np.float32)


def objects():
    """Labels [H, W, 3] of two objects and background, two patches of which are shared."""
    labels = np.zeros((H, W, 3), np.float32)
    labels[..., 0] = 1
    labels[1:3, 1:3] = [0, 1, 0]
    labels[3:, 4] = [0, 0, 1]
    labels[1, 1] = [0.25, 0.75, 0]
    return labels


def test_a_still_video_keeps_its_mask():
    labels = objects()
    for found in propagate([distinct(seed) for seed in range(5)], labels, NEAREST):
        np.testing.assert_allclose(found, labels, atol=1e-6)  # the division by the sum


@pytest.mark.parametrize("radius", [None, 1])
def test_a_mask_moves_with_its_patches(radius):
    """Without a limit across the border too; within a radius of 1 as far as it is inside."""
    labels, how = objects(), dataclasses.replace(NEAREST, radius=radius, context=1)
    frames = [np.roll(distinct(), i, axis=1) for i in range(3)]
    for i, found in enumerate(propagate(frames, labels, how), start=1):
        wanted = np.roll(labels, i, axis=1)
        inside = slice(None) if radius is None else slice(i, None)
        np.testing.assert_allclose(found[:, inside], wanted[:, inside], atol=1e-6)


def dense(query, context, labels, how):
    """The definition, with all cosines at once; float64."""
    unit = lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True)  # noqa: E731
    t, h, w, _ = context.shape
    cosines = np.einsum("yxd,trcd->yxtrc", unit(query), unit(context))
    y, x, r, c = np.ogrid[:h, :w, :h, :w]
    if how.radius is not None:
        away = np.maximum(abs(y - r), abs(x - c))
        if how.neighbourhood == "circle":
            away = np.hypot(y - r, x - c)
        cosines = np.where((away <= how.radius)[:, :, None], cosines, -np.inf)
    flat = cosines.reshape(h, w, -1)
    least = np.sort(flat, axis=-1)[..., -how.top_k, None]
    weights = np.where(flat >= least, np.exp(flat / how.temperature), 0.0)
    found = weights @ labels.reshape(t * h * w, -1)
    return found / found.sum(axis=-1, keepdims=True)


@pytest.mark.parametrize(
    ("radius", "neighbourhood"), [(None, "circle"), (1, "circle"), (3, "circle"), (2, "square")]
)
def test_one_row_at_a_time_is_the_definition(radius, neighbourhood):
    rng = np.random.default_rng(1)
    how = Propagation(2, radius, neighbourhood, top_k=4)
    query, context = rng.standard_normal((7, 4, 8)), rng.standard_normal((3, 7, 4, 8))
    labels = rng.dirichlet(np.ones(3), (3, 7, 4))
    unit = lambda x: jnp.asarray(x / np.linalg.norm(x, axis=-1, keepdims=True))  # noqa: E731
    got = transfer(unit(query), unit(context), jnp.asarray(labels), np.ones(3, bool), how)
    np.testing.assert_allclose(got, dense(query, context, labels, how), atol=1e-5)  # float32 sums


def test_context_is_the_first_frame_and_the_last_ones():
    """Against the definition on the frames that should count, each with the labels it got."""
    rng = np.random.default_rng(2)
    how = Propagation(context=2, radius=None, top_k=3)
    frames, labels = rng.standard_normal((6, H, W, 4)).astype(np.float32), objects()
    found = [labels, *propagate(frames, labels, how)]
    for i in range(1, 6):
        used = [0, *range(max(1, i - 2), i)]
        wanted = dense(frames[i], frames[used], np.stack([found[j] for j in used]), how)
        np.testing.assert_allclose(found[i], wanted, atol=1e-4)  # float32, over several frames


def test_only_the_first_frame():
    """Context 0: a frame of noise between two equal ones leaves no trace."""
    noise = np.random.default_rng(3).standard_normal((H, W, H * W)).astype(np.float32)
    how = dataclasses.replace(NEAREST, context=0)
    *_, last = propagate([distinct(), noise, distinct()], objects(), how)
    np.testing.assert_allclose(last, objects(), atol=1e-6)


def test_equal_cosines_all_count():
    """All patches are alike: each takes the mean of all labels, though top_k is 1."""
    labels = objects()
    (found,) = propagate([np.ones((H, W, 4), np.float32)] * 2, labels, NEAREST)
    np.testing.assert_allclose(found, np.broadcast_to(labels.mean((0, 1)), found.shape), atol=1e-6)


def test_more_neighbours_than_there_are_is_all_of_them():
    labels, how = objects(), Propagation(context=1, radius=0, top_k=50)
    for found in propagate([distinct()] * 3, labels, how):
        np.testing.assert_allclose(found, labels, atol=1e-6)


@pytest.mark.parametrize(("neighbourhood", "wanted"), [("circle", 5), ("square", 9)])
def test_neighbourhood_of_radius_1(neighbourhood, wanted):
    down, across = np.ogrid[-1:2, -1:2]
    assert neighbours(down, across, radius=1, neighbourhood=neighbourhood).sum() == wanted


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"neighbourhood": "disc"}, "neighbourhood is 'disc', wanted circle or square"),
        ({"context": -1}, "context is -1, wanted at least 0"),
        ({"radius": -1}, "radius is -1, wanted at least 0"),
        ({"top_k": 0}, "top_k is 0, wanted at least 1"),
        ({"temperature": 0.0}, "temperature is 0.0, wanted above 0"),
    ],
)
def test_settings_out_of_range(changes, message):
    with pytest.raises(ConfigError, match=message):
        Propagation(**changes)


def test_labels_of_another_grid_are_refused():
    with pytest.raises(ValueError, match=r"labels are \[4, 6, 3\], the first frame \[5, 6, 30\]"):
        next(propagate([distinct()], objects()[1:], NEAREST))
