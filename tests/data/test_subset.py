import numpy as np
import pytest

from dinov3_jax.data.subset import subset


def test_records_labels_and_fingerprint(source):
    chosen = subset(source, np.array([3, 0]))
    assert len(chosen) == 2
    assert [chosen[i].id for i in range(2)] == [source[3].id, source[0].id]
    assert chosen.labels is None
    others = [subset(source, rows).fingerprint for rows in ([0, 3], [3], [3, 0, 1])]
    assert len({chosen.fingerprint, source.fingerprint, *others}) == 5
    assert chosen.fingerprint == subset(source, [3, 0]).fingerprint


@pytest.mark.parametrize("rows", [[-1], [99], []])
def test_rows_that_are_not_there(source, rows):
    with pytest.raises(ValueError, match="wanted numbers from 0 to 10"):
        subset(source, rows)
