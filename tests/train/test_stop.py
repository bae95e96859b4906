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


@pytest.mark.parametrize("seed", range(100))
def test_all_stop_after_the_same_step(notes, seed):
    """Processes move in any order, as far as the metrics they wait for let them."""
    rng = np.random.default_rng(seed)
    asked = {process: int(rng.integers(1, 12)) for process in (0, 1, 2) if rng.random() < 0.7}
    started, looked, stopped = [0, 0, 0], [0, 0, 0], {}
    speed = rng.dirichlet(np.ones(3))
    while len(stopped) < 3 and max(started) < 40:
        process = int(rng.choice(3, p=speed))
        if process in stopped:
            speed = np.ones(3) / 3
        elif looked[process] < started[process]:
            done = looked[process] = started[process]
            wanted = process in asked and done >= asked[process]
            if stops_after(done, wanted=wanted, ahead=AHEAD, name="run"):
                stopped[process] = done
        # Before a step is started, the metrics of the one AHEAD + 1 before it have been read.
        elif min(started) >= started[process] - AHEAD:
            started[process] += 1
    assert len(stopped) == (3 if asked else 0)
    assert len(set(stopped.values())) <= 1


def test_runs_have_notes_of_their_own(notes):
    assert not stops_after(3, wanted=True, ahead=AHEAD, name="run")
    assert stops_after(9, wanted=False, ahead=AHEAD, name="run")
    assert not stops_after(9, wanted=False, ahead=AHEAD, name="another")
