"""The checkpoint benchmark at toy size."""

import jax
from etils import epath

from benchmarks import checkpoint
from dinov3_jax.train.state import init_state
from tests.tiny import tiny_config


def test_rows_and_what_is_left_on_disk(tmp_path):
    config = tiny_config()
    rows = checkpoint.measure(config, epath.Path(tmp_path), rounds=1)
    assert [row[0] for row in rows] == ["save, blocking", "save, background", "restore"]
    assert all(float(seconds) > 0 and float(rate) > 0 for _, seconds, rate in rows)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["1"]


def test_sizes():
    state = jax.jit(lambda: init_state(tiny_config(), jax.random.key(0)))()
    assert checkpoint.state_bytes(tiny_config()) == sum(x.nbytes for x in jax.tree.leaves(state))
    wanted = 1.5e9
    got = checkpoint.state_bytes(checkpoint.sized(wanted))
    assert wanted <= got < 1.2 * wanted  # a head more is 13 %
