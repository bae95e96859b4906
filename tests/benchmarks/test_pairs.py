"""Two processes that take turns."""

import functools
import os
import time

import pytest

from benchmarks import pairs


def sleeper(seconds, threads):
    assert len(os.sched_getaffinity(0)) == threads
    return functools.partial(time.sleep, seconds)


def broken(threads):
    raise RuntimeError("no such library")


def test_a_slower_program_has_the_longer_steps():
    makes = {"torch": functools.partial(sleeper, 0.2), "jax": functools.partial(sleeper, 0.05)}
    timings = pairs.alternate(makes, threads=1, rounds=3)
    assert [len(t.wall) for t in timings.values()] == [3, 3]
    # A sleep is never short; a busy machine makes it longer. It costs no CPU time.
    assert min(timings["torch"].wall) >= 0.2
    assert min(timings["jax"].wall) >= 0.05
    assert max(timings["torch"].cpu) < 0.1
    assert all(t.start_up > 0.05 for t in timings.values())


def test_ratios_are_of_steps_in_the_same_turn():
    assert pairs.ratios([2.0, 6.0, 3.0], [1.0, 2.0, 3.0]) == (2.0, 1.0, 3.0)


def test_row():
    slow = pairs.Timing(9.0, [2.0, 6.0, 3.0], [2.0, 2.0, 2.0])
    fast = pairs.Timing(4.0, [1.0, 2.0, 3.0], [1.0, 1.0, 2.0])
    row = pairs.row(2, {"torch": slow, "jax": fast})
    wanted = ["2", "3.00", "2.00", "2.00", "1.00 to 3.00", "2.00", "1.00 to 2.00", "9", "4"]
    assert row == wanted
    assert len(row) == len(pairs.COLUMNS)


def test_more_threads_than_processors():
    with pytest.raises(ValueError, match="threads is 10000, wanted 1 to"):
        pairs.alternate({}, threads=10_000, rounds=1)


def test_a_program_that_cannot_start_is_an_error(capfd):
    with pytest.raises(RuntimeError, match="process of 'torch' ended"):
        pairs.alternate({"torch": broken}, threads=1, rounds=1)
    assert "no such library" in capfd.readouterr().err
