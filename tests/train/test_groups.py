"""Groups spread over micro-batches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dinov3_jax.train.groups import join_groups, map_groups, split_groups

BATCH = {"images": jnp.arange(24).reshape(12, 2), "indices": jnp.arange(6)}


def test_split_takes_every_nth_group_and_join_undoes_it():
    parts = split_groups(BATCH, groups=6, parts=3)
    np.testing.assert_array_equal(parts["indices"], [[0, 3], [1, 4], [2, 5]])
    np.testing.assert_array_equal(parts["images"][1, :, 0], [4, 6, 16, 18])  # groups 1 and 4
    joined = join_groups(parts, groups=6, parts=3)
    jax.tree.map(np.testing.assert_array_equal, joined, BATCH)


@pytest.mark.parametrize("parts", [1, 2, 3, 6])
def test_map_keeps_the_order_whatever_the_function_makes(parts):
    """Two rows an image, one a group: outputs need not have the rows of the inputs."""

    def function(part):
        rows = jnp.repeat(part["images"], 2, axis=0)
        return rows, part["indices"] * 10 + part["images"].shape[0]

    rows, indices = map_groups(function, BATCH, groups=6, parts=parts)
    np.testing.assert_array_equal(rows, np.repeat(np.asarray(BATCH["images"]), 2, axis=0))
    np.testing.assert_array_equal(indices, np.arange(6) * 10 + 12 // parts)
