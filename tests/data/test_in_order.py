import threading
import time

import pytest

from dinov3_jax.data.in_order import in_order


def test_results_come_in_order_whoever_is_first():
    def work(item):
        time.sleep(0.01 * (item % 3 == 0))
        return 10 * item

    assert list(in_order(work, range(20), ahead=4)) == [10 * i for i in range(20)]
    assert list(in_order(work, [], ahead=4)) == []


def test_threads_run_no_further_ahead_than_asked():
    begun, lock = [], threading.Lock()

    def work(item):
        with lock:
            begun.append(item)
        return item

    made = in_order(work, range(1000), ahead=5)
    assert [next(made), next(made)] == [0, 1]
    assert max(begun) <= 2 + 5
    made.close()


def test_what_fails_is_raised_in_its_place():
    made = in_order(lambda item: 1 / item, [1, 2, 0, 4], ahead=3)
    assert [next(made), next(made)] == [1.0, 0.5]
    with pytest.raises(ZeroDivisionError):
        next(made)
