import numpy as np
import pytest

from dinov3_jax.config import ConfigError
from dinov3_jax.evals.classification.few_shot import draw, spread, subsets

LABELS = np.array([0] * 10 + [2] * 30 + [5] * 4)


def counts(chosen):
    return np.bincount(LABELS[chosen], minlength=6)[[0, 2, 5]].tolist()


def test_as_many_of_each_class_or_a_share():
    assert counts(draw(LABELS, 3, seed=0)) == [3, 3, 3]
    assert counts(draw(LABELS, 0.1, seed=0)) == [1, 3, 1]  # never none


def test_a_seed_is_a_draw():
    first = draw(LABELS, 3, seed=0)
    np.testing.assert_array_equal(first, draw(LABELS, 3, seed=0))
    assert not np.array_equal(first, draw(LABELS, 3, seed=1))
    assert len(set(first)) == 9


@pytest.mark.parametrize(
    ("shots", "message"),
    [(5, "class 5 has 4 images"), (2.5, "wanted a whole number"), (0, "is 0"), (-1, "is -1")],
)
def test_shots_that_cannot_be(shots, message):
    with pytest.raises(ConfigError, match=message):
        draw(LABELS, shots, seed=0)


def test_every_draw_has_its_seed_and_none_means_all():
    (everything,) = subsets(LABELS, None, 5)
    np.testing.assert_array_equal(everything, np.arange(44))
    for seed, chosen in enumerate(subsets(LABELS, 2, 3)):
        np.testing.assert_array_equal(chosen, draw(LABELS, 2, seed=seed))
    with pytest.raises(ConfigError, match="draws is 0"):
        subsets(LABELS, 2, 0)


def test_mean_and_standard_deviation():
    found = spread([{"top1": 60.0}, {"top1": 80.0}])
    assert found == {"top1": 70.0, "top1_std": 10.0}
