import numpy as np
import pytest
from PIL import Image

from benchmarks import unbalanced
from dinov3_jax.data.decode import decode
from dinov3_jax.data.sources import open_kind


def test_zipf_and_what_there_is():
    labels = np.repeat([0, 1, 2], [5, 100, 60])
    rows, classes = unbalanced.zipf_rows(labels, 80, 1.0, np.random.default_rng(0))
    assert classes.tolist() == [1, 2, 0]
    assert np.bincount(labels[rows]).tolist() == [5, 80, 40]  # 80, 80/2, and all of 80/3
    assert len(np.unique(rows)) == len(rows)


def test_a_copy_looks_alike_but_is_not_the_same():
    y, x = np.mgrid[:64, :96]
    image = np.stack([2 * x, 3 * y, x + y], -1).astype(np.uint8)
    copy = decode(unbalanced.near_copy(image)).astype(int)
    assert copy.shape == image.shape
    assert 1 < np.abs(copy - image).mean() < 12


def test_three_folders(tmp_path, monkeypatch, capsys):
    rng = np.random.default_rng(0)
    # The held-out folder lacks class a: its numbers are not those of the other.
    for place, sizes in (("data", {"a": 4, "b": 12, "c": 6}), ("test", {"b": 5, "c": 4})):
        for name, count in sizes.items():
            (tmp_path / place / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (8, 8, 3), np.uint8)
                Image.fromarray(pixels).save(tmp_path / place / name / f"{place}{i}.png")
    flags = ["--largest=10", "--exponent=1", "--copies=3", "--leaks=2", "--rare=2", "--seeds=3"]
    places = [f"--data={tmp_path}/data", f"--held-out={tmp_path}/test", f"--out={tmp_path}/out"]
    monkeypatch.setattr("sys.argv", ["unbalanced", *places, *flags])
    unbalanced.main()
    pool, seeds, against = (
        open_kind("shards", str(tmp_path / "out" / name), labels="none")
        for name in ("pool", "seeds", "against")
    )
    records = [pool[i] for i in range(len(pool))]
    marks = [r.id.rpartition("#")[2] for r in records if "#" in r.id]
    assert sorted(marks) == ["copy"] * 3 + ["leak"] * 2
    assert len(pool) == 10 + 5 + 3 + 5
    for record in records + [seeds[i] for i in range(3)]:
        assert pool.classes[record.label] == record.id.split("/")[-2]
    assert {seeds[i].label for i in range(3)} == {2}
    assert len(against) == 9 - 3


@pytest.mark.parametrize("side", [1, 8])
def test_copies_of_small_images(side):
    unbalanced.near_copy(np.zeros((side, side, 3), np.uint8))
