"""Reading the batches of a few steps."""

import numpy as np

from dinov3_jax.data.pipeline import train_batches


def read(source, config, start=0, stop=5, **process):
    return list(train_batches(source, config, start_step=start, stop_step=stop, **process))


def assert_equal(got, want):
    assert len(got) == len(want)
    for a, b in zip(got, want):
        assert a.keys() == b.keys()
        for name in a:
            assert a[name].dtype == b[name].dtype, name
            assert np.array_equal(a[name], b[name]), name
