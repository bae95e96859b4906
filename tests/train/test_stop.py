import jax
import numpy as np
import pytest

from dinov3_jax.distributed import agree
from dinov3_jax.train.stop import stops_after

AHEAD = 2


@pytest.fixture
def notes(monkeypatch):
    """Stands in for what the processes share."""
    kept = {}
    monkeypatch.setattr(jax, "process_count", lambda: 3)
    monkeypatch.setattr(agree, "read_note", kept.get)
    monkeypatch.setattr(agree, "leave_note", kept.setdefault)
    return kept


def test_one_process_stops_at_once():
    assert not stops_after(3, wanted=False, ahead=AHEAD, name="run")
    assert stops_after(3, wanted=True, ahead=AHEAD, name="run")


@pytest.mark.parametrize("seed", range(50))
def test_all_stop_after_the_same_step(notes, seed):
    """Processes move in any order, as far as the metrics they wait for let them."""
    rng = np.random.default_rng(seed)
    asked = {process: int(rng.integers(1, 12)) for process in (0, 1, 2) if rng.random() < 0.7}
    done, stopped = [0, 0, 0], {}
    while len(stopped) < 3 and max(done) < 40:
        process = int(rng.integers(3))
        # Before step n is started, the metrics of step n - AHEAD - 1 have been read.
        if process in stopped or min(done) < done[process] - AHEAD:
            continue
        done[process] += 1
        wanted = process in asked and done[process] >= asked[process]
        if stops_after(done[process], wanted=wanted, ahead=AHEAD, name="run"):
            stopped[process] = done[process]
    assert len(stopped) == (3 if asked else 0)
    assert len(set(stopped.values())) <= 1
    if asked:
        assert min(asked.values()) < stopped[0] <= min(asked.values()) + 2 * AHEAD + 2


def test_runs_have_notes_of_their_own(notes):
    assert not stops_after(3, wanted=True, ahead=AHEAD, name="run")
    assert stops_after(9, wanted=False, ahead=AHEAD, name="run")
    assert not stops_after(9, wanted=False, ahead=AHEAD, name="another")
