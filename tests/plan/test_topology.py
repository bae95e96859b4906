import pytest

from dinov3_jax.config import ConfigError
from dinov3_jax.plan.topology import parse_topology


@pytest.mark.parametrize(
    ("name", "chips", "compiles"),
    [
        ("v5p:8x8x4", 256, True),
        ("v4:4x4x4", 64, True),
        ("v5e:2x4", 8, True),
        ("v6e:16x16", 256, True),
        ("h100:64", 64, False),
    ],
)
def test_topologies(name, chips, compiles):
    topology = parse_topology(name)
    assert (topology.chips, topology.compiles) == (chips, compiles)
    assert topology.chip.flops > 1e14


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("v9:4x4", "topology 'v9:4x4'; wanted KIND:SHAPE"),
        ("v5p", "wanted KIND:SHAPE"),
        ("v5p:8x8", "has 2 sides; v5p takes 3, for instance v5p:4x4x4"),
        ("v5e:4x4x4", "has 3 sides; v5e takes 2"),
        ("h100:8x8", "has 2 sides; h100 takes 1, for instance h100:64"),
        ("v5e:0x4", "v5e takes 2"),
    ],
)
def test_topologies_that_do_not_exist(name, message):
    with pytest.raises(ConfigError, match=message):
        parse_topology(name)
