"""What is timed is the same work."""

import numpy as np

from benchmarks.linear import make_training

SIZES = dict(arch="vit_tiny", crop=16, batch=4, classes=3, steps=2)


def test_both_programs_end_with_the_same_classifiers():
    for augment in (True, False):
        once, alone = (
            make_training(1, augment=augment, at_once=at_once, **SIZES)()
            for at_once in (True, False)
        )
        assert once.shape == (13, 2 * 192, 3)
        # The same float32 sums in products of other widths.
        np.testing.assert_allclose(once, alone, rtol=1e-4, atol=1e-6)
        assert len(np.unique(once[:, 0, 0])) == 13  # each rate leads elsewhere
