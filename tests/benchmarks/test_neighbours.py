import pytest

from benchmarks.kmeans import draw
from benchmarks.neighbours import COLUMNS, measure


def test_all_lists_find_all():
    pytest.importorskip("faiss", reason="no faiss: pip install -e .[index]")
    pool, _ = draw(2000, 16, 40)
    exact, few, all_lists = measure(pool, 50, 5, [1, 51])
    assert len(exact) == len(few) == len(COLUMNS)
    assert exact[0] == "exact"
    assert all_lists[0] == "51 of 51 lists"
    assert 0.3 < float(few[3]) < float(all_lists[3]) == 1
