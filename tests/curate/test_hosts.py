"""`dinov3 curate` by two processes: the files of one, to the byte."""

import pytest

from tests.curate.test_curate import tree, write_sets
from tests.distributed import launcher


@pytest.mark.hosts
def test_two_processes_write_what_one_does(tmp_path):
    sets = write_sets(tmp_path / "sets")
    trees = []
    for count in (1, 2):
        folder = tmp_path / f"run{count}"
        folder.mkdir()
        command = ["tests.curate.worker", str(sets), str(folder / "out")]
        launcher.finish(command, folder, count=count, devices=1)
        trees.append(tree(folder / "out"))
    assert trees[0].keys() == trees[1].keys()
    assert {name for name in trees[0] if trees[0][name] != trees[1][name]} == set()
    assert "cluster/level2.centroids.npy" in trees[0]
    # A second run finds everything there, and one of another recipe is refused by both.
    launcher.finish(command, folder, count=2, devices=1)
    assert tree(folder / "out") == trees[1]
    with launcher.processes([*command, "--budget=15"], folder, count=2, devices=1) as running:
        assert [process.wait(timeout=600) for process in running] == [1, 1]
    for index in (0, 1):
        assert "budget: 16 there, 15 now" in launcher.said(folder, index)
    assert tree(folder / "out") == trees[1]
