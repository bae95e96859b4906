import itertools

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec as P
from sklearn.linear_model import LogisticRegression

from dinov3_jax.distributed.sharding import batch_sharding
from dinov3_jax.evals.classification.probe import Batch, Cell, cell_ranks, grid, logits, train
from tests.features.models import mesh


def blobs(n=48, width=6, classes=3, seed=0):
    """Features around one centre a class, wide enough apart to mostly tell them."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    centres = rng.normal(size=(classes, width))
    return (centres[labels] + rng.normal(size=(n, width))).astype(np.float32), labels


def repeat(features, labels, on, *, fill=0):
    """The whole set, again and again, with ``fill`` rows of rubbish and weight 0."""
    rows = np.concatenate([features, np.full((fill, features.shape[1]), 7, np.float32)])
    weights = np.concatenate([np.ones(len(features)), np.zeros(fill)]).astype(np.float32)
    labels = np.concatenate([labels, np.zeros(fill, int)]).astype(np.int32)
    batch = Batch(*jax.device_put((rows, labels, weights), batch_sharding(on)))
    return itertools.repeat(batch)


def fit(cells, on=None, *, fill=0, steps=30, data=None):
    on = on or mesh(1)
    features, labels = data or blobs()
    return train(cells, repeat(features, labels, on, fill=fill), classes=3, steps=steps, mesh=on)


def kernel(trained, cell):
    return np.asarray(trained.one(cell)[1].kernel)


CELLS = grid([(0, 6), (2, 6)], [0.1, 0.5], [0.0, 0.01])


def test_each_cell_ends_where_it_would_alone():
    together = fit(CELLS)
    for place in (0, 3, 6):
        alone = fit(CELLS[place : place + 1])
        # The same float32 sums in products of other widths.
        np.testing.assert_allclose(kernel(together, place), kernel(alone, 0), rtol=1e-4, atol=1e-6)
        assert together.one(place)[0] == CELLS[place].span


def test_it_converges_to_the_logistic_regression_of_scikit_learn():
    features, labels = blobs()
    ones = np.ones((len(features), 1), np.float32)  # decay acts on the bias too: theirs is a column
    decay = 0.05
    trained = fit(grid([(0, 6)], [0.5], [decay]), steps=400)
    oracle = LogisticRegression(C=1 / (decay * len(features)), fit_intercept=False, tol=1e-10)
    oracle.fit(np.concatenate([features, ones], axis=1), labels)
    _, (found, bias) = trained.one(0)
    got = np.concatenate([found, np.asarray(bias)[None]])
    # The cosine ends at rate 0 a little before the minimum; entries are of order 1.
    np.testing.assert_allclose(got, oracle.coef_.T, atol=2e-3)


def test_a_rate_that_diverges_harms_no_other_cell_and_never_wins():
    wild = fit([Cell((0, 6), 0.1, 0.0), Cell((0, 6), 1e30, 1e30)])
    calm = fit(grid([(0, 6)], [0.1], [0.0]))
    np.testing.assert_allclose(kernel(wild, 0), kernel(calm, 0), rtol=1e-4, atol=1e-6)
    assert not np.isfinite(kernel(wild, 1)).all()
    features, labels = blobs()
    found = np.asarray(cell_ranks(wild, jax.numpy.asarray(features), jax.numpy.asarray(labels)))
    assert (found[:, 1] != 0).all()
    assert (found[:, 0] == 0).mean() > 0.6


def test_the_same_on_eight_devices_and_with_rows_that_fill_up():
    one, eight = fit(CELLS, fill=3), fit(CELLS, mesh(8), fill=8)
    for place in range(len(CELLS)):
        # Gradients are summed in another order.
        np.testing.assert_allclose(kernel(one, place), kernel(eight, place), rtol=1e-4, atol=1e-6)
    sharded = eight.classifiers[(0, 6)].kernel.sharding
    assert sharded.is_equivalent_to(NamedSharding(mesh(8), P()), 3)


def test_columns_outside_the_span_are_not_seen():
    features, labels = blobs()
    other = features.copy()
    other[:, :2] = 100.0
    cells = grid([(2, 6)], [0.1], [0.0])
    np.testing.assert_array_equal(
        kernel(fit(cells, data=(other, labels)), 0), kernel(fit(cells), 0)
    )


def test_ranks_are_in_the_order_of_the_grid():
    cells = [CELLS[0], CELLS[4], CELLS[1]]  # columns in turns
    trained = fit(cells)
    features, labels = (jax.numpy.asarray(x) for x in blobs(seed=1))
    found = np.asarray(cell_ranks(trained, features, labels))
    for place in range(3):
        scores = np.asarray(logits(features, *trained.one(place)))
        expected = (scores > np.take_along_axis(scores, np.asarray(labels)[:, None], 1)).sum(1)
        np.testing.assert_array_equal(found[:, place], expected)


def test_errors_say_what_was_wrong():
    features, labels = blobs()
    few = itertools.islice(repeat(features, labels, mesh(1)), 2)
    with pytest.raises(ValueError, match="ended after 2 steps, wanted 5"):
        train(CELLS[:1], few, classes=3, steps=5, mesh=mesh(1))
    with pytest.raises(ValueError, match="no cell 1 in a grid of 1"):
        fit(CELLS[:1], steps=1).one(1)
